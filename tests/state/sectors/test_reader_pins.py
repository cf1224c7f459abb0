# SPDX-License-Identifier: GPL-2.0-only
"""Pins of readers: all keys of a request or none, and as many ends as beginnings."""

import pytest

from bcached.errors import LimitExceeded, NotReserved, StaleKey
from bcached.keys import Key, Pointer
from bcached.state.buckets.bucket_table import State
from bcached.state.sectors.reservations import Holder
from bcached.state.sectors.sector_allocator import SectorAllocator
from instruments.samples.bucket_states import force_state
from instruments.samples.small_member import BUCKET_SECTORS, GEOMETRY, an_allocator

FIRST, SECOND = 300, 301


def with_data() -> SectorAllocator:
    sectors = an_allocator()
    for bucket in (FIRST, SECOND):
        force_state(sectors.members[0].table, bucket, State.CLEAN)
        sectors.members[0].table.sectors[bucket] = 8
    return sectors


def holder(limit: int = 10) -> Holder:
    return Holder("reader", 10, GEOMETRY, reads_limit=limit)


def key(bucket: int, gen: int = 0) -> Key:
    return Key(1, 0, 8, False, (Pointer(0, bucket * BUCKET_SECTORS, gen),))


def pins(sectors: SectorAllocator) -> list[int]:
    return [sectors.members[0].table.pins[bucket] for bucket in (FIRST, SECOND)]


def test_a_key_pinned_twice_is_unpinned_twice() -> None:
    sectors, reader = with_data(), holder()
    sectors.readers.pin(reader, [key(FIRST), key(FIRST)])
    sectors.readers.unpin(reader, [key(FIRST)])
    assert pins(sectors) == [1, 0]
    sectors.readers.unpin(reader, [key(FIRST)])
    assert pins(sectors) == [0, 0]
    with pytest.raises(NotReserved):
        sectors.readers.unpin(reader, [key(FIRST)])


def test_a_stale_key_leaves_all_unpinned() -> None:
    sectors, reader = with_data(), holder()
    with pytest.raises(StaleKey):
        sectors.readers.pin(reader, [key(FIRST), key(SECOND, gen=1)])
    assert pins(sectors) == [0, 0]


def test_more_than_the_limit_are_refused_and_none_is_pinned() -> None:
    sectors, reader = with_data(), holder(limit=1)
    with pytest.raises(LimitExceeded):
        sectors.readers.pin(reader, [key(FIRST), key(SECOND)])
    assert pins(sectors) == [0, 0]


def test_unpinning_what_is_not_pinned_changes_nothing() -> None:
    sectors, reader = with_data(), holder()
    sectors.readers.pin(reader, [key(FIRST)])
    with pytest.raises(NotReserved):
        sectors.readers.unpin(reader, [key(FIRST), key(SECOND)])
    assert pins(sectors) == [1, 0]
    sectors.readers.unpin(reader, [key(FIRST)])
    assert pins(sectors) == [0, 0]


def test_the_pins_of_one_reader_are_not_those_of_another() -> None:
    sectors, reader, other = with_data(), holder(), holder()
    sectors.readers.pin(reader, [key(FIRST)])
    sectors.readers.pin(other, [key(FIRST), key(SECOND)])
    sectors.readers.end(other)
    assert pins(sectors) == [1, 0]
