# SPDX-License-Identifier: GPL-2.0-only
"""free_inc: a bucket leaves only after a prio write has covered it, however the two take turns."""

from random import Random

import pytest

from bcached.state.buckets.free_inc import FreeInc


def test_nothing_is_ready_before_a_prio_write() -> None:
    fifo = FreeInc(4)
    fifo.extend([7, 8])
    assert (fifo.ready, fifo.awaiting_prios, fifo.space) == (0, 2, 2)
    with pytest.raises(AssertionError, match="before its gen was durable"):
        fifo.pop(7)


def test_a_prio_write_makes_ready_what_its_snapshot_covered_and_no_more() -> None:
    fifo = FreeInc(4)
    fifo.extend([7, 8])
    covered = fifo.entered
    fifo.extend([9])  # while the prio write runs
    fifo.gens_became_durable(covered)
    assert (fifo.ready, fifo.awaiting_prios) == (2, 1)
    fifo.pop(7)
    fifo.pop(8)
    with pytest.raises(AssertionError):
        fifo.pop(9)


def test_a_late_prio_write_takes_nothing_back() -> None:
    fifo = FreeInc(4)
    fifo.extend([7, 8])
    fifo.gens_became_durable(2)
    fifo.gens_became_durable(1)
    assert fifo.ready == 2


def test_buckets_leave_in_the_order_in_which_they_came() -> None:
    fifo = FreeInc(2)
    fifo.extend([7, 8])
    fifo.need_no_prios()
    with pytest.raises(AssertionError, match="not the head"):
        fifo.pop(8)


def test_more_than_fit_are_refused() -> None:
    with pytest.raises(AssertionError, match="than fit"):
        FreeInc(1).extend([7, 8])


def test_a_prio_write_cannot_cover_buckets_that_never_entered() -> None:
    with pytest.raises(AssertionError, match="had not entered"):
        FreeInc(2).gens_became_durable(1)


@pytest.mark.parametrize("seed", range(20))
def test_at_any_time_ready_are_those_that_entered_before_the_last_snapshot(seed: int) -> None:
    chance = Random(seed)
    fifo, entered, durable, left = FreeInc(8), 0, 0, 0
    for _ in range(300):
        step = chance.randrange(3)
        if step == 0 and fifo.space:
            count = chance.randint(1, fifo.space)
            fifo.extend(range(entered, entered + count))
            entered += count
        elif step == 1:
            durable = entered if chance.random() < 0.5 else durable
            fifo.gens_became_durable(durable)
        elif fifo.ready:
            fifo.pop(left)
            left += 1
        assert fifo.ready == durable - left
        assert list(fifo) == list(range(left, entered))
