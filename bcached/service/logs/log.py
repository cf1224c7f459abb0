"""Logs: facts with keys on stderr, for people on a terminal and as JSON for everybody else.

structlog renders, the standard library carries: so what asyncio, uvloop and other libraries log comes out the
same way, at a level that can be changed while running. Under journald each line begins with its priority
("<6>"). Messages are counted by level for the metrics. Of one kind only so many go out in a while, and none
is waited for (log_stream.py).
"""

import asyncio
import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from bcached.service.logs.limits import LogLimits
from bcached.service.logs.stream import LogStream

LEVELS = ("debug", "info", "warning", "error", "critical")
JOURNAL_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}

LAST_WORDS_S = 0.5  # how long the end may wait for stderr
LOOK_AFTER_S = 1.0
SETTLE_S = 0.1

get_logger = structlog.stdlib.get_logger

_encoder = msgspec.json.Encoder(enc_hook=str)


class LogHandler(logging.StreamHandler["TextIO | LogStream"]):
    """Where every message of the process goes: rendered, counted, written to one stream."""

    def __init__(self, stream: TextIO | LogStream, environment: Mapping[str, str] = os.environ) -> None:
        super().__init__(stream)
        self.counts = dict.fromkeys(LEVELS, 0)
        self.limits = LogLimits()
        self._to_journal = is_journal(self.stream, environment.get("JOURNAL_STREAM", ""))

    def apply(self, level: str, form: str) -> None:
        """Take level and form (auto, console or json), at the start and whenever they are reloaded."""
        on_terminal = self.stream.isatty()
        console = form == "console" or (form == "auto" and on_terminal)
        self.setFormatter(formatter(console, on_terminal, self._to_journal))
        logging.getLogger().setLevel(level.upper())

    def emit(self, record: logging.LogRecord) -> None:
        """Count one message, and write it unless there were too many like it."""
        name = record.levelname.lower()
        self.counts[name if name in self.counts else "info"] += 1
        if self.limits.admits(record, time.monotonic()):
            super().emit(record)

    @property
    def dropped(self) -> int:
        """How many lines stderr has not taken."""
        return self.stream.dropped if isinstance(self.stream, LogStream) else 0

    async def look_after(self) -> None:
        """For ever: tell of what was held back or lost, once that is possible."""
        while True:
            await asyncio.sleep(LOOK_AFTER_S)
            self.tell_of_the_rest()

    def tell_of_the_rest(self, at_once: bool = False) -> None:
        """Tell how many messages were held back, and how many lines were lost if stderr takes lines again."""
        for last, count, seconds in self.limits.ended(time.monotonic(), at_once):
            said = last.msg["event"] if isinstance(last.msg, dict) else last.getMessage()
            text = f"{count} more like this in the last {round(seconds) or 1} s"
            super().emit(_record(last.name, last.levelno, text, said=str(said)))
        stream = self.stream
        if isinstance(stream, LogStream) and stream.untold and not stream.is_behind:
            count = stream.untold
            text = f"{count} log lines were lost: stderr did not take them"
            line = self.format(_record(__name__, logging.WARNING, text, lost=count))
            stream.tell_of_drops(line + self.terminator, count)

    async def settle(self) -> None:
        """Have what was logged so far on stderr, if it takes lines, before something else tells of it."""
        if isinstance(self.stream, LogStream):
            await asyncio.to_thread(self.stream.drain, SETTLE_S)

    def finish(self, seconds: float = LAST_WORDS_S) -> None:
        """Get out what was logged so far, as far as stderr takes it in so long."""
        if isinstance(self.stream, LogStream):
            self.stream.drain(seconds / 2)
            self.tell_of_the_rest(at_once=True)
            self.stream.drain(seconds / 2)


def start(stream: TextIO | LogStream | None = None) -> LogHandler:
    """Make structlog and the standard library write to one handler; apply() it before the first message."""
    handler = LogHandler(stream or sys.stderr or nowhere())
    handler.apply("info", "auto")
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False  # what cannot be logged must not take the daemon down
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


def finish(seconds: float) -> None:
    """Get out what was logged so far: the process is about to end without Python's help."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogHandler):
            handler.finish(seconds)


def take_stderr() -> LogStream:
    """Let nothing that this process writes to stderr from here on be waited for.

    At the end it is, for a moment: the last words are the ones that matter.
    """
    stream = LogStream(sys.stderr or nowhere())
    sys.stderr = cast(TextIO, stream)
    atexit.register(stream.drain, LAST_WORDS_S)
    return stream


def log_what_is_not_caught() -> None:
    """Have errors that end a thread, or come to light in a finalizer, logged like everything else."""
    log = get_logger(__name__)
    sys.excepthook = lambda kind, error, trace: log.critical(
        "a bug in bcached", exc_info=(kind, error, trace)
    )
    threading.excepthook = lambda it: log.error(
        "a bug in bcached ended a thread", exc_info=(it.exc_type, it.exc_value, it.exc_traceback)
    )
    sys.unraisablehook = lambda it: log.error(
        it.err_msg or "an error in a finalizer",
        object=repr(it.object),
        exc_info=(it.exc_type, it.exc_value, it.exc_traceback),
    )


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


def _record(name: str, level: int, text: str, **facts: object) -> logging.LogRecord:
    record = logging.LogRecord(name, level, __file__, 0, text, None, None)
    record.__dict__ |= facts
    return record


def nowhere() -> TextIO:
    """In place of a closed stderr; it takes descriptor 2, lest a device gets it and our words."""
    return open(os.devnull, "w")


def is_journal(stream: TextIO | LogStream, journal_stream: str) -> bool:
    """Whether the stream is the one systemd connected to the journal: it says so by device and inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"
