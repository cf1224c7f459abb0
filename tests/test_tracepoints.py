# SPDX-License-Identifier: GPL-2.0-only
"""Events reach those that listen, in order; what a slow listener does not take is dropped and counted."""

import pytest

from bcached import tracepoints
from bcached.tracepoints import EVENTS, Event, Tracepoints


def ticking() -> Tracepoints:
    """Tracepoints whose clock counts its readings."""
    times = iter(range(1, 1000))
    return Tracepoints(lambda: next(times))


def test_a_listener_gets_the_events_it_wants_in_order() -> None:
    trace = ticking()
    both, one = trace.listen(EVENTS), trace.listen(["bcache_alloc"])
    trace.emit("bcache_alloc", device=0, sector=8, reserve="none")
    trace.emit("bcache_journal_full")
    expected = [
        Event(1, "bcache_alloc", {"device": 0, "sector": 8, "reserve": "none"}),
        Event(2, "bcache_journal_full", {}),
    ]
    assert both.take(10) == (expected, 0)
    assert one.take(10) == (expected[:1], 0)
    assert both.take(10) == ([], 0)


def test_nothing_is_kept_for_one_that_stopped() -> None:
    trace = ticking()
    listener = trace.listen(EVENTS)
    trace.stop(listener)
    assert not trace.listeners
    trace.emit("bcache_journal_full")
    assert listener.take(10) == ([], 0)


def test_what_is_not_taken_in_time_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracepoints, "EVENTS_KEPT", 3)
    trace = ticking()
    slow, quick = trace.listen(EVENTS), trace.listen(EVENTS)
    for _ in range(5):
        trace.emit("bcache_journal_full")
        assert len(quick.take(10)[0]) == 1
    taken, dropped = slow.take(2)
    assert ([event.time_ns for event in taken], dropped) == ([1, 2], 2)
    assert trace.dropped == 2
    trace.emit("bcache_journal_full")
    taken, dropped = slow.take(9)
    assert ([event.time_ns for event in taken], dropped) == ([3, 6], 0)


def test_a_limit_ends_it() -> None:
    trace = ticking()
    listener = trace.listen(EVENTS, limit=2)
    for _ in range(5):
        trace.emit("bcache_journal_full")
    assert not listener.is_done, "they are not taken yet"
    taken, dropped = listener.take(10)
    assert ([event.time_ns for event in taken], dropped) == ([1, 2], 0)
    assert listener.is_done
