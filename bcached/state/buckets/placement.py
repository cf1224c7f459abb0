# SPDX-License-Identifier: GPL-2.0-only
"""Which members of a set the next bucket comes from.

The member with the most free and reclaimable space comes first, and among equals the one with the oldest
data. (Kernel: a comment in `alloc.c` promises this order; the code uses the order of registration.)
"""

from collections.abc import Sequence

from bcached.keys import Pointer
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve


def members_with(caches: Sequence[MemberBuckets], reserve: Reserve, count: int) -> list[MemberBuckets] | None:
    """Returns `count` members with a bucket for this reserve, best first; None if too few have one."""
    if len(caches) == 1:
        return list(caches) if count == 1 and caches[0].reserves.has(reserve) else None
    able = [cache for cache in caches if cache.reserves.has(reserve)]
    if len(able) < count:
        return None
    able.sort(key=lambda cache: (-space(cache), cache.oldest_prio, cache.device))
    return able[:count]


def space(cache: MemberBuckets) -> int:
    """Sectors that are free or reclaimable."""
    counts = cache.table.counts
    free = counts[State.FREE] + counts[State.FREE_INC] + counts[State.UNUSED]
    return (free + cache.table.reclaimable_count) * cache.geometry.bucket_sectors


def take_data_buckets(
    caches: Sequence[MemberBuckets], reserve: Reserve, copies: int
) -> tuple[Pointer, ...] | None:
    """Take one open bucket on each of `copies` members; None if too few have one (bch_bucket_alloc_set).

    Kernel: takes them one by one and frees them again if one fails. Here nothing can run between the check
    and the taking, so there is nothing to roll back.
    """
    members = members_with(caches, reserve, copies)
    if members is None:
        return None
    return tuple(_pointer(cache, reserve) for cache in members)


def _pointer(cache: MemberBuckets, reserve: Reserve) -> Pointer:
    bucket = cache.take_data(reserve)
    assert bucket is not None, "reserve is empty, though `has` found a bucket"
    return Pointer(cache.device, cache.geometry.sector_of(bucket), cache.table.gens[bucket])
