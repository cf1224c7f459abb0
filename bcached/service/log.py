"""Logs: facts with keys on stderr, for people on a terminal and as JSON for everybody else.

structlog renders, the standard library carries: so what asyncio, uvloop and other libraries log comes out the
same way, at a level that can be changed while running. Under journald each line begins with its priority
("<6>"). Messages are counted by level for the metrics.
"""

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS = ("debug", "info", "warning", "error", "critical")
JOURNAL_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

get_logger = structlog.stdlib.get_logger

_encoder = msgspec.json.Encoder(enc_hook=str)


class LogHandler(logging.StreamHandler[TextIO]):
    """Where every message of the process goes: rendered, counted, written to one stream."""

    def __init__(self, stream: TextIO | None = None, environment: Mapping[str, str] = os.environ) -> None:
        super().__init__(stream or sys.stderr or nowhere())
        self.counts = dict.fromkeys(LEVELS, 0)
        self._to_journal = is_journal(self.stream, environment.get("JOURNAL_STREAM", ""))

    def apply(self, level: str, form: str) -> None:
        """Take level and form (auto, console or json), at the start and whenever they are reloaded."""
        on_terminal = self.stream.isatty()
        console = form == "console" or (form == "auto" and on_terminal)
        self.setFormatter(formatter(console, on_terminal, self._to_journal))
        logging.getLogger().setLevel(level.upper())

    def emit(self, record: logging.LogRecord) -> None:
        """Count and write one message."""
        name = record.levelname.lower()
        self.counts[name if name in self.counts else "info"] += 1
        super().emit(record)


def start(stream: TextIO | None = None) -> LogHandler:
    """Make structlog and the standard library write to one handler; apply() it before the first message."""
    handler = LogHandler(stream)
    handler.apply("info", "auto")
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False  # a closed stderr must not take the daemon down
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    return handler


def formatter(console: bool, colors: bool, to_journal: bool) -> logging.Formatter:
    """The rendering of one message, ours or a library's."""
    common: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if console:
        rendering += [one_line, structlog.dev.ConsoleRenderer(colors=colors)]
    else:
        rendering += [
            structlog.processors.format_exc_info,
            facts_last,
            structlog.processors.JSONRenderer(serializer=as_json),
        ]
    if to_journal:
        rendering = [with_priority(rendering)]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()], processors=[*common, *rendering]
    )


def one_line(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape control characters in what is said: a name with a line break in it could forge a line."""
    return {
        key: value if not isinstance(value, str) or value.isprintable() else repr(value)
        for key, value in event.items()
    }


def facts_last(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """First when, how grave, who and what, then the facts."""
    head = {"timestamp": event.pop("timestamp"), "level": event.pop("level"), "logger": event.pop("logger")}
    return {**head, "message": event.pop("event"), **event}


def as_json(event: EventDict, **_: Any) -> str:
    """One object on one line; what JSON has no words for, as its str()."""
    return _encoder.encode(event).decode()


def with_priority(rendering: list[Processor]) -> Processor:
    """Put journald's priority before the line."""

    def render(logger: WrappedLogger, method: str, event: EventDict) -> str:
        priority = JOURNAL_PRIORITIES.get(str(event.get("level")), 6)
        rendered: Any = event
        for processor in rendering:
            rendered = processor(logger, method, rendered)
        return f"<{priority}>{rendered}"

    return render


def nowhere() -> TextIO:
    """In place of a closed stderr; it takes descriptor 2, lest a device gets it and our words."""
    return open(os.devnull, "w")


def is_journal(stream: TextIO, journal_stream: str) -> bool:
    """Whether the stream is the one systemd connected to the journal: it says so by device and inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"
