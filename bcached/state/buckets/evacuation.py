"""Which buckets to empty of their dirty data, when there is none left that could be invalidated.

One dirty key keeps a whole bucket, however much clean data lies beside it. (The kernel would write it back;
there is nothing here to write it back to.) So dirty data is moved together: out of the buckets with the least
of it first, into few that are full of it. What is left is clean, and is invalidated like any other.

A round must gain at least one bucket: it empties more of them than it fills. That is possible until dirty
data lies as densely as it can, and so a set refuses sectors only if dirty and held data really fill it.
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from bcached.state.buckets.bucket_table import Buckets, Counts, Sectors, State
from bcached.state.buckets.member_buckets import Cache
from bcached.state.buckets.reserves import Reserve

CANDIDATES_MAX = 32_768  # buckets that are looked at more closely
SLICE_BUCKETS = 131_072  # a millisecond, with what is left of those before
ENOUGH_PART = 64  # of all buckets: what one pass over the index should give
PRIO_BITS = 16
MOVED_BLOCKS_MAX = 1 << 16  # in one round


class Evacuation(NamedTuple):
    """Buckets to empty, those with the least dirty data first, and how many more they are than they fill."""

    buckets: Buckets
    gain: int


NOTHING = Evacuation(np.zeros(0, np.int64), 0)


def plan(
    cache: Cache, stuck: Sectors, waiting: frozenset[Reserve], spare_sectors: int
) -> Generator[None, None, Evacuation]:
    """The next round for a member; NOTHING if it would not get a bucket to a reserve that is waited for.

    stuck has the dirty sectors of each bucket when nothing of them could be moved. spare_sectors are left in
    the bucket that data was moved to last.
    """
    found = yield from _candidates(cache, stuck)
    geometry = cache.geometry
    dirty = cache.table.dirty_sectors_array[found]
    sums = np.cumsum(dirty, dtype=np.int64)
    most = int(np.searchsorted(sums, MOVED_BLOCKS_MAX * geometry.block_sectors, side="right"))
    least = least_gain(cache, waiting)
    enough = least + max(geometry.free_inc_capacity, geometry.bucket_count // ENOUGH_PART)
    count, gain = choose(sums[:most], geometry.bucket_sectors, spare_sectors, least, enough)
    return Evacuation(found[:count], gain)


def _candidates(cache: Cache, stuck: Sectors) -> Generator[None, None, Buckets]:
    """Buckets that could be invalidated but for their dirty data; of equals those used longest ago first."""
    table, bucket_sectors = cache.table, cache.geometry.bucket_sectors
    found = np.zeros(0, np.int64)
    for start in range(0, table.bucket_count, SLICE_BUCKETS):
        chunk = slice(start, start + SLICE_BUCKETS)
        dirty = table.dirty_sectors_array[chunk]
        mixed = (table.states_array[chunk] == State.DIRTY) & (dirty < bucket_sectors)
        mixed &= dirty != stuck[chunk]
        mixed &= table.may_bump_each(chunk)
        found = np.concatenate([found, start + np.flatnonzero(mixed)])
        if len(found) > CANDIDATES_MAX:
            lightest = np.argpartition(table.dirty_sectors_array[found], CANDIDATES_MAX)
            found = found[lightest[:CANDIDATES_MAX]]
        yield
    weights = table.dirty_sectors_array[found].astype(np.int64) << PRIO_BITS
    return found[np.argsort(weights | table.prios_array[found])]


def choose(sums: Counts, bucket_sectors: int, spare_sectors: int, least: int, enough: int) -> tuple[int, int]:
    """How many of the first buckets to empty, and what that gains; as few as give enough, or else most.

    sums are their dirty sectors, added up. None if not even `least` can be had.
    """
    taken = -(-np.maximum(sums - spare_sectors, 0) // bucket_sectors)
    gains = np.arange(1, len(sums) + 1) - taken
    best = int(gains.max(initial=0))
    if best < least:
        return 0, 0
    count = int(np.argmax(gains >= min(best, enough))) + 1
    return count, int(gains[count - 1])


def least_gain(cache: Cache, waiting: frozenset[Reserve]) -> int:
    """How many buckets must come for one to reach a reserve that is waited for: others are filled first."""
    missing = 1 - len(cache.free_inc) - cache.unused_count - cache.table.reclaimable_count
    for reserve, lacking in cache.reserves.lacking():
        if reserve in waiting and lacking:
            break
        missing += lacking
    return max(missing, 1)
