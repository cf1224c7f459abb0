# SPDX-License-Identifier: GPL-2.0-only
"""The buckets of a member in which nothing is, to be used for new metadata.

What is written there is nothing's yet, so until a journal entry names it the set is as it was.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bcached.errors import SetRefused
from bcached.format.prio_set import PrioSet
from bcached.state.accounting.check_counts import Census, Use
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX, METADATA_PRIO
from bcached.store.prio_chain import PrioChain


class EmptyBuckets:
    """The empty buckets below an end, and the prios and gens of all, as they are to be written."""

    def __init__(self, census: Census, chain: Sequence[tuple[int, PrioSet]], count: int, end: int) -> None:
        """Count is that of the chain to be written: at least as many as now."""
        now = len(census.gens)
        assert now <= count
        assert end <= count
        on_disk = PrioChain.of(chain, now)
        self.prios: NDArray[np.uint16] = np.zeros(count, np.uint16)
        self.gens: NDArray[np.uint8] = np.zeros(count, np.uint8)
        self.prios[:now], self.gens[:now] = on_disk.prios, census.gens
        self.prios[on_disk.buckets] = 0  # they become empty
        self._free: list[int] = [*empty_buckets(census, min(end, now)).tolist(), *range(now, end)]
        self._free.reverse()

    def __len__(self) -> int:
        """How many are left."""
        return len(self._free)

    def take(self, path: str) -> int:
        """Returns the first empty bucket, with a new gen for its new contents."""
        if not self._free:
            raise SetRefused(f"{path}: no empty bucket is left for the new metadata; nothing was changed")
        bucket = self._free.pop()
        # A key that was overwritten may still name it with the gen it has.
        self.gens[bucket] += 1
        self.prios[bucket] = METADATA_PRIO
        return bucket


def empty_buckets(census: Census, end: int) -> NDArray[np.int64]:
    """Returns the buckets below an end that hold neither metadata nor live data."""
    unused = (census.uses == Use.FREE) | ((census.uses == Use.DATA) & (census.sectors == 0))
    return np.flatnonzero((unused & _may_get_a_gen(census))[:end])


def droppable_buckets(census: Census, end: int) -> NDArray[np.int64]:
    """Returns the buckets below an end that hold only clean data, those with the least first."""
    clean = (census.uses == Use.DATA) & (census.sectors > 0) & (census.dirty_sectors == 0)
    found = np.flatnonzero((clean & _may_get_a_gen(census))[:end])
    return found[np.argsort(census.sectors[found], kind="stable")]


def _may_get_a_gen(census: Census) -> NDArray[np.bool_]:
    """Returns which buckets have no pointer that would become too old (Kernel: BUCKET_GC_GEN_MAX)."""
    may: NDArray[np.bool_] = census.gens - census.oldest < GEN_DISTANCE_MAX
    return may
