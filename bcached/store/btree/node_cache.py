# SPDX-License-Identifier: GPL-2.0-only
"""The loaded nodes of the index, within a memory limit: read when they are requested, evicted when clean.

A leaf that is pinned stays in memory; any other is valid until the next await only. Far over the limit, a
leaf that is not clean is evicted all the same, and only its unwritten changes stay (`Tree.defer`).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import islice

from bcached.format.bkey import WORD_BYTES
from bcached.keys import Key
from bcached.state.index.keys.extents import NO_LIMIT
from bcached.state.index.keys.interior_keys import START
from bcached.state.index.keys.key_ranges import Span
from bcached.state.index.node import Leaf, position_at
from bcached.state.index.node_paths import low_of
from bcached.state.index.tree import Missing, Tree
from bcached.store.btree.node_io import NodeIo
from bcached.store.btree.node_rules import BucketGens

WAITING_SHARE = 4  # of the limit, for changes of leaves that are not in memory
FILTERS_SHARE = 4  # of the limit, for what is known of such leaves
EVICTED_LEAVES = 16  # at once; written out first if none of the least recently used ones is clean


class NodeCache:
    """A tree, and the reader of its nodes. gens follow the pointers of the nodes that are read."""

    def __init__(self, tree: Tree, io: NodeIo, gens: BucketGens, limit_bytes: int) -> None:
        self.tree = tree
        self.io = io
        self.limit_bytes = limit_bytes  # of leaves in memory
        tree.leaves.waiting.limit_words = limit_bytes // WAITING_SHARE // WORD_BYTES
        tree.leaves.filters.limit_bytes = limit_bytes // FILTERS_SHARE
        self._gens = gens
        self._loading: dict[Key, asyncio.Event] = {}  # nodes being read, set at the end

    def __repr__(self) -> str:
        return f"<NodeCache of {self.limit_bytes} bytes, {self.tree!r}, {len(self._loading)} loading>"

    @classmethod
    async def open(cls, root: Key, level: int, io: NodeIo, gens: BucketGens, limit_bytes: int) -> "NodeCache":
        """Returns the nodes under a root that the journal names; reads only the root."""
        gens.raise_gen(root.pointers[0])
        tree = Tree(await io.read(root, level, START, gens), io.shape)
        return cls(tree, io, gens, limit_bytes)

    # The memory limit

    @property
    def is_over_limit(self) -> bool:
        """Whether so much is unwritten, or in memory, that changes must wait for leaves to be written."""
        leaves = self.tree.leaves
        return (
            leaves.unwritten_words * WORD_BYTES > self.limit_bytes // 2
            or leaves.waiting.are_too_many
            or self._is_far_over_limit
        )

    @property
    def _is_far_over_limit(self) -> bool:
        return self.tree.leaves.memory_bytes > self.limit_bytes + self.limit_bytes // 4

    def evict(self) -> bool:
        """Evict clean leaves, the least recently used first. Returns whether that reached the limit."""
        while self.tree.leaves.memory_bytes > self.limit_bytes:
            clean = [leaf for leaf in islice(self.tree.evictable(), EVICTED_LEAVES) if leaf.is_clean]
            for leaf in clean:
                if self.tree.leaves.memory_bytes > self.limit_bytes:
                    self.tree.evict(leaf)
            if not clean:
                return False
        return True

    # Loading

    async def load(self, ranges: Sequence[Span]) -> None:
        """Have ranges (inode, start, end) in memory, at least until the caller's next await."""
        pinned: dict[Leaf, None] = {}
        try:
            while any(self.tree.missing(*span) for span in ranges):
                for inode, start, end in ranges:
                    await self._load_range(inode, start, end, pinned)
        finally:
            for leaf in pinned:
                leaf.pins -= 1

    async def _load_range(self, inode: int, start: int, end: int, pinned: dict[Leaf, None]) -> None:
        while start < end:
            found = self.tree.find(inode, start)
            if isinstance(found, Missing):
                await self._load_node(found)
                continue
            if found not in pinned:
                pinned[found] = None
                found.pins += 1
            start = found.end_within(inode)

    async def _load_node(self, missing: Missing) -> None:
        """Read a node, and attach it if its parent still has its key.

        A node that is being read is waited for, not read twice: the second copy could miss changes.
        """
        under_way = self._loading.get(missing.key)
        if under_way is not None:
            await under_way.wait()
            return
        ended = self._loading[missing.key] = asyncio.Event()
        try:
            self._evict_for_one_more()
            low = low_of(self.tree.root, missing.key)
            node = await self.io.read(missing.key, missing.level, low, self._gens, missing.below)
            self.tree.attach(missing, node)
        finally:
            del self._loading[missing.key]
            ended.set()

    def _evict_for_one_more(self) -> None:
        """Evict leaves before one more is read; far over the limit, keep only the changes of some dirty ones.

        A change of keys waits until leaves are written out; a look-up or a collection does not.
        """
        if not self.evict() and self._is_far_over_limit:
            for leaf in list(islice(self.tree.evictable(), EVICTED_LEAVES)):
                if leaf.writing is None and not leaf.is_torn and leaf not in self.tree.leaves.oversize:
                    self.tree.defer(leaf)

    async def leaf_at(self, inode: int, sector: int) -> Leaf:
        """Returns the leaf that holds a sector, loaded at least until the caller's next await."""
        await self.load([(inode, sector, sector + 1)])
        leaf = self.tree.find(inode, sector)
        assert isinstance(leaf, Leaf)
        return leaf

    async def leaves(self) -> AsyncIterator[Leaf]:
        """Yields every leaf in order, each valid until the next await; the tree may change between two."""
        bound = 0
        while bound != self.tree.last_bound:
            leaf = await self.leaf_at(*position_at(bound))
            bound = leaf.bound
            yield leaf

    async def lookup(self, inode: int, start: int, end: int, limit: int = NO_LIMIT) -> list[Key]:
        """Returns the keys in [start, end), stale or not, at most limit of them.

        Leaf by leaf where some are not loaded: all of them may exceed the memory limit.
        """
        keys, until = self.tree.scan(inode, start, end, limit)
        while until < end and len(keys) < limit:
            await self.leaf_at(inode, until)
            more, until = self.tree.scan(inode, until, end, limit - len(keys))
            keys += more
        return keys
