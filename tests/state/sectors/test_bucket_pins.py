# SPDX-License-Identifier: GPL-2.0-only
"""Pins: a bucket changes its state with the last one, and a quarantined bucket stays so until then."""

import pytest

from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.sectors.bucket_pins import BucketPins
from instruments.samples.bucket_states import force_state
from instruments.samples.small_member import a_member, use

BUCKET = 300
HERE = (0, BUCKET)


def pinned(state: State, pins: int) -> tuple[MemberBuckets, BucketPins]:
    """A member whose bucket has these pins, and its pins."""
    member = a_member()
    force_state(member.table, BUCKET, state)
    member.table.pins[BUCKET] = pins
    return member, BucketPins([member])


def test_the_last_pin_gives_the_bucket_the_state_of_its_contents() -> None:
    member, pins = pinned(State.HELD, 3)
    use(member, BUCKET, dirty=True)
    pins.drop(HERE, 2)
    assert pins.state_of(HERE) == State.HELD
    pins.drop(HERE, 1)
    assert pins.state_of(HERE) == State.DIRTY


def test_pins_may_rise_by_a_negative_count() -> None:
    member, pins = pinned(State.HELD, 1)
    pins.drop(HERE, -1)  # a piece became two
    assert member.table.pins[BUCKET] == 2
    assert pins.state_of(HERE) == State.HELD


def test_a_reader_holds_a_bucket_with_data() -> None:
    member, pins = pinned(State.CLEAN, 0)
    member.table.sectors[BUCKET] = 1
    pins.add_reader(HERE)
    assert pins.state_of(HERE) == State.HELD
    pins.drop(HERE, 1)
    assert pins.state_of(HERE) == State.CLEAN


@pytest.mark.parametrize("state", [State.FREE, State.FREE_INC, State.BTREE])
def test_no_reader_can_pin_a_bucket_without_data(state: State) -> None:
    _, pins = pinned(state, 0)
    with pytest.raises(AssertionError, match="holds no data"):
        pins.add_reader(HERE)


def test_a_bucket_in_quarantine_stays_there_until_its_last_pin() -> None:
    member, pins = pinned(State.HELD, 2)
    use(member, BUCKET, dirty=False)
    pins.quarantined[HERE] += 1
    pins.settle(HERE)
    assert pins.state_of(HERE) == State.QUARANTINE
    pins.drop(HERE, 1)
    assert pins.state_of(HERE) == State.QUARANTINE
    del pins.quarantined[HERE]
    pins.drop(HERE, 1)
    assert pins.state_of(HERE) == State.CLEAN
