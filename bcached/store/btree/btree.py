"""The index on its devices: loads requested ranges, writes out changes, stays within its memory limit.

Rules of this file. No leaf is written before the journal entry with its newest key is durable. A node is
appended to, one block at a time, as long as it has space; else it is rewritten to another bucket
(state/index/tree_change.py), before anything names that. The bucket of a replaced node is free only when the
pointer to the new one is durable.

Order of locks: a leaf's turn (those of neighbours from left to right), then the lock of the tree's shape.
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
from bcached.state.index.bset_packing import PackedKeys
from bcached.state.index.extents import NO_LIMIT
from bcached.state.index.interior_keys import START
from bcached.state.index.node import Interior, Leaf, Node, bound_of, key_of, position_at
from bcached.state.index.tree import Missing, Tree
from bcached.store.btree.interfaces import NodeAllocator, NodeJournal
from bcached.store.btree.node_io import NodeIo
from bcached.store.btree.node_replacement import NodeReplacement, pinned_leaves

Prepare = Callable[[], Awaitable[None]]

COALESCED_MAX = 4  # kernel: GC_MERGE_NODES
WRITTEN_LEAVES = 128  # at once: starting to write one takes ten microseconds
LEAVES_A_LOOK = 512  # a millisecond
EVICTED_LEAVES = 16  # at once; written out first if none of the least recently used ones is clean


class Btree:
    """A tree, its nodes' devices, and the buckets and the journal it needs. rng is for the nodes' seqs."""

    def __init__(
        self,
        tree: Tree,
        io: NodeIo,
        buckets: NodeAllocator,
        journal: NodeJournal,
        rng: Random,
        cache_bytes: int,
    ) -> None:
        self.tree = tree
        self.cache_bytes = cache_bytes
        self.io = io
        self._buckets = buckets
        self._journal = journal
        self._shape = NodeReplacement(tree, io, buckets, journal, rng)
        self._write_locks: WeakKeyDictionary[Leaf, asyncio.Lock] = WeakKeyDictionary()
        self._loading: dict[Key, asyncio.Event] = {}
        self._space: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls,
        root: Key,
        level: int,
        io: NodeIo,
        buckets: NodeAllocator,
        journal: NodeJournal,
        rng: Random,
        cache_bytes: int,
    ) -> "Btree":
        """Returns the tree under a root that the journal names; reads only the root."""
        buckets.raise_gen(root.pointers[0])
        tree = Tree(await io.read(root, level, START, buckets), io.shape)
        return cls(tree, io, buckets, journal, rng, cache_bytes)

    # Loading

    async def load(self, ranges: Sequence[tuple[int, int, int]]) -> None:
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
            self._make_room()
            low = self.tree.low_of(missing.key)
            node = await self.io.read(missing.key, missing.level, low, self._buckets, missing.below)
            self.tree.attach(missing, node)
        finally:
            del self._loading[missing.key]
            ended.set()

    def evict(self) -> bool:
        """Evict clean leaves, the least recently used first. Returns whether that reached the limit."""
        while self.tree.cached_bytes > self.cache_bytes:
            clean = [leaf for leaf in islice(self.tree.evictable(), EVICTED_LEAVES) if leaf.is_clean]
            for leaf in clean:
                if self.tree.cached_bytes > self.cache_bytes:
                    self.tree.evict(leaf)
            if not clean:
                return False
        return True

    def _make_room(self) -> None:
        """Evict leaves before one more is read; far over the limit, keep only the changes of some dirty ones.

        A change of keys waits until leaves are written out; a look-up or a collection does not.
        """
        if not self.evict() and self._is_far_over_limit:
            for leaf in list(islice(self.tree.evictable(), EVICTED_LEAVES)):
                if leaf.writing is None and not leaf.is_torn and leaf not in self.tree.oversize:
                    self.tree.defer(leaf)

    async def trim(self) -> None:
        """Evict leaves down to the memory limit, writing out those that must be clean for that."""
        while not self.evict():
            oldest = list(islice(self.tree.evictable(), EVICTED_LEAVES))
            if not oldest:
                break
            await self.write_leaves(oldest)
        self.wake_throttled()

    async def write_back(self) -> None:
        """Write out leaves, the least recently used first, while too much is unwritten."""
        tree = self.tree
        while tree.unwritten_words * WORD_BYTES > self.cache_bytes // 4:
            dirty = list(islice((leaf for leaf in tree.leaves if not leaf.is_clean), EVICTED_LEAVES))
            await self.write_leaves(dirty)
        await self.trim()

    def wake_throttled(self) -> None:
        """Wake the waiters for space; each checks again whether there is enough."""
        if self._space is not None:
            self._space.set_result(None)
            self._space = None

    @property
    def has_throttled(self) -> bool:
        """Whether there are waiters for space."""
        return self._space is not None

    @property
    def is_over_limit(self) -> bool:
        """Whether so much is unwritten, or in memory, that changes must wait for leaves to be written."""
        return self.tree.unwritten_words * WORD_BYTES > self.cache_bytes // 2 or self._is_far_over_limit

    @property
    def _is_far_over_limit(self) -> bool:
        return self.tree.cached_bytes > self.cache_bytes + self.cache_bytes // 4

    async def wait_for_trim(self) -> None:
        """Return after the next trim, which the caller must request; check `is_over_limit` again then."""
        if self._space is None:
            self._space = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._space)

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

    # Keys

    def insert(self, key: Key, seq: int) -> Sequence[Key]:
        """Insert a key of a journal entry, in order. Returns the parts of older keys it cut off.

        Its range is loaded.
        """
        return self.tree.insert(key, seq)

    async def lookup(self, inode: int, start: int, end: int, limit: int = NO_LIMIT) -> list[Key]:
        """Returns the keys in [start, end), stale or not, at most limit of them."""
        found = self.tree.lookup(inode, start, end, limit)
        if not isinstance(found, Missing):
            return found
        keys: list[Key] = []  # leaf by leaf: all of them may exceed the memory limit
        while start < end and len(keys) < limit:
            leaf = await self.leaf_at(inode, start)
            keys += leaf.live.lookup(inode, start, end, limit - len(keys))
            start = leaf.end_within(inode)
        return keys

    # Writing leaves

    async def write_wanted(self) -> None:
        """Write out the leaves that have a block's worth of new keys, or a torn bset."""
        await self.write_leaves(list(self.tree.wanted))
        await self.trim()

    async def write_through(self, seq: int | None) -> None:
        """Write out the leaves that need an entry as old as seq, so that the journal can release it."""
        while self.tree.needs(seq):
            leaves = await self._unwritten_leaves(seq) or await self._deferred_leaves(seq)
            await self.write_leaves(leaves)

    async def write_all(self) -> None:
        """Write out the leaves until all are clean; nothing is being inserted any more."""
        await self.rewrite_torn()
        await self.write_through(None)

    async def _unwritten_leaves(self, seq: int | None) -> list[Leaf]:
        """Returns unwritten leaves in memory, checked some at a time; one loaded meanwhile may be missed."""
        found: list[Leaf] = []
        leaves = list(self.tree.leaves)
        for start in range(0, len(leaves), LEAVES_A_LOOK):
            if start:
                await asyncio.sleep(0)
            found += self.tree.unwritten_leaves(seq, leaves[start : start + LEAVES_A_LOOK])
        return found

    async def _deferred_leaves(self, seq: int | None) -> list[Leaf]:
        """Read some of the leaves that have deferred changes and are not in memory."""
        bounds = self.tree.deferred_bounds(seq)[:EVICTED_LEAVES]
        return [await self.leaf_at(*position_at(bound - 1)) for bound in bounds]

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
            parts = PackedKeys([leaf.unwritten.extents]).filled(self.io.shape.block_words)
            room = self.io.shape.blocks_of(leaf.key.sectors) - leaf.blocks_used
            if len(parts) <= room and not leaf.is_torn:
                await self._append(leaf, parts)
            else:
                await self._shape.replace_leaves([leaf])

    async def rewrite(self, node: Node, prepare: Prepare | None = None) -> None:
        """Rewrite a node, unless it is gone: without keys that are stale, or without a torn bset.

        prepare may change a leaf first, while it is not being written: keys that it removes in memory are
        then in no node under way.
        """
        if isinstance(node, Interior):
            await self._shape.replace_interiors([node])
            return
        with pinned_leaves([node]):
            async with self._write_locked([node]):
                if prepare is not None and not node.is_detached:
                    await prepare()
                await self._shape.replace_leaves([node])

    async def rewrite_torn(self) -> None:
        """Rewrite the loaded nodes whose last bset was torn."""
        nodes: list[Node] = [*self.tree.leaves, *self.tree.interiors()]
        for node in nodes:
            if node.is_torn:
                await self.rewrite(node)

    async def _append(self, leaf: Leaf, parts: list[bytes]) -> None:
        newest = leaf.unwritten.newest_seq
        with self._shape.stopping_on_failure(f"writing a leaf, {leaf.key}"):
            self.tree.begin_write(leaf)
            await self._journal.durable(newest)
            await self.io.append(leaf, parts)
        self.tree.end_write(leaf, len(parts))

    # The shape

    async def coalesce(self, level: int, inode: int, sector: int) -> int:
        """Merge the node at a position and the next few if fewer nodes can hold their keys.

        Returns the position where the next node of that level begins, for a walk over all of them.
        """
        await self.leaf_at(inode, sector)
        node = self.tree.node_at(level, inode, sector)
        path = self.tree.path_to(node)
        if not path:
            return self.tree.last_bound
        parent, index = path[-1]
        keys = [key_of(child) for child in parent.children[index : index + COALESCED_MAX]]
        if level == 0:
            await self._coalesce_leaves(keys)
        else:
            await self._coalesce_interiors(parent, keys)
        await self.leaf_at(inode, sector)
        return bound_of(self.tree.node_at(level, inode, sector).key)

    async def _coalesce_leaves(self, keys: list[Key]) -> None:
        """Coalesce the leaves that end where these do, if they are still neighbours once locked."""
        places = [position_at(bound_of(key) - 1) for key in keys]
        await self.load([(inode, sector, sector + 1) for inode, sector in places])
        found = [self.tree.find(inode, sector) for inode, sector in places]
        leaves = [leaf for leaf in dict.fromkeys(found) if isinstance(leaf, Leaf)]
        words = sum(leaf.live.word_count for leaf in leaves)
        if self.io.shape.coalescence(words, len(leaves)) is None:
            return
        with pinned_leaves(leaves):
            async with self._write_locked(leaves):
                await self._shape.replace_leaves(leaves, coalesce=True)

    async def _coalesce_interiors(self, parent: Interior, keys: list[Key]) -> None:
        nodes = [parent.children[parent.place_of(key)] for key in keys]
        interiors = [node for node in nodes if isinstance(node, Interior)]
        if len(interiors) == len(keys):  # all are loaded
            await self._shape.replace_interiors(interiors, coalesce=True)

    async def shrink(self) -> bool:
        """Make the root's only child the root. Returns False if it has several, or is a leaf."""
        await self.leaf_at(0, 0)
        return await self._shape.lower_root()

    # Taking turns

    @asynccontextmanager
    async def _write_locked(self, leaves: Sequence[Leaf]) -> AsyncIterator[None]:
        """Hold the write locks of these leaves, which are given from left to right."""
        async with AsyncExitStack() as stack:
            for leaf in leaves:
                await stack.enter_async_context(self._write_locks.setdefault(leaf, asyncio.Lock()))
            yield
