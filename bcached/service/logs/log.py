# SPDX-License-Identifier: GPL-2.0-only
"""Structured logs on stderr: key=value on a terminal, JSON otherwise.

structlog renders, the standard library's logging delivers: so what asyncio, uvloop and other libraries log
has the same form, at a level that can be changed while running. Under journald each line begins with its
priority ("<6>"). Messages are counted by level for the metrics. Each kind is rate limited (limits.py), and
writing never blocks (stream.py).
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

FINISH_S = 0.5  # how long the end may wait for stderr
HELD_BACK_REPORT_S = 1.0
SETTLE_S = 0.1

get_logger = structlog.stdlib.get_logger

_encoder = msgspec.json.Encoder(enc_hook=str)


class LogHandler(logging.StreamHandler["TextIO | LogStream"]):
    """Renders and counts every message of the process, and writes it to one stream."""

    def __init__(self, stream: TextIO | LogStream, environment: Mapping[str, str] = os.environ) -> None:
        super().__init__(stream)
        self.counts = dict.fromkeys(LEVELS, 0)
        self.limits = LogLimits()
        self._to_journal = is_journal(self.stream, environment.get("JOURNAL_STREAM", ""))

    def apply(self, level: str, form: str) -> None:
        """Set level and form (auto, console or json), at startup and at each reload."""
        on_terminal = self.stream.isatty()
        console = form == "console" or (form == "auto" and on_terminal)
        self.setFormatter(formatter(console, on_terminal, self._to_journal))
        logging.getLogger().setLevel(level.upper())

    def emit(self, record: logging.LogRecord) -> None:
        """Count one message, and write it unless its kind is over the rate limit."""
        name = record.levelname.lower()
        self.counts[name if name in self.counts else "info"] += 1
        if self.limits.admits(record, time.monotonic()):
            super().emit(record)

    @property
    def dropped(self) -> int:
        """Returns how many lines could not be written to stderr."""
        return self.stream.dropped if isinstance(self.stream, LogStream) else 0

    async def report_periodically(self) -> None:
        """Forever: report what was held back or lost, once that is possible."""
        while True:
            await asyncio.sleep(HELD_BACK_REPORT_S)
            self.report_held_back()

    def report_held_back(self, at_once: bool = False) -> None:
        """Log how many messages were held back, and how many lines were lost if stderr takes lines again."""
        for last, count, seconds in self.limits.ended(time.monotonic(), at_once):
            said = last.msg["event"] if isinstance(last.msg, dict) else last.getMessage()
            text = f"{count} more like this in the last {round(seconds) or 1} s"
            super().emit(_record(last.name, last.levelno, text, said=str(said)))
        stream = self.stream
        if isinstance(stream, LogStream) and stream.unreported and not stream.is_behind:
            count = stream.unreported
            text = f"{count} log lines were lost: stderr did not take them"
            line = self.format(_record(__name__, logging.WARNING, text, lost=count))
            stream.report_drops(line + self.terminator, count)

    async def settle(self) -> None:
        """Wait until what was logged so far is on stderr, if it takes lines, before readiness is reported."""
        if isinstance(self.stream, LogStream):
            await asyncio.to_thread(self.stream.drain, SETTLE_S)

    def finish(self, seconds: float = FINISH_S) -> None:
        """Write what was logged so far, as far as stderr takes it within so many seconds."""
        if isinstance(self.stream, LogStream):
            self.stream.drain(seconds / 2)
            self.report_held_back(at_once=True)
            self.stream.drain(seconds / 2)


def start(stream: TextIO | LogStream | None = None) -> LogHandler:
    """Returns the one handler of structlog and the standard library; apply() it before the first message."""
    handler = LogHandler(stream or sys.stderr or nowhere())
    handler.apply("info", "auto")
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False  # a message that cannot be logged must not end the daemon
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
    """Write what was logged so far: the process is about to end by os._exit()."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogHandler):
            handler.finish(seconds)


def replace_stderr() -> LogStream:
    """Make every later write to stderr by this process non-blocking.

    At exit the process waits for it briefly: the last lines are the ones that matter.
    """
    stream = LogStream(sys.stderr or nowhere())
    sys.stderr = cast(TextIO, stream)
    atexit.register(stream.drain, FINISH_S)
    return stream


def log_what_is_not_caught() -> None:
    """Log uncaught exceptions, also those of threads and finalizers, like everything else."""
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
    """Returns the formatter of messages, ours and libraries'."""
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
    """Escape control characters: a name with a line break in it could forge a line."""
    return {
        key: value if not isinstance(value, str) or value.isprintable() else repr(value)
        for key, value in event.items()
    }


def facts_last(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Order the keys: time, level, logger and message first, then the others."""
    head = {"timestamp": event.pop("timestamp"), "level": event.pop("level"), "logger": event.pop("logger")}
    return {**head, "message": event.pop("event"), **event}


def as_json(event: EventDict, **_: Any) -> str:
    """Returns one object on one line; values that JSON cannot represent as their str()."""
    return _encoder.encode(event).decode()


def with_priority(rendering: list[Processor]) -> Processor:
    """Returns a processor that puts journald's priority before the line."""

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
    """Returns /dev/null for a closed stderr; it takes descriptor 2, lest a device gets it and our lines."""
    return open(os.devnull, "w")


def is_journal(stream: TextIO | LogStream, journal_stream: str) -> bool:
    """Whether the stream is the one systemd connected to the journal, by its device and inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"
