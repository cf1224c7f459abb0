# SPDX-License-Identifier: GPL-2.0-only
"""The unused list: buckets of which an old node may still hold a pointer serve only as data."""

import pytest

from bcached.state.buckets.bucket_table import BucketTable
from bcached.state.buckets.unused_list import UnusedList


def a_list(*for_data: int, every_need: tuple[int, ...] = (), capacity: int = 8) -> UnusedList:
    unused = UnusedList(capacity)
    for bucket in every_need:
        unused.append(bucket, for_data=False)
    for bucket in for_data:
        unused.append(bucket, for_data=True)
    return unused


def test_each_fifo_has_the_capacity_for_itself() -> None:
    unused = a_list(5, every_need=(3,), capacity=1)
    assert unused.is_full(for_data=True)
    assert unused.is_full(for_data=False)
    assert len(unused) == 2
    with pytest.raises(AssertionError):
        unused.append(6, for_data=True)


def test_of_the_tainted_only_as_many_are_ready_as_data_has_room_for() -> None:
    unused = a_list(5, 6, 7)
    assert [unused.ready_for_data(room) for room in (0, 2, 9)] == [0, 2, 3]
    assert unused.only_for_data == 3
    assert unused.is_head_tainted


def test_a_prio_write_lifts_those_retired_first_up_to_one_still_tainted() -> None:
    table = BucketTable(16, 1)
    unused = a_list(5, 6, 7)
    table.bump(6)
    table.tainted[6] = True
    unused.lift(table)
    assert (unused.only_for_data, unused.is_head_tainted) == (2, False)
    assert [unused.ready_for_data(room) for room in (0, 1)] == [1, 2]
    unused.pop_for_data(5)
    assert unused.is_head_tainted


def test_lifted_completely_all_are_ready_whatever_the_room() -> None:
    unused = a_list(5, 6)
    unused.lift(BucketTable(16, 1))
    assert unused.ready_for_data(0) == 2
    assert unused.only_for_data == 0


def test_only_the_head_of_a_fifo_can_be_removed() -> None:
    unused = a_list(5, 6, every_need=(3, 4))
    with pytest.raises(AssertionError, match="not the head"):
        unused.pop(4)
    with pytest.raises(AssertionError, match="not the head"):
        unused.pop_for_data(6)
    unused.pop(3)
    unused.pop_for_data(5)
    assert len(unused) == 2
