# SPDX-License-Identifier: GPL-2.0-only
"""Moving garbage collection: copies the live data of nearly empty buckets to free these.

(kernel: bch_moving_gc)
"""

from collections.abc import Generator

import numpy as np

from bcached.keys import Key
from bcached.runtime.coordination.pacing import Pacer
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.tasks.mover import MOVES_AT_ONCE, Mover, MoveResult
from bcached.state.accounting.leaf_pointers import leaf_pointers
from bcached.state.buckets.bucket_table import COUNT_BUCKETS, Bools, State
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve
from bcached.state.index.node import Leaf
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.store.btree.node_cache import NodeCache

CANDIDATES_MAX = 65_536  # buckets that are sorted by their live sectors
FULL_PART = 2  # a bucket with more than this part of its sectors live is left alone


class MovingCollector:
    """Chooses what the mover copies out of nearly empty buckets."""

    def __init__(self, sectors: SectorAllocator, nodes: NodeCache, mover: Mover, shared: Shared) -> None:
        self._member_buckets = sectors.members
        self._nodes = nodes
        self._mover = mover
        self._shared = shared

    async def move(self, pacer: Pacer) -> None:
        """Make one pass over the index for the buckets worth emptying now; the collection paces it."""
        shared = self._shared
        with self._mover.at_work():
            chosen = [await shared.run_sliced(choose(buckets)) for buckets in self._member_buckets]
            if any(of_member.any() for of_member in chosen):
                await self._move_out_of(chosen, pacer)

    async def _move_out_of(self, chosen: list[Bools], pacer: Pacer) -> None:
        """Find keys in the chosen buckets, and copy them while there is space."""
        await pacer.begin()
        async for leaf in self._nodes.leaves():
            keys = self._keys_in(leaf, chosen)
            for start in range(0, len(keys), MOVES_AT_ONCE):
                self._shared.stop.check_changeable()
                some = keys[start : start + MOVES_AT_ONCE]
                # Buckets half full at most become buckets more than half full, divided or not.
                if await self._mover.move(some, set(), undivided=True) is not MoveResult.MOVED:
                    return
                await pacer.begin()
            await pacer.checkpoint()

    def _keys_in(self, leaf: Leaf, chosen: list[Bools]) -> list[Key]:
        """Returns the keys of a leaf with any copy in one of the chosen buckets."""
        numbers: set[int] = set()
        for part in leaf_pointers([leaf], self._member_buckets):
            is_in = chosen[part.device][part.buckets] & part.is_current
            numbers.update(part.rows.keys[is_in].tolist())
        return list(leaf.live.keys_at(sorted(numbers)))


def choose(buckets: MemberBuckets) -> Generator[None, None, Bools]:
    """Returns the emptiest buckets whose data fits into the reserve; none if that would free no bucket."""
    table, bucket_sectors = buckets.table, buckets.geometry.bucket_sectors
    reserve = len(buckets.reserves.lists[Reserve.MOVINGGC])
    found = np.zeros(0, np.int64)
    for start in range(0, table.bucket_count, COUNT_BUCKETS):
        chunk = slice(start, start + COUNT_BUCKETS)
        live = table.sectors_array[chunk] <= bucket_sectors // FULL_PART
        live &= (table.states_array[chunk] == State.CLEAN) | (table.states_array[chunk] == State.DIRTY)
        found = np.concatenate([found, start + np.flatnonzero(live)])
        if len(found) > CANDIDATES_MAX:
            found = found[np.argpartition(table.sectors_array[found], CANDIDATES_MAX)[:CANDIDATES_MAX]]
        yield
    found = found[np.argsort(table.sectors_array[found], kind="stable")]
    sums = np.cumsum(table.sectors_array[found], dtype=np.int64)
    count = int(np.searchsorted(sums, reserve * bucket_sectors, side="right"))
    chosen = np.zeros(table.bucket_count, bool)
    if count and count > -(-int(sums[count - 1]) // bucket_sectors):
        chosen[found[:count]] = True
    return chosen
