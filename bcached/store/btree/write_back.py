# SPDX-License-Identifier: GPL-2.0-only
"""The changes of the index on their way to its devices: leaves written out, nodes rewritten and coalesced.

Rules of this file. No leaf is written before the journal entry with its newest key is durable. A node is
appended to, one block at a time, as long as it has space; else it is rewritten to another bucket
(state/index/tree_change.py), before anything names that. The bucket of a replaced node is free only when the
pointer to the new one is durable.

Order of locks: a leaf's write lock (those of neighbours from left to right), then the lock of
the tree's shape.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import islice
from random import Random
from weakref import WeakKeyDictionary

from bcached.device.run_all import run_all
from bcached.errors import RequestError
from bcached.format.bkey import WORD_BYTES
from bcached.keys import Key
from bcached.state.index.keys.bset_packing import PackedKeys
from bcached.state.index.node import Interior, Leaf, Node, bound_of, key_of, position_at
from bcached.state.index.node_paths import interiors, node_at, path_to
from bcached.store.btree.interfaces import NodeAllocator, NodeJournal
from bcached.store.btree.node_cache import EVICTED_LEAVES, NodeCache
from bcached.store.btree.node_replacement import NodeReplacement, pinned_leaves

Prepare = Callable[[], Awaitable[None]]

COALESCED_MAX = 4  # kernel: GC_MERGE_NODES
MERGED_LEAVES = 8  # at once, of those that changes wait for
WRITTEN_LEAVES = 128  # at once: starting to write one takes ten microseconds
LEAVES_A_LOOK = 512  # a millisecond


class WriteBack:
    """Writes the changes of the loaded nodes, with buckets and a journal. rng is for the nodes' seqs."""

    def __init__(self, nodes: NodeCache, buckets: NodeAllocator, journal: NodeJournal, rng: Random) -> None:
        self.nodes = nodes
        self.replacement = NodeReplacement(nodes.tree, nodes.io, buckets, journal, rng)
        self._tree = nodes.tree
        self._io = nodes.io
        self._journal = journal
        self._write_locks: WeakKeyDictionary[Leaf, asyncio.Lock] = WeakKeyDictionary()
        self._trimmed: asyncio.Future[None] | None = None  # while changes wait for the next trim

    # The memory limit

    async def trim(self) -> None:
        """Evict leaves down to the memory limit, writing out those that must be clean for that."""
        while not self.nodes.evict():
            oldest = list(islice(self._tree.evictable(), EVICTED_LEAVES))
            if not oldest:
                break
            await self.write_leaves(oldest)
        self.wake_throttled()

    async def reduce_unwritten(self) -> None:
        """Write out leaves, the least recently used first, while too much is unwritten.

        Those that changes wait for come first if these are most of it.
        """
        leaves = self._tree.leaves
        while leaves.waiting.are_many or leaves.unwritten_words * WORD_BYTES > self.nodes.limit_bytes // 4:
            if leaves.waiting.are_many or 2 * leaves.waiting.words > leaves.unwritten_words:
                await self.write_waiting()
            else:
                dirty = list(islice((leaf for leaf in leaves if not leaf.is_clean), EVICTED_LEAVES))
                await self.write_leaves(dirty)
        await self.trim()

    async def write_waiting(self) -> None:
        """Read some leaves, those that most changes wait for, and write them out."""
        bounds = self._tree.leaves.waiting.fullest(MERGED_LEAVES)
        await self.write_leaves([await self.nodes.leaf_at(*position_at(bound - 1)) for bound in bounds])
        await self.trim()

    def wake_throttled(self) -> None:
        """Wake the changes that wait for a trim; each checks again whether it may be made."""
        if self._trimmed is not None:
            self._trimmed.set_result(None)
            self._trimmed = None

    @property
    def has_throttled(self) -> bool:
        """Whether changes wait for a trim."""
        return self._trimmed is not None

    async def wait_for_trim(self) -> None:
        """Return after the next trim, which the caller must request; check `is_over_limit` again then."""
        if self._trimmed is None:
            self._trimmed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._trimmed)

    # Writing leaves

    async def write_wanted(self) -> None:
        """Write out the leaves that have a block's worth of new keys, or a torn bset."""
        await self.write_leaves(list(self._tree.leaves.wanted))
        await self.trim()

    async def write_through(self, seq: int | None) -> None:
        """Write out the leaves that need an entry as old as seq, so that the journal can release it."""
        while self._tree.leaves.needs(seq):
            leaves = await self._unwritten_leaves(seq) or await self._deferred_leaves(seq)
            await self.write_leaves(leaves)

    async def write_all(self) -> None:
        """Write out the leaves until all are clean; nothing is being inserted any more."""
        await self.rewrite_torn()
        await self.write_through(None)

    async def _unwritten_leaves(self, seq: int | None) -> list[Leaf]:
        """Returns unwritten leaves in memory, checked some at a time; one loaded meanwhile may be missed."""
        found: list[Leaf] = []
        leaves = list(self._tree.leaves)
        for start in range(0, len(leaves), LEAVES_A_LOOK):
            if start:
                await asyncio.sleep(0)
            found += self._tree.leaves.unwritten(seq, leaves[start : start + LEAVES_A_LOOK])
        return found

    async def _deferred_leaves(self, seq: int | None) -> list[Leaf]:
        """Read some of the leaves that have deferred changes and are not in memory."""
        bounds = list(islice(self._tree.leaves.deferred_bounds(seq), EVICTED_LEAVES))
        return [await self.nodes.leaf_at(*position_at(bound - 1)) for bound in bounds]

    async def write_leaves(self, leaves: Sequence[Leaf]) -> None:
        """Write out some leaves, appending to several at the same time.

        If the buckets run out for one of them, the writes of the others go on to their end.
        """
        if len(leaves) == 1:
            await self.write_out(leaves[0])
            return
        refusals: list[RequestError] = []

        async def write(leaf: Leaf) -> None:
            try:
                await self.write_out(leaf)
            except RequestError as refusal:
                refusals.append(refusal)

        for start in range(0, len(leaves), WRITTEN_LEAVES):
            await run_all(partial(write, leaf) for leaf in leaves[start : start + WRITTEN_LEAVES])
        if refusals:
            raise refusals[0]

    async def write_out(self, leaf: Leaf) -> None:
        """Write out a leaf's unwritten keys; if other leaves replaced it, they have them now."""
        async with self._write_locked([leaf]):
            if leaf.is_detached or leaf.is_clean:
                return
            parts = PackedKeys([leaf.unwritten.extents]).filled(self._io.shape.block_words)
            blocks_free = self._io.shape.blocks_of(leaf.key.sectors) - leaf.blocks_used
            if len(parts) <= blocks_free and not leaf.is_torn:
                await self._append(leaf, parts)
            else:
                await self.replacement.replace_leaves([leaf])

    async def rewrite(self, node: Node, prepare: Prepare | None = None) -> None:
        """Rewrite a node unless it was replaced meanwhile: without stale keys, or without a torn bset.

        prepare may change a leaf first, while it is not being written: keys that it removes in memory are
        then in no node under way.
        """
        if isinstance(node, Interior):
            await self.replacement.replace_interiors([node])
            return
        with pinned_leaves([node]):
            async with self._write_locked([node]):
                if prepare is not None and not node.is_detached:
                    await prepare()
                await self.replacement.replace_leaves([node])

    async def rewrite_torn(self) -> None:
        """Rewrite the loaded nodes whose last bset was torn."""
        nodes: list[Node] = [*self._tree.leaves, *interiors(self._tree.root)]
        for node in nodes:
            if node.is_torn:
                await self.rewrite(node)

    async def _append(self, leaf: Leaf, parts: list[bytes]) -> None:
        newest = leaf.unwritten.newest_seq
        with self.replacement.stopping_on_failure(f"writing a leaf, {leaf.key}"):
            self._tree.leaves.begin_write(leaf)
            await self._journal.durable(newest)
            await self._io.append(leaf, parts)
        self._tree.leaves.end_write(leaf, len(parts))

    # The shape

    async def coalesce(self, level: int, inode: int, sector: int) -> int:
        """Merge the node at a position and the next few if fewer nodes can hold their keys.

        Returns the position where the next node of that level begins, for a walk over all of them.
        """
        await self.nodes.leaf_at(inode, sector)
        node = node_at(self._tree.root, level, inode, sector)
        path = path_to(self._tree.root, node)
        if not path:
            return self._tree.last_bound
        parent, index = path[-1]
        keys = [key_of(child) for child in parent.children[index : index + COALESCED_MAX]]
        if level == 0:
            await self._coalesce_leaves(keys)
        else:
            await self._coalesce_interiors(parent, keys)
        await self.nodes.leaf_at(inode, sector)
        return bound_of(node_at(self._tree.root, level, inode, sector).key)

    async def _coalesce_leaves(self, keys: list[Key]) -> None:
        """Coalesce the leaves that end where these do, if they are still neighbours once locked."""
        ends = [position_at(bound_of(key) - 1) for key in keys]
        await self.nodes.load([(inode, sector, sector + 1) for inode, sector in ends])
        found = [self._tree.find(inode, sector) for inode, sector in ends]
        leaves = [leaf for leaf in dict.fromkeys(found) if isinstance(leaf, Leaf)]
        words = sum(leaf.live.word_count for leaf in leaves)
        if self._io.shape.coalescence(words, len(leaves)) is None:
            return
        with pinned_leaves(leaves):
            async with self._write_locked(leaves):
                await self.replacement.replace_leaves(leaves, coalesce=True)

    async def _coalesce_interiors(self, parent: Interior, keys: list[Key]) -> None:
        nodes = [parent.children[parent.index_of_key(key)] for key in keys]
        loaded = [node for node in nodes if isinstance(node, Interior)]
        if len(loaded) == len(keys):
            await self.replacement.replace_interiors(loaded, coalesce=True)

    async def shrink(self) -> bool:
        """Make the root's only child the root. Returns False if it has several, or is a leaf."""
        await self.nodes.leaf_at(0, 0)
        return await self.replacement.lower_root()

    # Locks

    @asynccontextmanager
    async def _write_locked(self, leaves: Sequence[Leaf]) -> AsyncIterator[None]:
        """Hold the write locks of these leaves, which are given from left to right."""
        async with AsyncExitStack() as stack:
            for leaf in leaves:
                await stack.enter_async_context(self._write_locks.setdefault(leaf, asyncio.Lock()))
            yield
