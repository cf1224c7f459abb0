from collections import Counter

import pytest

from bcached.state.geometry import Geometry
from bcached.state.reserves import PUSH, Reserve, Reserves
from instruments.small_cache import GEOMETRY

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


def test_prios_come_first_then_nodes_then_moving_then_everybody() -> None:
    reserves = empty_reserves()
    order = [reserves.push(bucket) for bucket in range(reserves.room())]
    assert order == [reserve for reserve in PUSH for _ in range(SIZES[reserve])]


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
    assert first == {Reserve.PRIO: 2, Reserve.BTREE: 1}
