# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.keys import Pointer
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.placement import members_with, space, take_data_buckets
from bcached.state.buckets.reserves import Reserve
from instruments.samples.bucket_states import force_state
from instruments.samples.small_cache import BUCKET_SECTORS, GEOMETRY, a_cache, fill_reserves


def members(*ready: bool) -> list[MemberBuckets]:
    """One member for each: whether a bucket for data is ready."""
    caches = [a_cache(GEOMETRY, device) for device in range(len(ready))]
    for cache, is_ready in zip(caches, ready, strict=True):
        fill_reserves(cache)
        if not is_ready:
            cache.reserves.lists[Reserve.NONE].clear()
    return caches


def use(cache: MemberBuckets, buckets: int) -> None:
    for bucket in list(cache.table.in_state(State.EMPTY))[:buckets]:
        force_state(cache.table, bucket, State.DIRTY)


def devices(chosen: list[MemberBuckets] | None) -> list[int] | None:
    return None if chosen is None else [cache.device for cache in chosen]


def test_space_is_what_is_free_or_could_be_made_so() -> None:
    (cache,) = members(True)
    before = space(cache)
    use(cache, 3)
    assert before - space(cache) == 3 * BUCKET_SECTORS
    for state in (State.FREE, State.FREE_INC, State.UNUSED, State.CLEAN):
        force_state(cache.table, 300, State.EMPTY)
        full = space(cache)
        force_state(cache.table, 300, state)
        assert space(cache) == full
    for state in (State.OPEN, State.HELD, State.QUARANTINE, State.DIRTY, State.BTREE):
        force_state(cache.table, 300, state)
        assert space(cache) == full - BUCKET_SECTORS


def test_the_member_with_most_space_comes_first() -> None:
    caches = members(True, True, True)
    use(caches[0], 5)
    use(caches[2], 2)
    assert devices(members_with(caches, Reserve.NONE, 3)) == [1, 2, 0]
    assert devices(members_with(caches, Reserve.NONE, 1)) == [1]


def test_among_equals_the_one_with_the_oldest_data_then_the_first() -> None:
    caches = members(True, True, True)
    caches[0].oldest_prio, caches[1].oldest_prio, caches[2].oldest_prio = 9, 9, 3
    assert devices(members_with(caches, Reserve.NONE, 3)) == [2, 0, 1]


def test_members_without_a_bucket_are_left_out() -> None:
    caches = members(True, False, True)
    use(caches[0], 5)
    assert devices(members_with(caches, Reserve.NONE, 2)) == [2, 0]
    assert devices(members_with(caches, Reserve.MOVINGGC, 3)) == [1, 2, 0]


@pytest.mark.parametrize("ready", [(True,), (True, False)])
def test_too_few_members_are_none(ready: tuple[bool, ...]) -> None:
    caches = members(*ready)
    assert members_with(caches, Reserve.NONE, 2) is None
    assert devices(members_with(caches, Reserve.NONE, 1)) == [0]


def test_one_member_without_a_bucket_is_none() -> None:
    assert members_with(members(False), Reserve.NONE, 1) is None


def test_copies_are_taken_from_different_members_or_not_at_all() -> None:
    caches = members(True, False, True)
    before = [list(cache.reserves.lists[Reserve.NONE]) for cache in caches]
    gens = [
        cache.table.gens[buckets[0]] if buckets else 0 for cache, buckets in zip(caches, before, strict=True)
    ]
    assert take_data_buckets(caches, Reserve.NONE, 3) is None
    assert [list(cache.reserves.lists[Reserve.NONE]) for cache in caches] == before
    assert all(not cache.table.counts[State.OPEN] for cache in caches)
    assert take_data_buckets(caches, Reserve.NONE, 2) == (
        Pointer(0, before[0][0] * BUCKET_SECTORS, gens[0]),
        Pointer(2, before[2][0] * BUCKET_SECTORS, gens[2]),
    )
    assert [cache.table.counts[State.OPEN] for cache in caches] == [1, 0, 1]
