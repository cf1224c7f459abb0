# SPDX-License-Identifier: GPL-2.0-only
import asyncio
import io
import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from bcached.service.logs.limits import BURST
from bcached.service.logs.log import LogHandler, get_logger, start
from bcached.service.logs.stream import LogStream


@pytest.fixture(autouse=True)
def _put_logging_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def handler(stream: io.StringIO) -> LogHandler:
    return start(stream)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_message_is_one_json_object_a_line(handler: LogHandler, stream: io.StringIO) -> None:
    get_logger("bcached.test").info("device opened", path="/dev/x\ny", size_bytes=4096, odd=object)
    (line,) = lines(stream)
    assert (line["message"], line["level"], line["logger"]) == ("device opened", "info", "bcached.test")
    assert (line["path"], line["size_bytes"]) == ("/dev/x\ny", 4096)
    assert line["odd"] == str(object)
    assert str(line["timestamp"]).endswith("Z")
    assert [*line] == ["timestamp", "level", "logger", "message", "path", "size_bytes", "odd"]


def test_libraries_speak_the_same_way(handler: LogHandler, stream: io.StringIO) -> None:
    logging.getLogger("asyncio").warning("slow: %d ms", 7, extra={"task": "x"})
    (line,) = lines(stream)
    assert line["task"] == "x"
    assert (line["message"], line["level"], line["logger"]) == ("slow: 7 ms", "warning", "asyncio")


def test_what_goes_wrong_in_the_loop_is_logged(handler: LogHandler, stream: io.StringIO) -> None:
    async def fail() -> None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "lost", "exception": ValueError("inside")}
        )

    asyncio.run(fail())
    (line,) = lines(stream)
    assert line["level"] == "error"
    assert "ValueError: inside" in str(line["exception"])


def test_the_level_can_be_changed_while_running(handler: LogHandler, stream: io.StringIO) -> None:
    log = get_logger("bcached.test")
    log.debug("silent")
    handler.apply("debug", "json")
    log.debug("told")
    handler.apply("error", "json")
    log.warning("silent again")
    assert [line["message"] for line in lines(stream)] == ["told"]


def test_messages_are_counted_by_level(handler: LogHandler) -> None:
    log = get_logger("bcached.test")
    log.info("one")
    log.debug("filtered, so not counted")
    log.error("two")
    logging.getLogger("uvloop").error("three")
    assert handler.counts == {"debug": 0, "info": 1, "warning": 0, "error": 2, "critical": 0}


def test_console_lines_are_for_people(handler: LogHandler, stream: io.StringIO) -> None:
    handler.apply("info", "console")
    get_logger("bcached.test").info("ready", socket="var/bcached.sock")
    assert "ready" in stream.getvalue()
    assert "socket=var/bcached.sock" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_name_with_a_line_break_forges_no_line(handler: LogHandler, stream: io.StringIO) -> None:
    handler.apply("info", "console")
    get_logger("bcached.test").info("seen\n<0>forged", peer="a\n<0>forged\x1b[2J")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_a_flood_is_cut_short_and_counted(handler: LogHandler, stream: io.StringIO) -> None:
    log = get_logger("bcached.test")
    for number in range(BURST + 812):
        log.warning("peer is odd", number=number)
    log.error("something else")
    assert [line["message"] for line in lines(stream)] == ["peer is odd"] * BURST + ["something else"]
    handler.report_held_back(at_once=True)
    last = lines(stream)[-1]
    assert (last["message"], last["said"]) == ("812 more like this in the last 1 s", "peer is odd")
    assert (last["level"], last["logger"]) == ("warning", "bcached.test")
    assert handler.counts["warning"] == BURST + 812


def test_an_exception_is_told_with_its_trace(handler: LogHandler, stream: io.StringIO) -> None:
    try:
        raise ZeroDivisionError("ours")
    except ZeroDivisionError:
        get_logger("bcached.test").exception("bug")
    (line,) = lines(stream)
    assert "Traceback" in str(line["exception"])


def test_the_journal_is_told_the_priority() -> None:
    read, write = os.pipe()
    with os.fdopen(read) as reader, os.fdopen(write, "w") as writer:
        status = os.fstat(write)
        root = LogHandler(writer, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        root.apply("info", "json")
        for level, priority in [(logging.INFO, "<6>"), (logging.WARNING, "<4>"), (logging.ERROR, "<3>")]:
            root.handle(logging.LogRecord("x", level, "f", 1, "said", None, None))
            line = reader.readline()
            assert line.startswith(priority + "{")
            assert json.loads(line[3:])["message"] == "said"


def test_another_stream_than_the_journals_gets_no_priority() -> None:
    read, write = os.pipe()
    with os.fdopen(read) as reader, os.fdopen(write, "w") as writer:
        root = LogHandler(writer, {"JOURNAL_STREAM": "1:1"})
        root.apply("info", "json")
        root.handle(logging.LogRecord("x", logging.INFO, "f", 1, "said", None, None))
        assert reader.readline().startswith("{")


PROGRAM = """
from bcached.service.logs.log import get_logger, start
start()
get_logger("bcached.test").info("ready", path="x")
"""


def test_auto_is_console_on_a_terminal_only() -> None:
    piped = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    assert json.loads(piped.stderr)["message"] == "ready"
    assert piped.stdout == b""
    controller, terminal = pty.openpty()
    subprocess.run([sys.executable, "-c", PROGRAM], stderr=terminal, check=True)
    os.close(terminal)
    shown = os.read(controller, 4096)
    os.close(controller)
    assert b"ready" in shown
    assert not shown.startswith(b"{")


def test_lost_lines_are_told_of_when_lines_are_taken_again(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        stream = LogStream(file, queue_bytes=300)
        handler = start(stream)
        while not stream.dropped:  # sooner or later the thread is behind
            stream.write("x" * 299 + "\n")
        lost = stream.dropped
        handler.finish(10)
        assert stream.unreported == 0
    last = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    assert last["message"] == f"{lost} log lines were lost: stderr did not take them"
    assert (last["lost"], last["level"]) == (lost, "warning")


LAST_WORDS = """
import sys, threading
from bcached.service.logs.log import finish, get_logger, log_what_is_not_caught, start, replace_stderr
replace_stderr()
start()
log_what_is_not_caught()
class Finalized:
    def __del__(self):
        raise ValueError("in a finalizer")
Finalized()
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
print("printed to stderr", file=sys.stderr)
raise LookupError("not caught")
"""


def test_what_nothing_catches_is_logged_like_everything_else() -> None:
    ended = subprocess.run([sys.executable, "-c", LAST_WORDS], capture_output=True, text=True)
    assert ended.returncode == 1
    told = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    assert [line["level"] for line in told] == ["error", "error", "critical"]
    for line, error in zip(told, ("ValueError", "ZeroDivisionError", "LookupError"), strict=True):
        assert error in line["exception"]
    assert "printed to stderr\n" in ended.stderr


def test_a_closed_stderr_is_survived() -> None:
    program = PROGRAM + "\nprint('alive')"
    result = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, program], capture_output=True
    )
    assert result.stdout == b"alive\n"
