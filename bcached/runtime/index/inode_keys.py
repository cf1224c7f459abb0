# SPDX-License-Identifier: GPL-2.0-only
"""What the index holds of one inode: for a volume that is made or deleted, leaf after leaf."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from bcached.format import bkey
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.index.index_writer import as_device_failed
from bcached.state.accounting.index_health import names_data
from bcached.state.accounting.leaf_pointers import dirty_sectors
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.index.keys.extents import NO_LIMIT
from bcached.state.index.node import Leaf
from bcached.store.btree.node_cache import NodeCache


class InodeKeys:
    """Searches the index; every method may be cancelled at any await."""

    def __init__(self, nodes: NodeCache, member_buckets: Sequence[MemberBuckets], shared: Shared) -> None:
        self._nodes = nodes
        self._member_buckets = member_buckets
        self._shared = shared

    async def dirty_sectors(self, inode: int) -> int:
        """Returns the number of dirty sectors."""
        count = 0
        async for leaf in self._leaves_of(inode):
            count += dirty_sectors(leaf, inode)
        return count

    async def names_data(self, inode: int) -> bool:
        """Whether it has keys that are live or dirty."""
        async for leaf in self._leaves_of(inode):
            if names_data(leaf, inode, self._member_buckets):
                return True
        return False

    async def has_any(self, inode: int) -> bool:
        """Whether it has any keys, stale ones included."""
        async for leaf in self._leaves_of(inode):
            if leaf.live.lookup(inode, 0, NO_LIMIT, 1):
                return True
        return False

    async def _leaves_of(self, inode: int) -> AsyncIterator[Leaf]:
        """Yields the leaves that may hold keys of it, in order, each valid until the next await."""
        start = 0
        while start < bkey.END_MAX:
            with as_device_failed(self._shared):
                leaf = await self._nodes.leaf_at(inode, start)
            yield leaf
            start = min(leaf.end_within(inode), bkey.END_MAX)
            await asyncio.sleep(0)  # all may be in memory, so that no await suspends
