# SPDX-License-Identifier: GPL-2.0-only
"""Evacuation: moves dirty data together when buckets run out, so that clean data beside it can be dropped.

state/buckets/evacuation.py chooses the buckets and their order. One pass over the index finds the keys; then
bucket after bucket is emptied. The buckets gained fill the mover's own reserve before they serve requests.
A round that gained nothing is not repeated until something changed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcached.errors import LimitExceeded, NoFreeBuckets
from bcached.keys import Key
from bcached.runtime.coordination.pacing import Pacer
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.tasks.mover import INDEX_TIMEOUT_S, MOVES_AT_ONCE, Mover, MoveResult
from bcached.state.accounting.leaf_pointers import leaf_pointers
from bcached.state.buckets.evacuation import Evacuation, plan
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve
from bcached.state.index.node import Leaf
from bcached.state.sectors.open_buckets import MOVERS_WRITE_POINT
from bcached.state.sectors.pending_allocations import BucketWait
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.store.btree.node_cache import NodeCache
from bcached.store.member import Member

Spans = NDArray[np.int64]  # rows of: bucket, inode, first sector, end sector

NO_SPANS: Spans = np.zeros((0, 4), np.int64)
NOT_CHOSEN = (1 << 16) - 1


@dataclass(slots=True)
class EvacuationTotals:
    """Counts of evacuations so far."""

    rounds: int = 0
    emptied_buckets: int = 0
    moved_sectors: int = 0


class EvacuationRound:
    """One evacuation of a member: the buckets to be emptied, with their state when it was planned."""

    def __init__(self, buckets: MemberBuckets, planned: Evacuation) -> None:
        self.emptied = 0  # buckets without dirty data now
        self.stuck = 0  # buckets out of which nothing could be moved
        self.device = buckets.device
        self._buckets = buckets
        self._table = table = buckets.table
        # By rank in the plan, as planned: gens and dirty sectors.
        self._gens = table.gens_array[planned.buckets]
        self._dirty = table.dirty_sectors_array[planned.buckets]
        self._ranks = np.full(table.bucket_count, NOT_CHOSEN, np.uint16)  # ranks in the plan
        self._ranks[planned.buckets] = np.arange(len(planned.buckets))

    def spans_in(self, leaf: Leaf, member_buckets: list[MemberBuckets]) -> Spans:
        """Returns the spans in which a leaf names dirty data in these buckets."""
        found = [NO_SPANS]
        for part in leaf_pointers([leaf], member_buckets):
            if part.device == self.device:
                chosen = self._ranks[part.buckets] != NOT_CHOSEN
                chosen &= part.is_current & part.rows.dirty
                rows = part.rows.where(chosen)
                columns = (part.buckets[chosen], rows.inodes, rows.ends - rows.sectors, rows.ends)
                found.append(np.column_stack(columns))
        return np.concatenate(found)

    def in_order(self, spans: Spans) -> Spans:
        """Returns the spans bucket by bucket, in the order of the plan."""
        return spans[np.argsort(self._ranks[spans[:, 0]], kind="stable")]

    def is_to_be_moved(self, bucket: int, key: Key) -> bool:
        """Whether a key has dirty data in a bucket whose gen is unchanged since the plan."""
        bucket_of, gen = self._buckets.geometry.bucket_of, self._gens[self._ranks[bucket]]
        return key.dirty and any(
            pointer.device == self.device and pointer.gen == gen and bucket_of(pointer.sector) == bucket
            for pointer in key.pointers
        )

    def left_in(self, bucket: int) -> int:
        """Returns the dirty sectors left in a bucket after all moves out of it, and counts it if emptied."""
        rank = self._ranks[bucket]
        if self._table.gens[bucket] != self._gens[rank]:
            return 0
        left = self._table.dirty_sectors[bucket]
        self.emptied += not left
        return left

    def dirty_when_planned(self, bucket: int) -> int:
        """Returns a bucket's dirty sectors when it was planned."""
        return int(self._dirty[self._ranks[bucket]])


class Evacuator:
    """Empties buckets of dirty data for the members that request it."""

    def __init__(
        self, members: list[Member], sectors: SectorAllocator, nodes: NodeCache, mover: Mover, shared: Shared
    ) -> None:
        self.totals = EvacuationTotals()
        self._sectors = sectors
        self._member_buckets = [member.buckets for member in members]
        self._nodes = nodes
        self._mover = mover
        self._shared = shared
        # By member and bucket: its dirty sectors when none of them could be moved.
        self._stuck = [np.zeros_like(buckets.table.dirty_sectors_array) for buckets in self._member_buckets]

    async def run(self, pacer: Pacer) -> None:
        """Run a round for one of the members that requested it, paced by the collector."""
        shared = self._shared
        shared.collections.evacuating = member = shared.collections.evacuations_wanted.pop()
        try:
            await self._evacuate(member, pacer)
        finally:
            shared.collections.evacuating = None
            shared.buckets_moved()

    async def _evacuate(self, member: Member, pacer: Pacer) -> None:
        """Run a round for a member.

        1. No plan gains a bucket: not tried again until something changes. 2. The plan is carried out. 3. It
        gained nothing and moved all it tried: only changes that are not its own make another round worth it.
        """
        buckets, mover = member.buckets, self._mover
        found, own = buckets.evacuation_finds(), mover.own_changes[member.device]
        spare = self._sectors.open_buckets.left_to(MOVERS_WRITE_POINT)
        work = plan(buckets, self._stuck[member.device], self._shared.queue.waiting(), spare)
        shared = self._shared
        planned = await shared.run_sliced(work)
        if not planned.gain:
            buckets.evacuation_was_fruitless(found)
            return
        round_ = EvacuationRound(buckets, planned)
        taken, moved = mover.buckets_taken[member.device], mover.moved_sectors
        with mover.at_work():
            await self._empty(round_, await self._find(round_, pacer), pacer)
        moved = mover.moved_sectors - moved
        taken = mover.buckets_taken[member.device] - taken
        self.totals.rounds += 1
        self.totals.moved_sectors += moved
        self.totals.emptied_buckets += round_.emptied
        if round_.emptied <= taken and not round_.stuck:
            now = mover.own_changes[member.device]
            buckets.evacuation_was_fruitless((found[0] + now[0] - own[0], found[1] + now[1] - own[1]))

    async def _find(self, round_: EvacuationRound, pacer: Pacer) -> Spans:
        """Returns the spans of the data to be moved, bucket by bucket."""
        found = [NO_SPANS]
        await pacer.begin()
        async for leaf in self._nodes.leaves():
            found.append(round_.spans_in(leaf, self._member_buckets))
            self._shared.stop.check_changeable()
            await pacer.checkpoint()
        return round_.in_order(np.concatenate(found))

    async def _empty(self, round_: EvacuationRound, spans: Spans, pacer: Pacer) -> None:
        """Move the data of these spans while there is space for it."""
        stuck = self._stuck[round_.device]
        for start in range(0, len(spans), MOVES_AT_ONCE):
            self._shared.stop.check_changeable()
            batch = spans[start : start + MOVES_AT_ONCE].tolist()
            if not await self._move(round_, batch):
                return
            follows = spans[start + MOVES_AT_ONCE, 0] if start + MOVES_AT_ONCE < len(spans) else None
            for bucket in dict.fromkeys(bucket for bucket, *_ in batch):
                if (
                    bucket != follows
                    and (left := round_.left_in(bucket))
                    and left >= round_.dirty_when_planned(bucket)
                ):
                    stuck[bucket] = left
                    round_.stuck += 1
            await pacer.begin()

    async def _move(self, round_: EvacuationRound, spans: list[list[int]]) -> bool:
        """Move the data of these spans; returns False to end the round.

        1. It moved, or the index is busy. 2. No space, and a bucket is expected: it waits, and tries the
        rest. 3. No space, and none is expected.
        """
        tried: set[Key] = set()
        while True:
            keys: list[Key] = []
            for bucket, inode, start, end in spans:
                found = await self._nodes.lookup(inode, start, end)
                keys += (key for key in found if key not in tried and round_.is_to_be_moved(bucket, key))
            result = await self._mover.move(keys, tried)
            if result is not MoveResult.NO_SPACE:
                return result is MoveResult.MOVED
            if not await self._wait_for_bucket():
                return False

    async def _wait_for_bucket(self) -> bool:
        """Wait for a bucket to move data to, if one is expected; returns whether it arrived."""
        if sum(map(_may_give, self._member_buckets)) < self._mover.copies_lacking:
            return False
        work = BucketWait(Reserve.MOVINGGC, self._mover.has_space)
        try:
            await self._shared.queue.submit(work, INDEX_TIMEOUT_S, first=True)
        except (NoFreeBuckets, LimitExceeded):
            return False
        return True


def _may_give(buckets: MemberBuckets) -> bool:
    """Whether a bucket to move data to is available or expected."""
    coming = buckets.free_inc or len(buckets.unused) or buckets.table.reclaimable_count
    return bool(coming) or buckets.reserves.has(Reserve.MOVINGGC)
