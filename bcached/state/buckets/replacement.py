# SPDX-License-Identifier: GPL-2.0-only
"""Which buckets to invalidate next: an object per policy, which holds all that the policy remembers.

A policy searches the table in slices and yields between them, so that its caller can yield to the event loop.
It returns candidates: the table may have changed since a slice was read, so the caller checks each again
before it invalidates it. A policy changes nothing but its own memory.

To add one: its number in Replacement (set_state.py), a class here, a row of POLICIES.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bcached.set_state import Replacement
from bcached.state.buckets.bucket_table import Bools, Buckets, BucketTable
from bcached.state.buckets.geometry import INITIAL_PRIO, METADATA_PRIO
from bcached.state.buckets.smallest_k import SmallestK

SLICE_BUCKETS = 32768  # a tenth of a millisecond, and the columns of a slice stay in cache
SECTORS_WEIGHED_MAX = (1 << 16) - 1  # cap that keeps weights within 32 bits
DRAWN_BUCKETS = 2048  # per slice, scattered: up to a millisecond


@dataclass(frozen=True, slots=True)
class Candidates:
    """Buckets to invalidate, best first, and how many were skipped for their gens."""

    buckets: Buckets
    held_back: int


class Policy(Protocol):
    """Chooses buckets of one member. It may search for more than is needed, but never for fewer."""

    is_exhaustive: bool  # whether it returns every bucket that may be invalidated, if as many are wanted

    def search(self, wanted: int, min_prio: int, /) -> Generator[None, None, Candidates]:
        """Search for `wanted` buckets; min_prio is the smallest prio of the set."""


class Lru:
    """The buckets of least weight: little live data, not used for long (kernel: invalidate_buckets_lru).

    The weight is (prio scaled so that the smallest is worth an eighth of a fresh one) times sectors in
    use. Kernel: while hardly anything has aged that eighth is 0, and live data weighs as little as an empty
    bucket; here it is at least 1, or a young set would drop data while most of it is empty.
    """

    is_exhaustive = True

    def __init__(self, table: BucketTable, heap_size: int, _: np.random.Generator) -> None:
        self._table = table
        self._heap_size = heap_size  # most candidates

    def search(self, _: int, min_prio: int) -> Generator[None, None, Candidates]:
        """Search the whole table for the lightest buckets.

        A slice that by its smallest prio and its smallest number of sectors can have no bucket that is light
        enough is skipped: on a device full of equal weights that is nearly every slice. Once there are enough
        candidates, only light buckets are checked and counted if their gens hold them back: that count is
        used only if free_inc could not be filled.
        """
        table = self._table
        lightest = SmallestK(self._heap_size, SLICE_BUCKETS)
        # If nothing has aged yet min_prio is not known, and the scale starts at zero.
        floor = 0 if min_prio == METADATA_PRIO else min(min_prio, INITIAL_PRIO)
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
        return Candidates((yield from lightest.in_order()), held_back)


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


class Fifo:
    """The next buckets from a cursor on, at most one round (kernel: invalidate_buckets_fifo)."""

    is_exhaustive = True

    def __init__(self, table: BucketTable, _: int, __: np.random.Generator) -> None:
        self._table = table
        self.cursor = table.first_bucket  # the bucket to begin with

    def search(self, wanted: int, _: int) -> Generator[None, None, Candidates]:
        """Search from the cursor on, and leave it behind the last bucket found."""
        table, cursor = self._table, self.cursor
        found: list[Buckets] = []
        missing, held_back = wanted, 0
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
        self.cursor = cursor
        return Candidates(_joined(found), held_back)


class Random:
    """Random buckets (kernel: invalidate_buckets_random)."""

    is_exhaustive = False  # half as many draws as there are buckets miss many

    def __init__(self, table: BucketTable, _: int, rng: np.random.Generator) -> None:
        self._table = table
        self.rng = rng

    def search(self, wanted: int, _: int) -> Generator[None, None, Candidates]:
        """Draw at most bucket_count / 2 buckets."""
        table = self._table
        found: list[Buckets] = []
        seen: set[int] = set()
        draws = table.bucket_count // 2
        held_back = 0
        while draws > 0 and len(seen) < wanted:
            count = min(draws, DRAWN_BUCKETS, 4 * (wanted - len(seen)))
            drawn = self.rng.integers(table.first_bucket, table.bucket_count, count)
            may = table.may_invalidate(drawn)
            held_back += int(np.count_nonzero(table.is_reclaimable(drawn))) - int(np.count_nonzero(may))
            fresh = [bucket for bucket in dict.fromkeys(drawn[may].tolist()) if bucket not in seen]
            seen.update(fresh)
            found.append(np.array(fresh, np.int64))
            draws -= count
            yield
        return Candidates(_joined(found)[:wanted], held_back)


def _joined(found: list[Buckets]) -> Buckets:
    return np.concatenate(found) if found else np.empty(0, np.int64)


# Each is made with the member's table, the most candidates to keep, and a source of randomness.
POLICIES: dict[Replacement, Callable[[BucketTable, int, np.random.Generator], Policy]] = {
    Replacement.LRU: Lru,
    Replacement.FIFO: Fifo,
    Replacement.RANDOM: Random,
}
# Searched when a policy that is not exhaustive found too few.
EXHAUSTIVE = Replacement.FIFO


def make_policies(table: BucketTable, heap_size: int, seed: int | None) -> dict[Replacement, Policy]:
    """Returns a member's policies: each keeps its memory while another one is used."""
    rng = np.random.default_rng(seed)
    return {replacement: make(table, heap_size, rng) for replacement, make in POLICIES.items()}
