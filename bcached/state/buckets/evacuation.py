# SPDX-License-Identifier: GPL-2.0-only
"""Which buckets to empty of their dirty data, when no bucket is left that could be invalidated.

One dirty key keeps a whole bucket, however much clean data is beside it. (Kernel: writes it back; here there
is no backing device.) So dirty data is moved together: out of the buckets with the least of it first, into
few full ones. The emptied buckets are clean, and are invalidated like any other.

A round must gain at least one bucket: it empties more than it fills. That is possible until dirty data is as
dense as it can be, so a set refuses sectors only if dirty and held data really fill it.
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from bcached.state.buckets.bucket_table import Buckets, Counts, Sectors, State
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve

CANDIDATES_MAX = 32_768  # most buckets that are sorted
SLICE_BUCKETS = 131_072  # a millisecond, with the candidates of the slices before
ENOUGH_PART = 64  # one pass over the index should gain this part of all buckets
PRIO_BITS = 16
MOVED_BLOCKS_MAX = 1 << 16  # in one round


class Evacuation(NamedTuple):
    """Buckets to empty, those with the least dirty data first; gain is how many more than that fills."""

    buckets: Buckets
    gain: int


NOTHING = Evacuation(np.zeros(0, np.int64), 0)


def plan(
    member: MemberBuckets, stuck: Sectors, waiting: frozenset[Reserve], spare_sectors: int
) -> Generator[None, None, Evacuation]:
    """Returns the next round for a member; NOTHING if no bucket would reach a reserve that is waited for.

    stuck has each bucket's dirty sectors at the time when none of them could be moved. spare_sectors are
    left in the bucket that data was moved to last.
    """
    found = yield from _candidates(member, stuck)
    geometry = member.geometry
    dirty = member.table.dirty_sectors_array[found]
    sums = np.cumsum(dirty, dtype=np.int64)
    most = int(np.searchsorted(sums, MOVED_BLOCKS_MAX * geometry.block_sectors, side="right"))
    least = least_gain(member, waiting)
    enough = least + max(geometry.free_inc_capacity, geometry.bucket_count // ENOUGH_PART)
    count, gain = choose(sums[:most], geometry.bucket_sectors, spare_sectors, least, enough)
    return Evacuation(found[:count], gain)


def _candidates(member: MemberBuckets, stuck: Sectors) -> Generator[None, None, Buckets]:
    """Buckets that only dirty data keeps from being invalidated, least first, then least recently used."""
    table, bucket_sectors = member.table, member.geometry.bucket_sectors
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
    """Returns how many of the first buckets to empty, and the gain; (0, 0) if it would be below `least`.

    They are as few as gain `enough`, or the most there is to gain. sums are their dirty sectors, cumulated.
    """
    taken = -(-np.maximum(sums - spare_sectors, 0) // bucket_sectors)
    gains = np.arange(1, len(sums) + 1) - taken
    best = int(gains.max(initial=0))
    if best < least:
        return 0, 0
    count = int(np.argmax(gains >= min(best, enough))) + 1
    return count, int(gains[count - 1])


def least_gain(member: MemberBuckets, waiting: frozenset[Reserve]) -> int:
    """How many buckets it takes for one to reach a reserve that is waited for: others are filled first."""
    missing = 1 - len(member.free_inc) - len(member.unused) - member.table.reclaimable_count
    for reserve, lacking in member.reserves.lacking():
        if reserve in waiting and lacking:
            break
        missing += lacking
    return max(missing, 1)
