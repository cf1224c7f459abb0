# SPDX-License-Identifier: GPL-2.0-only
"""Buckets for the nodes of the index, out of the btree reserves of all members.

The last few are only for rewriting: a rewrite of a node takes one bucket and frees one, so with a handful
of buckets the index can always be written out. Growth of the index leaves these alone.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from bcached.keys import Key, Pointer
from bcached.runtime.coordination.conditions import Fact
from bcached.runtime.coordination.shared import Shared
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.gens import behind
from bcached.state.buckets.geometry import BucketId
from bcached.state.buckets.reserves import Reserve, kept_for_rewriting, needed_for_a_split
from bcached.state.index.tree import Tree
from bcached.state.sectors.pending_allocations import BucketWait
from bcached.state.sectors.sector_allocator import SectorAllocator

FOREVER_S = 1e9  # thirty years


class NodeBuckets:
    """Takes and frees buckets for nodes (store/btree/interfaces.py); bucket_ids are the buckets in use."""

    def __init__(self, sectors: SectorAllocator, shared: Shared, keys: Iterable[Key]) -> None:
        self._sectors = sectors
        self._shared = shared
        self._root_level = 0
        self.bucket_ids: set[BucketId] = {self._bucket_id(key.pointers[0]) for key in keys}

    def fit(self, root_level: int) -> None:
        """Set the reserves' capacity, and what is kept for rewriting, to a tree of this height."""
        self._root_level = root_level
        for buckets in self._sectors.members:
            buckets.reserves.fit_tree(root_level)
        self._shared.buckets_moved()

    def may_grow(self, tree: Tree) -> bool:
        """Whether there are buckets for any one change, and for splitting the oversize leaves."""
        root_level = tree.root.level
        if root_level != self._root_level:
            self.fit(root_level)
        return self.suffices((1 + len(tree.leaves.oversize)) * needed_for_a_split(root_level), 1)

    def available(self) -> int:
        """Returns how many buckets could be taken now."""
        count = 0
        for buckets in self._sectors.members:
            count += buckets.reserves.available(Reserve.BTREE)
        return count

    def suffices(self, count: int, growth: int) -> bool:
        """Whether count buckets could be taken now, for a tree that will have `growth` more nodes."""
        return self.available() >= count + (kept_for_rewriting(self._root_level) if growth > 0 else 0)

    def take(self, count: int, growth: int) -> list[Pointer] | None:
        """Returns buckets for new nodes; None if there are not enough."""
        if not self.suffices(count, growth):
            return None
        taken: list[BucketId] = []
        for _ in range(count):
            bucket_id = self._sectors.take_metadata(State.BTREE)
            if bucket_id is None:  # the available buckets may not be used for metadata yet
                self._give_back(taken)
                return None
            taken.append(bucket_id)
        self.bucket_ids.update(taken)
        self._trace("bcache_btree_node_alloc", taken)
        self._shared.traffic.count_allocated()
        self._shared.buckets_moved()
        return [self._pointer(bucket_id) for bucket_id in taken]

    async def wait_for(self, count: int, growth: int) -> None:
        """Wait for count buckets; the caller tries to take them again."""
        self._shared.steps.waiting_for_nodes += 1
        if self._shared.trace.listeners:
            self._shared.trace.emit("bcache_btree_node_alloc_fail", nodes=count)
        self._shared.conditions.announce(Fact.LEAVES_WRITTEN)
        try:
            work = BucketWait(Reserve.BTREE, partial(self.suffices, count, growth))
            await self._shared.queue.submit(work, FOREVER_S, first=True)
        finally:
            self._shared.steps.waiting_for_nodes -= 1

    async def wait_to_grow(self, tree: Tree, timeout_s: float) -> None:
        """Return when the tree may grow; raises NoFreeBuckets after timeout_s."""
        await self._shared.queue.submit(BucketWait(Reserve.BTREE, partial(self.may_grow, tree)), timeout_s)

    def may_bump(self, pointer: Pointer) -> bool:
        """Whether the gen of the pointer's bucket can rise."""
        device, bucket = self._bucket_id(pointer)
        return self._sectors.members[device].table.may_bump(bucket)

    def bump(self, pointer: Pointer) -> int:
        """Make the pointer stale; prios are not written until a node on the device has the new gen."""
        device, bucket = self._bucket_id(pointer)
        self._shared.prios.block()
        return self._sectors.members[device].table.bump(bucket)

    def bumps_durable(self, count: int) -> None:
        """Account for count bumps that a durable node records: these gens may be written now."""
        self._shared.prios.unblock(count)

    def free(self, pointer: Pointer) -> None:
        """Free the pointer's bucket: nothing references the node in it any more.

        The tree has changed, and with it how many buckets it needs to grow: waiters are served although the
        reserves may be full, and no bucket moves to them.
        """
        bucket_id = self._bucket_id(pointer)
        self.bucket_ids.remove(bucket_id)
        self._trace("bcache_btree_node_free", [bucket_id])
        self._give_back([bucket_id])
        self._shared.queue.serve()

    def raise_gen(self, pointer: Pointer) -> None:
        """Raise the bucket's gen to the pointer's; none is ahead: read at the opening, or written since."""
        device, bucket = self._bucket_id(pointer)
        self._sectors.members[device].table.raise_gen(bucket, pointer.gen)

    def staleness(self, pointer: Pointer) -> int:
        """Returns how many gens the pointer is behind its bucket."""
        device, bucket = self._bucket_id(pointer)
        return behind(pointer.gen, self._sectors.members[device].table.gens[bucket])

    def _trace(self, name: str, bucket_ids: Sequence[BucketId]) -> None:
        if self._shared.trace.listeners:
            for device, bucket in bucket_ids:
                self._shared.trace.emit(name, device=device, bucket=bucket)

    def _bucket_id(self, pointer: Pointer) -> BucketId:
        return pointer.device, self._sectors.members[pointer.device].geometry.bucket_of(pointer.sector)

    def _pointer(self, bucket_id: BucketId) -> Pointer:
        device, bucket = bucket_id
        buckets = self._sectors.members[device]
        return Pointer(device, buckets.geometry.sector_of(bucket), buckets.table.gens[bucket])

    def _give_back(self, bucket_ids: Iterable[BucketId]) -> None:
        for device, bucket in bucket_ids:
            self._sectors.members[device].free_metadata([bucket])
        self._shared.buckets_moved()
