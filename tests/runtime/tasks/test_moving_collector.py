# SPDX-License-Identifier: GPL-2.0-only
"""Which buckets are emptied: the emptiest, as many as fit into the reserve, if that frees any."""

from bcached.runtime.tasks.moving_collector import choose
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve
from instruments.samples.small_member import GEOMETRY, run

BUCKET_SECTORS = GEOMETRY.bucket_sectors
FIRST = GEOMETRY.bucket_count // 2


def cache_with(live: list[int], *, reserve: int) -> MemberBuckets:
    """Clean buckets from FIRST on with so many live sectors, and so many buckets in the reserve."""
    buckets = MemberBuckets(GEOMETRY, 0, seed=1)
    for bucket, sectors in enumerate(live, FIRST):
        buckets.table.states_array[bucket] = State.CLEAN
        buckets.table.sectors_array[bucket] = sectors
    buckets.reserves.lists[Reserve.MOVINGGC].extend(range(1, reserve + 1))
    return buckets


def chosen(buckets: MemberBuckets) -> list[int]:
    found = run(choose(buckets))
    return [bucket - FIRST for bucket in range(len(found)) if found[bucket]]


def test_the_emptiest_are_chosen_as_far_as_the_reserve_holds_their_data() -> None:
    quarter = BUCKET_SECTORS // 4
    buckets = cache_with([2 * quarter, quarter, quarter, quarter, quarter, 2 * quarter], reserve=1)
    assert chosen(buckets) == [1, 2, 3, 4]


def test_a_bucket_more_than_half_full_is_left_alone() -> None:
    buckets = cache_with([1, 1, BUCKET_SECTORS // 2 + 1], reserve=2)
    assert chosen(buckets) == [0, 1]


def test_none_is_chosen_if_no_bucket_would_be_gained() -> None:
    assert chosen(cache_with([1], reserve=1)) == []


def test_none_is_chosen_without_a_reserve() -> None:
    assert chosen(cache_with([1, 1, 1], reserve=0)) == []
