# SPDX-License-Identifier: GPL-2.0-only
"""The rules, on histories of a few calls: what each of them finds, and what is allowed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from history.record import ALL_NAMES, Flag, Kind, Outcome
from history.rules import NEVER, RECORD, History, Life, rows_of

LIFE = Life(-1)
VISIBLE = "an older value than one that was visible"
DURABLE = "an older value than one that was durable"
OWN = "an older value than the reader's own"
UNKNOWN_VALUE = "a value that was never stored under this name"
WAITED, BOTH = Flag.WAITED, Flag.WAITED | Flag.DURABLE


class Call(NamedTuple):
    """One record, at small times."""

    worker: int
    kind: Kind
    began: int
    ended: int
    token: int = 0
    flags: int = 0
    name: int = 0
    outcome: Outcome = Outcome.DONE


def stored(worker: int, began: int, ended: int, token: int, flags: int = WAITED, name: int = 0) -> Call:
    return Call(worker, Kind.SET, began, ended, token, flags, name)


def read(worker: int, began: int, ended: int, token: int, name: int = 0) -> Call:
    return Call(worker, Kind.GET, began, ended, token, 0, name)


def deleted(worker: int, began: int, ended: int, name: int = 0) -> Call:
    return Call(worker, Kind.DELETE, began, ended, 0, WAITED, name)


def added(worker: int, began: int, ended: int, token: int, outcome: Outcome = Outcome.DONE) -> Call:
    return Call(worker, Kind.ADD, began, ended, token, WAITED, 0, outcome)


def faults(calls: Sequence[Call], lives: Sequence[Life] = (LIFE,), names: int = 3) -> dict[str, int]:
    """The rules that the calls break, and how often; each worker's in the order given."""
    rows = []
    for worker in {call.worker for call in calls}:
        own = [call for call in calls if call.worker == worker]
        records = [
            (call.began, call.ended, call.token, call.name, call.kind, call.outcome, call.flags)
            for call in own
        ]
        rows.append(rows_of(np.array(records, RECORD).tobytes(), worker, 0))
    return {one.rule: one.count for one in History(np.concatenate(rows), lives, names).faults()}


def test_a_value_may_be_read_until_a_later_one_is_visible() -> None:
    sets = [stored(1, 10, 20, 1), stored(2, 30, 40, 2)]
    assert faults([*sets, read(3, 39, 50, 1), read(4, 35, 39, 2)]) == {}
    assert faults([*sets, read(3, 41, 50, 1)]) == {VISIBLE: 1}


def test_of_sets_that_overlap_either_may_be_the_later_one() -> None:
    sets = [stored(1, 10, 35, 1), stored(2, 30, 40, 2)]
    assert faults([*sets, read(3, 50, 60, 1), read(4, 50, 60, 2)]) == {}


def test_a_set_that_does_not_wait_may_be_visible_later() -> None:
    sets = [stored(1, 10, 20, 1, flags=0), stored(2, 30, 40, 2)]
    assert faults([*sets, read(3, 50, 60, 1)]) == {}
    assert faults([*sets, read(4, 21, 25, 1), read(3, 50, 60, 1)]) == {VISIBLE: 1}  # another has read it


def test_what_another_process_has_read_is_visible() -> None:
    sets = [stored(1, 10, 20, 1), stored(2, 30, 40, 2, flags=0)]
    assert faults([*sets, read(2, 41, 42, 2), read(3, 50, 60, 1)]) == {}  # its own writer may be ahead
    assert faults([*sets, read(4, 41, 42, 2), read(3, 50, 60, 1)]) == {VISIBLE: 1}


def test_a_worker_stores_in_order() -> None:
    sets = [stored(1, 10, 20, 1, flags=0), stored(1, 21, 30, 2)]
    assert faults([*sets, read(3, 40, 50, 1)]) == {VISIBLE: 1}
    assert faults([*sets, read(3, 25, 50, 1)]) == {}


def test_a_worker_reads_its_own_value_at_once() -> None:
    sets = [stored(2, 1, 5, 1), stored(1, 10, 20, 2, flags=0)]
    assert faults([*sets, read(3, 30, 40, 1)]) == {}
    assert faults([*sets, read(1, 30, 40, 1)]) == {OWN: 1}
    twice = [stored(1, 10, 20, 1, flags=0), stored(1, 21, 30, 2, flags=0)]
    assert faults([*twice, read(1, 31, 40, 1)]) == {OWN: 1}
    assert faults([*twice, read(1, 31, 40, 2)]) == {}


def test_a_deletion_is_a_write() -> None:
    assert faults([stored(1, 10, 20, 1), deleted(2, 30, 40), read(3, 50, 60, 1)]) == {VISIBLE: 1}
    assert faults([stored(1, 10, 20, 1), deleted(2, 15, 40), read(3, 50, 60, 1)]) == {}
    other = [stored(1, 10, 20, 1, name=2), deleted(2, 30, 40)]
    assert faults([*other, read(3, 50, 60, 1, name=2)]) == {}
    everything = deleted(2, 30, 40, name=ALL_NAMES)
    assert faults([stored(1, 10, 20, 1, name=2), everything, read(3, 50, 60, 1, name=2)]) == {VISIBLE: 1}


def test_what_was_stored_under_another_name_or_later_is_not_read() -> None:
    assert faults([stored(1, 10, 20, 1), read(3, 50, 60, 1, name=2)]) == {UNKNOWN_VALUE: 1}
    assert faults([read(3, 50, 60, 7)]) == {UNKNOWN_VALUE: 1}
    early = [stored(1, 30, 40, 1), read(3, 10, 20, 1)]
    assert faults(early) == {"a value before it was stored": 1}
    wrong = Call(3, Kind.GET, 1, 2, 0, Flag.WRONG)
    assert faults([wrong]) == {"a value of another name, or a part of one": 1}


LIVES = (Life(-1, 100, 101), Life(110))


def test_a_kill_takes_back_what_was_not_durable() -> None:
    sets = [stored(1, 10, 20, 1), stored(2, 30, 40, 2)]
    assert faults([*sets, read(3, 120, 130, 1)], LIVES) == {}
    assert faults([*sets, read(3, 95, 130, 1)], LIVES) == {}  # begun before the kill, and repeated
    assert faults([*sets, read(3, 50, 60, 1)], LIVES) == {VISIBLE: 1}
    seen = [*sets, read(4, 120, 130, 2)]
    assert faults([*seen, read(3, 140, 150, 1)], LIVES) == {VISIBLE: 1}


def test_a_set_that_outlasts_a_kill_may_be_repeated_over_a_later_one() -> None:
    sets = [stored(1, 10, 125, 1), read(4, 20, 30, 1), stored(2, 112, 118, 2)]
    assert faults([*sets, read(3, 124, 126, 1), read(2, 124, 126, 1)], LIVES) == {}
    later = [*sets, stored(2, 130, 140, 3)]
    assert faults([*later, read(3, 150, 160, 1)], LIVES) == {VISIBLE: 1}
    assert faults([*later, read(2, 150, 160, 1)], LIVES) == {VISIBLE: 1, OWN: 1}


def test_a_kill_does_not_take_back_what_was_durable() -> None:
    lasting = [stored(1, 10, 20, 1), stored(2, 30, 40, 2, flags=BOTH)]
    assert faults([*lasting, read(3, 120, 130, 1)], LIVES) == {DURABLE: 1}
    flush = Call(4, Kind.FLUSH, 50, 60, 0, BOTH)
    sets = [stored(1, 10, 20, 1), stored(2, 30, 40, 2)]
    assert faults([*sets, flush, read(3, 120, 130, 1)], LIVES) == {DURABLE: 1}
    early = flush._replace(began=35)  # may have been before the commit
    assert faults([*sets, early, read(3, 120, 130, 1)], LIVES) == {}


def test_what_was_not_committed_when_the_daemon_was_killed_does_not_appear_later() -> None:
    sets = [stored(1, 10, 20, 1, flags=0), stored(2, 120, 130, 2)]
    assert faults([*sets, read(3, 140, 150, 1)], LIVES) == {VISIBLE: 1}
    repeated = [stored(1, 10, 115, 1, flags=0), sets[1]]
    assert faults([*repeated, read(3, 140, 150, 1)], LIVES) == {}


def test_of_adds_that_overlap_one_wins() -> None:
    both = [added(1, 10, 30, 1), added(2, 20, 40, 2)]
    rule = "two adds at the same time have won"
    assert faults(both) == {rule: 1}
    assert faults([both[0], added(2, 20, 40, 2, Outcome.NOT)]) == {}
    assert faults([both[0], added(2, 31, 40, 2)]) == {}  # the first may have been evicted
    assert faults([*both, deleted(3, 15, 35)]) == {}
    failed = Call(4, Kind.GET, 5, NEVER, outcome=Outcome.UNKNOWN)
    assert faults([*both, failed, read(4, 15, 18, 0)._replace(outcome=Outcome.NOT)]) == {}
