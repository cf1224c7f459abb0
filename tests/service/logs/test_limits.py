# SPDX-License-Identifier: GPL-2.0-only
import logging

from bcached.service.logs.limits import BURST, WINDOW_S, LogLimits


def record(line: int = 1, level: int = logging.WARNING, text: str = "said") -> logging.LogRecord:
    return logging.LogRecord("bcached.test", level, "there.py", line, text, None, None)


def admitted(limits: LogLimits, count: int, now_s: float, line: int = 1) -> int:
    return sum(limits.admits(record(line, text=str(n)), now_s) for n in range(count))


def test_the_first_of_a_kind_go_out_and_the_others_are_counted() -> None:
    limits = LogLimits()
    assert admitted(limits, BURST + 812, 5.0) == BURST
    assert limits.held_back == 812
    assert limits.ended(5.0) == []
    ((last, count, seconds),) = limits.ended(5.0 + WINDOW_S)
    assert (last.getMessage(), count, seconds) == (str(BURST + 811), 812, WINDOW_S)
    assert limits.ended(5.0 + 2 * WINDOW_S) == []


def test_a_kind_is_a_place_in_the_code_and_not_what_is_said() -> None:
    limits = LogLimits()
    assert admitted(limits, 2 * BURST, 0.0, line=1) == BURST
    assert admitted(limits, 2 * BURST, 0.0, line=2) == BURST


def test_after_a_while_a_kind_may_speak_again() -> None:
    limits = LogLimits()
    assert admitted(limits, BURST, 0.0) == BURST
    assert admitted(limits, BURST, WINDOW_S) == BURST
    assert admitted(limits, 1, WINDOW_S) == 0
    limits.ended(2 * WINDOW_S)
    assert admitted(limits, BURST, 2 * WINDOW_S) == BURST


def test_what_is_held_back_at_the_end_is_told_at_once() -> None:
    limits = LogLimits()
    admitted(limits, BURST + 3, 0.0)
    ((_, count, _),) = limits.ended(0.1, at_once=True)
    assert count == 3


def test_what_ends_the_daemon_is_never_held_back() -> None:
    limits = LogLimits()
    assert all(limits.admits(record(level=logging.CRITICAL), 0.0) for _ in range(10 * BURST))
