# SPDX-License-Identifier: GPL-2.0-only
"""Changing the shape of the tree on its devices, one change at a time.

New nodes are completely written, each to its own bucket, before one bset of a parent, or the journal, names
them; when that is durable the buckets of the old ones are free. The lock is never held while waiting for
buckets.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random

from bcached.errors import DeviceError
from bcached.format.bkey import pack_keys
from bcached.keys import Key
from bcached.state.index.node import Interior, Leaf
from bcached.state.index.node_paths import are_siblings
from bcached.state.index.tree import Tree
from bcached.state.index.tree_change import TreeChange, install, replace_interiors, replace_leaves
from bcached.store.btree.interfaces import NodeAllocator, NodeJournal
from bcached.store.btree.node_io import NodeIo

Plan = Callable[[bool], TreeChange | None]  # the argument: whether to use as few nodes as possible


class NodeReplacement:
    """Executes changes of one tree. rng is for the nodes' seqs."""

    def __init__(
        self, tree: Tree, io: NodeIo, buckets: NodeAllocator, journal: NodeJournal, rng: Random
    ) -> None:
        self.tree = tree
        self._io = io
        self._buckets = buckets
        self._journal = journal
        self._rng = rng
        self._lock = asyncio.Lock()  # held by the one change that is under way
        self._failed_step = ""  # what was under way when a write failed
        self._cause: DeviceError | None = None  # the error, if it was a device's

    async def replace_leaves(self, leaves: list[Leaf], *, coalesce: bool = False) -> None:
        """Rewrite neighbouring leaves, whose locks are held; does nothing if some are replaced by then."""

        def plan(tight: bool) -> TreeChange | None:
            if any(leaf.is_detached for leaf in leaves) or not are_siblings(self.tree.root, leaves):
                return None
            return replace_leaves(self.tree, leaves, self._may_free, coalesce=coalesce, tight=tight)

        await self._change(plan)

    async def replace_interiors(self, nodes: list[Interior], *, coalesce: bool = False) -> None:
        """Rewrite neighbouring interior nodes; does nothing if some are replaced by then."""

        def plan(tight: bool) -> TreeChange | None:
            if any(node.is_detached for node in nodes) or not are_siblings(self.tree.root, nodes):
                return None
            return replace_interiors(self.tree, nodes, self._may_free, coalesce=coalesce, tight=tight)

        await self._change(plan)

    async def _change(self, plan: Plan) -> None:
        """Plan a change and execute it, when there are buckets for it.

        1. There are buckets: execute it.
        2. None to grow the tree: plan it with fuller nodes, so that keys can still be written out.
        3. None for that either: wait for buckets, then plan it again.
        """
        while True:
            async with self._lock:
                change = plan(False)
                if change is None:
                    return
                pointers = self._buckets.take(len(change.new_nodes), change.growth)
                if pointers is None and change.growth > 0:
                    change = plan(True)
                    assert change is not None
                    pointers = self._buckets.take(len(change.new_nodes), change.growth)
                if pointers is not None:
                    change.assign_buckets(pointers, self._io.shape, self._seqs())
                    with self.stopping_on_failure("changing the shape of the tree"):
                        await self._execute(change)
                    return
            await self._buckets.wait_for(len(change.new_nodes), change.growth)

    async def _execute(self, change: TreeChange) -> None:
        newest = 0
        for leaf in change.replaced:
            if isinstance(leaf, Leaf):
                newest = max(newest, leaf.unwritten.newest_seq)
                self.tree.leaves.begin_write(leaf)
        if newest:
            await self._journal.durable(newest)
        await self._io.write_whole(change.new_nodes)
        freeing: list[Key] = []
        if change.append:
            freeing = change.append.freeing(
                [self._buckets.bump(key.pointers[0]) for key in change.append.replaced]
            )
            keys = freeing + [new_node.key for new_node in change.append.new_nodes]
            await self._io.append(change.append.parent, [pack_keys(tuple(keys))])
            self._buckets.bumps_durable(len(freeing))
        else:
            assert change.root is not None
            await self._journal.set_root(change.root.key, change.root.level)
        if self._io.trace.listeners:
            self._trace(change)
        freed = change.freed()
        install(self.tree, change, freeing)
        for key in freed:
            self._buckets.free(key.pointers[0])

    def _trace(self, change: TreeChange) -> None:
        """Emit what a change did to the shape of the tree."""
        trace, replaced, new = self._io.trace, change.replaced, change.new_nodes
        pointer = replaced[0].key.pointers[0]
        device, bucket = pointer.device, pointer.sector // self._io.shape.bucket_sectors
        # 1. Several nodes became one. 2. One became several. 3. One was rewritten.
        if len(replaced) > 1:
            trace.emit("bcache_btree_gc_coalesce", nodes=len(replaced))
        elif len(new) > 1:
            trace.emit("bcache_btree_node_split", device=device, bucket=bucket, nodes=len(new))
        else:
            trace.emit("bcache_btree_node_compact", device=device, bucket=bucket)
        if change.root is not None and not change.append:
            pointer = change.root.key.pointers[0]
            bucket = pointer.sector // self._io.shape.bucket_sectors
            trace.emit("bcache_btree_set_root", device=pointer.device, bucket=bucket)

    def _may_free(self, key: Key) -> bool:
        return self._buckets.may_bump(key.pointers[0])

    def _seqs(self) -> Iterator[int]:
        """Yields seqs of bsets: former contents of a bucket must not be taken for a part of the new node."""
        while True:
            seq = self._rng.getrandbits(64)
            if seq:
                yield seq

    async def lower_root(self) -> bool:
        """Make the root's only child, if loaded, the root. Returns False if it has several, or is a leaf."""
        async with self._lock:
            root = self.tree.root
            if isinstance(root, Leaf) or len(root.children) > 1:
                return False
            child = root.children[0]
            if isinstance(child, Key):
                return False
            with pinned_leaves([child] if isinstance(child, Leaf) else []):
                with self.stopping_on_failure("making the tree lower"):
                    await self._journal.set_root(child.key, child.level)
                self.tree.lower(root)
            self._buckets.free(root.key.pointers[0])
            return True

    @contextmanager
    def stopping_on_failure(self, what: str) -> Iterator[None]:
        """Refuse all writes after one that failed: what is on the device is unknown."""
        if self._cause is not None:
            raise self._cause.with_traceback(None)
        if self._failed_step:
            raise DeviceError(self._io.path, f"no more changes of the index: {self._failed_step} failed")
        try:
            yield
        except BaseException as error:
            if not self._failed_step:
                self._failed_step = what
                self._cause = error if isinstance(error, DeviceError) else None
            raise


@contextmanager
def pinned_leaves(leaves: Sequence[Leaf]) -> Iterator[None]:
    """Keep leaves in memory."""
    for leaf in leaves:
        leaf.pins += 1
    try:
        yield
    finally:
        for leaf in leaves:
            leaf.pins -= 1
