"""The index on its devices: loads what is asked for, writes out what has changed, keeps within its memory.

Rules of this file. No leaf is written before the journal entry with its newest key is durable. A node is
appended to, one block at a time, as long as it has room; else it is written anew to a bucket of its own
(state/index/tree_change.py), before anything names it. The bucket of a node that was replaced is free only
when what names the new one is durable.

Order of locks: a leaf's turn (those of neighbours from left to right), then the lock of the tree's shape.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import islice
from random import Random
from weakref import WeakKeyDictionary

from bcached.device.together import together
from bcached.errors import RequestError
from bcached.format.bkey import WORD_BYTES
from bcached.keys import Key
from bcached.state.index.bset_packing import PackedKeys
from bcached.state.index.extents import NO_LIMIT
from bcached.state.index.interior_keys import START
from bcached.state.index.node import Interior, Leaf, Node, bound_of, key_of, position_at
from bcached.state.index.tree import Missing, Tree
from bcached.store.btree.interfaces import NodeBuckets, NodeJournal
from bcached.store.btree.node_io import NodeIo
from bcached.store.btree.node_replacement import TreeShape, pinned_leaves

Prepare = Callable[[], Awaitable[None]]

COALESCED_MAX = 4  # kernel: GC_MERGE_NODES
WRITTEN_LEAVES = 128  # at once: beginning takes one of them ten microseconds
LEAVES_A_LOOK = 512  # a millisecond
EVICTED_LEAVES = 16  # at once; written out before when none of those used longest ago is clean


class Btree:
    """A tree, its nodes' devices, and the buckets and the journal it needs. Random is for the nodes' seqs."""

    def __init__(
        self,
        tree: Tree,
        io: NodeIo,
        buckets: NodeBuckets,
        journal: NodeJournal,
        rng: Random,
        cache_bytes: int,
    ) -> None:
        self.tree = tree
        self.cache_bytes = cache_bytes
        self.io = io
        self._buckets = buckets
        self._journal = journal
        self._shape = TreeShape(tree, io, buckets, journal, rng)
        self._turns: WeakKeyDictionary[Leaf, asyncio.Lock] = WeakKeyDictionary()
        self._loading: dict[Key, asyncio.Event] = {}
        self._space: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls,
        root: Key,
        level: int,
        io: NodeIo,
        buckets: NodeBuckets,
        journal: NodeJournal,
        rng: Random,
        cache_bytes: int,
    ) -> "Btree":
        """The tree under a root that the journal names; nothing but the root is read."""
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
        """Read a node, and put it in its place if that is still there.

        Nobody reads a node that is being read: by the time he puts it in, others may have changed it.
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
        """Let go of clean leaves, those used longest ago, while there are too many; whether that sufficed."""
        while self.tree.cached_bytes > self.cache_bytes:
            clean = [leaf for leaf in islice(self.tree.evictable(), EVICTED_LEAVES) if leaf.is_clean]
            for leaf in clean:
                if self.tree.cached_bytes > self.cache_bytes:
                    self.tree.evict(leaf)
            if not clean:
                return False
        return True

    def _make_room(self) -> None:
        """Let go of leaves before one more is read, also of some that are not clean if they are far too many.

        Whoever changes keys waits while they are written out; a look-up or a collection does not.
        """
        if not self.evict() and self._is_overfull:
            for leaf in list(islice(self.tree.evictable(), EVICTED_LEAVES)):
                if leaf.writing is None and not leaf.is_torn and leaf not in self.tree.overfull:
                    self.tree.set_aside(leaf)

    async def trim(self) -> None:
        """Have no more leaves in memory than the bound allows, and write out what must be gone for that."""
        while not self.evict():
            oldest = list(islice(self.tree.evictable(), EVICTED_LEAVES))
            if not oldest:
                break
            await self.write_leaves(oldest)
        self.give_space()

    async def relieve(self) -> None:
        """Write out leaves, those used longest ago first, while too much is unwritten."""
        tree = self.tree
        while tree.unwritten_words * WORD_BYTES > self.cache_bytes // 4:
            dirty = list(islice((leaf for leaf in tree.leaves if not leaf.is_clean), EVICTED_LEAVES))
            await self.write_leaves(dirty)
        await self.trim()

    def give_space(self) -> None:
        """Let go of those who wait for space; each looks again whether there is enough, and who else came."""
        if self._space is not None:
            self._space.set_result(None)
            self._space = None

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits for space."""
        return self._space is not None

    @property
    def is_crowded(self) -> bool:
        """Whether so much is unwritten, or in memory, that it must be written before there is more."""
        return self.tree.unwritten_words * WORD_BYTES > self.cache_bytes // 2 or self._is_overfull

    @property
    def _is_overfull(self) -> bool:
        return self.tree.cached_bytes > self.cache_bytes + self.cache_bytes // 4

    async def wait_for_space(self) -> None:
        """Return when it is not crowded any more, perhaps; whoever trims says so, and must be asked to."""
        if self._space is None:
            self._space = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._space)

    async def leaf_at(self, inode: int, sector: int) -> Leaf:
        """The leaf that holds a sector, loaded at least until the caller's next await."""
        await self.load([(inode, sector, sector + 1)])
        leaf = self.tree.find(inode, sector)
        assert isinstance(leaf, Leaf)
        return leaf

    async def leaves(self) -> AsyncIterator[Leaf]:
        """Every leaf in order, each good until the next await; the tree may change between two of them."""
        bound = 0
        while bound != self.tree.last_bound:
            leaf = await self.leaf_at(*position_at(bound))
            bound = leaf.bound
            yield leaf

    # Keys

    def insert(self, key: Key, seq: int) -> Sequence[Key]:
        """Take in a key of a journal entry, in order; what it cut out of older ones. Its range is loaded."""
        return self.tree.insert(key, seq)

    async def lookup(self, inode: int, start: int, end: int, limit: int = NO_LIMIT) -> list[Key]:
        """What lies in [start, end), stale or not, at most limit keys."""
        found = self.tree.lookup(inode, start, end, limit)
        if not isinstance(found, Missing):
            return found
        keys: list[Key] = []  # leaf by leaf, for all of them may be more than there is memory for
        while start < end and len(keys) < limit:
            leaf = await self.leaf_at(inode, start)
            keys += leaf.live.lookup(inode, start, end, limit - len(keys))
            start = leaf.end_within(inode)
        return keys

    # Writing leaves

    async def write_wanted(self) -> None:
        """Write out the leaves that have a block's worth of new keys, or are to be mended."""
        await self.write_leaves(list(self.tree.wanted))
        await self.trim()

    async def write_through(self, seq: int | None) -> None:
        """Write out the leaves that need an entry as old as seq, so that the journal can let go of it."""
        while self.tree.needs(seq):
            leaves = await self._unwritten_leaves(seq) or await self._owed_leaves(seq)
            await self.write_leaves(leaves)

    async def write_all(self) -> None:
        """Write out the leaves until all are clean; nothing is being inserted any more."""
        await self.mend()
        await self.write_through(None)

    async def _unwritten_leaves(self, seq: int | None) -> list[Leaf]:
        """Look through the leaves that are in memory, some at a time; who comes meanwhile may be missed."""
        found: list[Leaf] = []
        leaves = list(self.tree.leaves)
        for start in range(0, len(leaves), LEAVES_A_LOOK):
            if start:
                await asyncio.sleep(0)
            found += self.tree.unwritten_leaves(seq, leaves[start : start + LEAVES_A_LOOK])
        return found

    async def _owed_leaves(self, seq: int | None) -> list[Leaf]:
        """Read some of the leaves that are not clean and not in memory."""
        bounds = self.tree.owed_bounds(seq)[:EVICTED_LEAVES]
        return [await self.leaf_at(*position_at(bound - 1)) for bound in bounds]

    async def write_leaves(self, leaves: Sequence[Leaf]) -> None:
        """Write out some leaves, those that are appended to at the same time.

        There may be no bucket for one of them any more. That must not cut off the others in mid-write.
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
            await together(partial(write, leaf) for leaf in leaves[start : start + WRITTEN_LEAVES])
        if refusals:
            raise refusals[0]

    async def write_out(self, leaf: Leaf) -> None:
        """Write out what a leaf holds unwritten; if others took its place, that is theirs now."""
        async with self._turns_of([leaf]):
            if leaf.is_gone or leaf.is_clean:
                return
            parts = PackedKeys([leaf.unwritten.extents]).filled(self.io.shape.block_words)
            room = self.io.shape.blocks_of(leaf.key.sectors) - leaf.blocks_used
            if len(parts) <= room and not leaf.is_torn:
                await self._append(leaf, parts)
            else:
                await self._shape.replace_leaves([leaf])

    async def rewrite(self, node: Node, prepare: Prepare | None = None) -> None:
        """Write a node anew, unless it is gone: without keys that are stale, or without a torn bset.

        prepare may change a leaf first, when nobody is at writing it: what it takes away in memory is in no
        node that is under way.
        """
        if isinstance(node, Interior):
            await self._shape.replace_interiors([node])
            return
        with pinned_leaves([node]):
            async with self._turns_of([node]):
                if prepare is not None and not node.is_gone:
                    await prepare()
                await self._shape.replace_leaves([node])

    async def mend(self) -> None:
        """Write anew the nodes whose last bset was torn, as far as they are loaded."""
        nodes: list[Node] = [*self.tree.leaves, *self.tree.interiors()]
        for node in nodes:
            if node.is_torn:
                await self.rewrite(node)

    async def _append(self, leaf: Leaf, parts: list[bytes]) -> None:
        newest = leaf.unwritten.newest_seq
        with self._shape.no_way_back(f"writing a leaf, {leaf.key}"):
            self.tree.begin_write(leaf)
            await self._journal.durable(newest)
            await self.io.append(leaf, parts)
        self.tree.end_write(leaf, len(parts))

    # The shape

    async def coalesce(self, level: int, inode: int, sector: int) -> int:
        """Make the node at a position and the next few fewer if they would fill fewer.

        The position where the next node of that level begins comes back, for a walk over all of them.
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
        """Coalesce the leaves that end where these do, if they still are neighbours when it is their turn."""
        places = [position_at(bound_of(key) - 1) for key in keys]
        await self.load([(inode, sector, sector + 1) for inode, sector in places])
        found = [self.tree.find(inode, sector) for inode, sector in places]
        leaves = [leaf for leaf in dict.fromkeys(found) if isinstance(leaf, Leaf)]
        words = sum(leaf.live.word_count for leaf in leaves)
        if self.io.shape.coalescence(words, len(leaves)) is None:
            return
        with pinned_leaves(leaves):
            async with self._turns_of(leaves):
                await self._shape.replace_leaves(leaves, coalesce=True)

    async def _coalesce_interiors(self, parent: Interior, keys: list[Key]) -> None:
        nodes = [parent.children[parent.place_of(key)] for key in keys]
        interiors = [node for node in nodes if isinstance(node, Interior)]
        if len(interiors) == len(keys):  # the others nobody has read yet
            await self._shape.replace_interiors(interiors, coalesce=True)

    async def shrink(self) -> bool:
        """Make the root's only child the root; False if it has several, or is a leaf."""
        await self.leaf_at(0, 0)
        return await self._shape.lower_root()

    # Taking turns

    @asynccontextmanager
    async def _turns_of(self, leaves: Sequence[Leaf]) -> AsyncIterator[None]:
        """Be the only one who writes these leaves, which are given from left to right."""
        async with AsyncExitStack() as stack:
            for leaf in leaves:
                await stack.enter_async_context(self._turns.setdefault(leaf, asyncio.Lock()))
            yield
