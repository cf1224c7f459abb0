# SPDX-License-Identifier: GPL-2.0-only
"""The leaves that may hold keys which no look-up finds, while a set is opened.

Whether a key is stale is certain only when all gens are known and the journal is merged into the leaves. So a
leaf with suspicious keys when it was counted is checked once more then; a sound set has none.
"""

import asyncio
from collections.abc import Container, Sequence

from bcached.keys import Key, Pointer
from bcached.state.accounting.index_health import Tally
from bcached.state.accounting.volume_use import VolumeUse
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.index.node import Leaf, position_at
from bcached.store.btree.node_cache import NodeCache

LEAVES_A_TURN = 64


class DoubtfulLeaves:
    """Their bounds, or are_all if any leaf may be one."""

    def __init__(self, member_buckets: Sequence[MemberBuckets], volumes: Container[int]) -> None:
        self.bounds: set[int] = set()
        self.are_all = False
        self.member_buckets = member_buckets
        self._volumes = volumes

    def see_inodes(self, leaf: Leaf) -> None:
        """Mark a leaf with keys of an inode that no volume has."""
        if any(run.inode not in self._volumes for run in leaf.live.runs):
            self.bounds.add(leaf.bound)

    def see_key(self, bound: int, key: Key) -> None:
        """Mark the leaf of a key of the journal if that is an orphan, or dirty and stale; gens are known."""
        is_orphan = bool(key.pointers) and key.inode not in self._volumes
        if is_orphan or (key.dirty and any(map(self._is_stale, key.pointers))):
            self.bounds.add(bound)

    def _is_stale(self, pointer: Pointer) -> bool:
        if pointer.device >= len(self.member_buckets):
            return False
        buckets = self.member_buckets[pointer.device]
        return buckets.table.gens[buckets.geometry.bucket_of(pointer.sector)] != pointer.gen

    async def count(self, reader: NodeCache, use: VolumeUse) -> Tally:
        """Returns what the marked leaves hold, with all keys merged; counts use again if those are all."""
        tally = Tally()
        if self.are_all:
            use.clear()
            async for leaf in reader.leaves():
                use.add_leaves([leaf], self.member_buckets)
                tally.add(leaf, self.member_buckets, self._volumes)
            return tally
        for number, bound in enumerate(sorted(self.bounds)):
            leaf = await reader.leaf_at(*position_at(bound - 1))
            tally.add(leaf, self.member_buckets, self._volumes)
            if (number + 1) % LEAVES_A_TURN == 0:
                await asyncio.sleep(0)
        return tally
