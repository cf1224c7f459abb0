"""Which members of a set the next bucket comes from.

The member with the most free and reclaimable space comes first, and among equals the one whose data is
oldest (the seed's comment promises this order; its code takes the members as they are registered).
"""

from collections.abc import Sequence

from bcached.keys import Pointer
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.member_buckets import Cache
from bcached.state.buckets.reserves import Reserve


def members_with(caches: Sequence[Cache], reserve: Reserve, count: int) -> list[Cache] | None:
    """`count` members that have a bucket for this reserve right now, best first; None if too few."""
    if len(caches) == 1:
        return list(caches) if count == 1 and caches[0].reserves.has(reserve) else None
    able = [cache for cache in caches if cache.reserves.has(reserve)]
    if len(able) < count:
        return None
    able.sort(key=lambda cache: (-space(cache), cache.oldest_prio, cache.device))
    return able[:count]


def space(cache: Cache) -> int:
    """Sectors that are free or could be made so."""
    counts = cache.table.counts
    free = counts[State.FREE] + counts[State.FREE_INC] + counts[State.UNUSED]
    return (free + cache.table.reclaimable_count) * cache.geometry.bucket_sectors


def take_data_buckets(caches: Sequence[Cache], reserve: Reserve, copies: int) -> tuple[Pointer, ...] | None:
    """One open bucket on each of `copies` different members, or none at all (seed: bch_bucket_alloc_set).

    The seed takes them one after the other and gives back what it has when one fails; nothing can come
    between the asking and the taking here, so there is never anything to give back.
    """
    members = members_with(caches, reserve, copies)
    if members is None:
        return None
    return tuple(_pointer(cache, reserve) for cache in members)


def _pointer(cache: Cache, reserve: Reserve) -> Pointer:
    bucket = cache.take_data(reserve)
    assert bucket is not None, "a reserve that had a bucket has none"
    return Pointer(cache.device, cache.geometry.sector_of(bucket), cache.table.gens[bucket])
