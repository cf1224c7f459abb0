# SPDX-License-Identifier: GPL-2.0-only
from collections import Counter

import pytest

from bcached.state.buckets.geometry import Geometry
from bcached.state.buckets.reserves import Reserve, Reserves
from instruments.samples.small_member import GEOMETRY

SIZES = {Reserve.PRIO: 1, Reserve.BTREE: 7, Reserve.MOVINGGC: 1, Reserve.NONE: 1}


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def empty_reserves(clock: Clock | None = None) -> Reserves:
    return Reserves(GEOMETRY, clock or Clock())


def full_reserves() -> Reserves:
    """Buckets 10, 11, ... in the order in which they were pushed."""
    reserves = empty_reserves()
    for bucket in range(10, 10 + reserves.room()):
        reserves.push(bucket)
    return reserves


def contents(reserves: Reserves) -> dict[Reserve, list[int]]:
    return {reserve: list(reserves.lists[reserve]) for reserve in Reserve}


def test_prios_come_first_then_one_for_moving_then_nodes_then_everybody() -> None:
    reserves = empty_reserves()
    order = [reserves.push(bucket) for bucket in range(reserves.room())]
    expected = (Reserve.PRIO, Reserve.MOVINGGC, Reserve.BTREE, Reserve.NONE)
    assert order == [reserve for reserve in expected for _ in range(SIZES[reserve])]


def test_a_push_goes_to_the_first_reserve_that_lacks_one() -> None:
    reserves = full_reserves()
    reserves.lists[Reserve.NONE].clear()
    reserves.lists[Reserve.BTREE].pop()
    assert reserves.push(50) is Reserve.BTREE
    reserves.lists[Reserve.PRIO].clear()
    assert reserves.push(51) is Reserve.PRIO
    assert reserves.push(52) is Reserve.NONE


def test_full_reserves_take_nothing() -> None:
    reserves = full_reserves()
    before = contents(reserves)
    assert reserves.room() == 0
    with pytest.raises(AssertionError):
        reserves.push(99)
    for reserve in Reserve:
        assert reserves.room_in(reserve) == 0
        with pytest.raises(AssertionError):
            reserves.push_to(reserve, 99)
    assert contents(reserves) == before


@pytest.mark.parametrize("reserve", list(Reserve), ids=lambda reserve: reserve.name)
def test_everybody_takes_from_none_first_then_from_his_own_oldest_first(reserve: Reserve) -> None:
    reserves = full_reserves()
    own = list(reserves.lists[reserve])
    expected = list(reserves.lists[Reserve.NONE]) + (own if reserve is not Reserve.NONE else [])
    assert reserves.available(reserve) == len(expected)
    taken = []
    while reserves.has(reserve):
        taken.append(reserves.take(reserve))
    assert taken == expected
    assert reserves.available(reserve) == 0


@pytest.mark.parametrize("reserve", list(Reserve), ids=lambda reserve: reserve.name)
def test_nobody_takes_from_anothers_reserve(reserve: Reserve) -> None:
    reserves = full_reserves()
    while reserves.take(reserve) is not None:
        pass
    for other in Reserve:
        if other not in (reserve, Reserve.NONE):
            assert len(reserves.lists[other]) == SIZES[other]


def test_what_is_taken_is_counted_for_whoever_took_it() -> None:
    reserves = full_reserves()
    only = reserves.lists[Reserve.NONE][0]
    assert reserves.take(Reserve.BTREE) == only
    assert reserves.take(Reserve.NONE) is None
    assert reserves.taken[Reserve.BTREE] == 1
    assert reserves.taken[Reserve.NONE] == 0


def test_a_reserve_knows_how_long_it_stood_empty() -> None:
    clock = Clock()
    reserves = empty_reserves(clock)
    clock.now_s += 5
    assert reserves.empty_seconds(Reserve.NONE) == 5
    reserves.push_to(Reserve.NONE, 10)
    clock.now_s += 7
    assert reserves.empty_seconds(Reserve.NONE) == 5
    assert reserves.take(Reserve.NONE) == 10
    clock.now_s += 2
    assert reserves.take(Reserve.NONE) is None
    clock.now_s += 1
    assert reserves.empty_seconds(Reserve.NONE) == 8


def test_a_reserve_that_is_not_empty_counts_no_time() -> None:
    clock = Clock()
    reserves = empty_reserves(clock)
    reserves.push_to(Reserve.BTREE, 10)
    reserves.push_to(Reserve.BTREE, 11)
    reserves.take(Reserve.BTREE)
    clock.now_s += 9
    assert reserves.empty_seconds(Reserve.BTREE) == 0


def test_a_chain_of_several_buckets_has_a_reserve_of_that_length() -> None:
    reserves = Reserves(Geometry(2000, 1, 8, 8, 15), Clock())
    first = Counter(reserves.push(bucket) for bucket in range(3))
    assert first == {Reserve.PRIO: 2, Reserve.MOVINGGC: 1}


# What only data may use


def test_what_is_for_data_goes_to_the_reserves_of_data() -> None:
    reserves = empty_reserves()
    assert reserves.data_room == 2
    assert [reserves.push(bucket, for_data=True) for bucket in (10, 11)] == [Reserve.MOVINGGC, Reserve.NONE]
    assert (reserves.data_room, reserves.room(), reserves.room_in(Reserve.NONE)) == (0, 8, 0)
    assert (reserves.count(Reserve.NONE), list(reserves.for_data)) == (1, [11])
    with pytest.raises(AssertionError, match="no reserve"):
        reserves.push(12, for_data=True)
    with pytest.raises(AssertionError, match="for metadata"):
        reserves.push_to(Reserve.BTREE, 12, for_data=True)


@pytest.mark.parametrize("reserve", [Reserve.BTREE, Reserve.PRIO], ids=lambda reserve: reserve.name)
def test_metadata_neither_sees_nor_gets_what_is_for_data(reserve: Reserve) -> None:
    reserves = empty_reserves()
    reserves.push_to(Reserve.NONE, 10, for_data=True)
    assert not reserves.has(reserve)
    assert reserves.available(reserve) == 0
    assert reserves.take(reserve) is None
    assert reserves.count(Reserve.NONE) == 1


@pytest.mark.parametrize("reserve", [Reserve.MOVINGGC, Reserve.NONE], ids=lambda reserve: reserve.name)
def test_data_gets_what_is_for_data_before_anything_else(reserve: Reserve) -> None:
    reserves = empty_reserves()
    reserves.capacities[Reserve.NONE] = 3
    reserves.push_to(Reserve.NONE, 10)
    reserves.push_to(Reserve.NONE, 11, for_data=True)
    reserves.push_to(Reserve.NONE, 12, for_data=True)
    assert reserves.has(reserve)
    assert reserves.available(reserve) == 3
    assert [reserves.take(reserve) for _ in range(4)] == [11, 12, 10, None]


def test_the_reserve_for_everybody_is_empty_when_neither_kind_is_left() -> None:
    clock = Clock()
    reserves = empty_reserves(clock)
    reserves.capacities[Reserve.NONE] = 2
    clock.now_s += 5
    reserves.push_to(Reserve.NONE, 10)
    reserves.push_to(Reserve.NONE, 11, for_data=True)
    clock.now_s += 10
    assert reserves.take(Reserve.NONE) == 11
    clock.now_s += 10
    assert reserves.empty_seconds(Reserve.NONE) == 5
    assert reserves.take(Reserve.NONE) == 10
    clock.now_s += 1
    assert reserves.empty_seconds(Reserve.NONE) == 6


def test_what_need_not_be_kept_for_data_any_more_is_for_everybody() -> None:
    reserves = empty_reserves()
    reserves.capacities[Reserve.NONE] = 4
    for bucket in (10, 11, 12):
        reserves.push_to(Reserve.NONE, bucket, for_data=True)
    reserves.lift(lambda bucket: bucket == 12)
    assert (list(reserves.lists[Reserve.NONE]), list(reserves.for_data)) == ([10, 11], [12])
    assert reserves.take(Reserve.BTREE) == 10


def test_one_bucket_to_move_data_to_comes_before_those_for_nodes() -> None:
    reserves = Reserves(Geometry(2048, 1, 16, 8, 4), lambda: 0.0)
    reserves.capacities[Reserve.MOVINGGC] = 3
    prio, nodes = reserves.capacities[Reserve.PRIO], reserves.capacities[Reserve.BTREE]
    lacking = [(Reserve.PRIO, prio), (Reserve.MOVINGGC, 1), (Reserve.BTREE, nodes), (Reserve.MOVINGGC, 2)]
    assert list(reserves.lacking())[:4] == lacking
    came = [reserves.push(bucket) for bucket in range(prio + nodes + 3)]
    order = [reserve for reserve, count in lacking for _ in range(count)]
    assert came == order
    assert list(reserves.lacking())[:4] == [
        (Reserve.PRIO, 0),
        (Reserve.MOVINGGC, 0),
        (Reserve.BTREE, 0),
        (Reserve.MOVINGGC, 0),
    ]
