"""Which buckets to invalidate next: one generator per policy, lru, fifo and random.

A policy scans the table in slices and yields between them, so that its caller can yield to the event loop. It
returns candidates: the table may have changed since a slice was read, so the caller checks each again before
it invalidates it. A policy changes nothing itself.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bcached.format.superblock import Replacement
from bcached.state.buckets.bucket_table import Bools, Buckets, BucketTable
from bcached.state.buckets.geometry import INITIAL_PRIO, METADATA_PRIO
from bcached.state.buckets.smallest_k import SmallestK

SLICE_BUCKETS = 32768  # a tenth of a millisecond, and the columns of a slice stay in cache
SECTORS_WEIGHED_MAX = (1 << 16) - 1  # cap that keeps weights within 32 bits
DRAWN_BUCKETS = 2048  # per slice, scattered: up to a millisecond


@dataclass(frozen=True, slots=True)
class Search:
    """The parameters of a pass: how many buckets to find, the most candidates to keep, its state."""

    wanted: int
    heap_size: int
    min_prio: int
    cursor: int  # fifo: the bucket to begin with
    rng: np.random.Generator  # random


@dataclass(frozen=True, slots=True)
class Candidates:
    """Buckets to invalidate, best first; how many were skipped for their gens; the fifo cursor."""

    buckets: Buckets
    held_back: int
    cursor: int


Policy = Callable[[BucketTable, Search], Generator[None, None, Candidates]]


def lru(table: BucketTable, search: Search) -> Generator[None, None, Candidates]:
    """The buckets of least weight: little live data, not used for long (kernel: invalidate_buckets_lru).

    The weight is (prio scaled so that the smallest is worth an eighth of a fresh one) times sectors in
    use. Kernel: while hardly anything has aged that eighth is 0, and live data weighs as little as an empty
    bucket; here it is at least 1, or a young set would drop data while most of it is empty.

    A slice that by its smallest prio and its smallest number of sectors can have no bucket that is light
    enough is skipped: on a device full of equal weights that is nearly every slice. Once there are enough
    candidates, only light buckets are checked and counted if their gens hold them back: that count is used
    only if free_inc could not be filled.
    """
    lightest = SmallestK(search.heap_size, SLICE_BUCKETS)
    # If nothing has aged yet min_prio is not known, and the scale starts at zero.
    floor = 0 if search.min_prio == METADATA_PRIO else min(search.min_prio, INITIAL_PRIO)
    held_back = 0
    for start in range(table.first_bucket, table.bucket_count, SLICE_BUCKETS):
        stop = min(start + SLICE_BUCKETS, table.bucket_count)
        if _least_weight(table, start, stop, floor) < lightest.limit:
            weights = _weights(table, start, stop, floor)
            light = np.flatnonzero(weights < lightest.limit)
            buckets = slice(start, stop) if len(light) == stop - start else light + start
            may, held = _invalidatable(table, buckets)
            held_back += held
            yield from lightest.add(start, weights, light[may])
        yield
    buckets = yield from lightest.in_order()
    return Candidates(buckets, held_back, search.cursor)


def _invalidatable(table: BucketTable, buckets: slice | Buckets) -> tuple[Bools, int]:
    """Which of these buckets may be invalidated, and how many are held back by their gens only."""
    may = table.is_reclaimable(buckets)
    reclaimable = int(np.count_nonzero(may))
    may &= table.may_bump_each(buckets)
    return may, reclaimable - int(np.count_nonzero(may))


def _least_weight(table: BucketTable, start: int, stop: int, floor: int) -> int:
    """A lower bound of the weights of buckets [start, stop)."""
    prio = max(int(table.prios_array[start:stop].min()), floor) - floor + _smallest_worth(floor)
    return prio * min(int(table.sectors_array[start:stop].min()), SECTORS_WEIGHED_MAX)


def _smallest_worth(floor: int) -> int:
    """The scaled value of the smallest prio."""
    return max((INITIAL_PRIO - floor) // 8, 1)


def _weights(table: BucketTable, start: int, stop: int, floor: int) -> npt.NDArray[np.uint32]:
    """The weight of each bucket of [start, stop)."""
    # Kernel: the subtraction wraps for a prio below min_prio, and such a bucket is heaviest; here it is
    # lightest.
    scaled = np.maximum(table.prios_array[start:stop], np.uint16(floor))
    # In 16 bits, perhaps wrapping: the result is below 65536 for every prio that data has.
    scaled += np.uint16((_smallest_worth(floor) - floor) & 0xFFFF)
    weights = scaled.astype(np.uint32)
    sectors = table.sectors_array[start:stop]
    weights *= sectors if table.sectors.itemsize == 2 else np.minimum(sectors, np.uint32(SECTORS_WEIGHED_MAX))
    return weights


def fifo(table: BucketTable, search: Search) -> Generator[None, None, Candidates]:
    """The next buckets from the cursor on, at most one round (kernel: invalidate_buckets_fifo)."""
    found: list[Buckets] = []
    missing, held_back = search.wanted, 0
    cursor = search.cursor
    left = table.bucket_count - table.first_bucket
    while missing > 0 and left > 0:
        if not table.first_bucket <= cursor < table.bucket_count:
            cursor = table.first_bucket
        stop = min(cursor + SLICE_BUCKETS, table.bucket_count, cursor + left)
        buckets = cursor + np.flatnonzero(table.may_invalidate(slice(cursor, stop)))[:missing]
        missing -= len(buckets)
        end = stop if missing else int(buckets[-1]) + 1
        held_back += _invalidatable(table, slice(cursor, end))[1]
        left -= end - cursor
        cursor = end
        found.append(buckets)
        yield
    return Candidates(_joined(found), held_back, cursor)


def random(table: BucketTable, search: Search) -> Generator[None, None, Candidates]:
    """Random buckets, from at most bucket_count / 2 draws (kernel: invalidate_buckets_random)."""
    found: list[Buckets] = []
    seen: set[int] = set()
    draws = table.bucket_count // 2
    held_back = 0
    while draws > 0 and len(seen) < search.wanted:
        count = min(draws, DRAWN_BUCKETS, 4 * (search.wanted - len(seen)))
        drawn = search.rng.integers(table.first_bucket, table.bucket_count, count)
        may = table.may_invalidate(drawn)
        held_back += int(np.count_nonzero(table.is_reclaimable(drawn))) - int(np.count_nonzero(may))
        fresh = [bucket for bucket in dict.fromkeys(drawn[may].tolist()) if bucket not in seen]
        seen.update(fresh)
        found.append(np.array(fresh, np.int64))
        draws -= count
        yield
    return Candidates(_joined(found)[: search.wanted], held_back, search.cursor)


def _joined(found: list[Buckets]) -> Buckets:
    return np.concatenate(found) if found else np.empty(0, np.int64)


POLICIES: dict[Replacement, Policy] = {
    Replacement.LRU: lru,
    Replacement.FIFO: fifo,
    Replacement.RANDOM: random,
}
