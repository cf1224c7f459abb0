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


def members_with(
    members: Sequence[MemberBuckets], reserve: Reserve, count: int
) -> list[MemberBuckets] | None:
    """Returns `count` members with a bucket for this reserve, best first; None if too few have one."""
    if len(members) == 1:
        return list(members) if count == 1 and members[0].reserves.has(reserve) else None
    able = [member for member in members if member.reserves.has(reserve)]
    if len(able) < count:
        return None
    able.sort(key=lambda member: (-space(member), member.oldest_prio, member.device))
    return able[:count]


def space(member: MemberBuckets) -> int:
    """Sectors that are free or reclaimable."""
    counts = member.table.counts
    free = counts[State.FREE] + counts[State.FREE_INC] + counts[State.UNUSED]
    return (free + member.table.reclaimable_count) * member.geometry.bucket_sectors


def take_data_buckets(
    members: Sequence[MemberBuckets], reserve: Reserve, copies: int
) -> tuple[Pointer, ...] | None:
    """Take one open bucket on each of `copies` members; None if too few have one (bch_bucket_alloc_set).

    Kernel: takes them one by one and frees them again if one fails. Here nothing can run between the check
    and the taking, so there is nothing to roll back.
    """
    chosen = members_with(members, reserve, copies)
    if chosen is None:
        return None
    return tuple(_pointer(member, reserve) for member in chosen)


def _pointer(member: MemberBuckets, reserve: Reserve) -> Pointer:
    bucket = member.take_data(reserve)
    assert bucket is not None, "reserve is empty, though `has` found a bucket"
    return Pointer(member.device, member.geometry.sector_of(bucket), member.table.gens[bucket])
