# SPDX-License-Identifier: GPL-2.0-only
"""Nodes of the index in memory.

A leaf holds all its extents, merged (`live`), and again those that are in no written bset yet (`unwritten`).
During a write its keys are separate (`writing`), and keys inserted meanwhile go to a new `unwritten`, so an
insert never waits.

An interior node holds its children: nodes that are loaded, or the keys of those that are not.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TypeAlias

from bcached.keys import Key
from bcached.state.index.keys.extents import INODE_SHIFT, NO_LIMIT, Extents, Row, row_of
from bcached.state.index.keys.unwritten import Unwritten
from bcached.state.index.region_filter import RegionFilter

Child: TypeAlias = "Leaf | Interior | Key"
Node: TypeAlias = "Leaf | Interior"
OFFSET_MASK = (1 << INODE_SHIFT) - 1


def bound_of(key: Key) -> int:
    """The position of a node's key as one number: no key of the node ends behind it."""
    return key.inode << INODE_SHIFT | key.end


def position_at(bound: int) -> tuple[int, int]:
    """The inode and the sector of a bound."""
    return bound >> INODE_SHIFT, bound & OFFSET_MASK


def key_of(child: Child) -> Key:
    """The key of a child, loaded or not."""
    return child if isinstance(child, Key) else child.key


class Leaf:
    """A leaf that is loaded.

    seq and blocks_used give the position of its next bset; a leaf that must not be appended to is full.
    """

    __slots__ = (
        "__weakref__",
        "_end",
        "_last_inode",
        "blocks_used",
        "bound",
        "dropped_words",
        "filter_kept",
        "is_detached",
        "is_torn",
        "key",
        "live",
        "pins",
        "seq",
        "unwritten",
        "writing",
    )

    level = 0

    def __init__(self, key: Key, seq: int, blocks_used: int, live: Extents) -> None:
        self.key = key
        self.bound = bound_of(key)  # where its range ends
        self._last_inode, self._end = position_at(self.bound)
        self.seq = seq  # the seq that all bsets of a node have
        self.blocks_used = blocks_used
        self.live = live  # all extents, merged
        self.unwritten = self._nothing()  # extents in no written bset, deletions included
        self.writing: Unwritten | None = None  # extents whose write is not finished
        self.dropped_words = 0  # of stale keys that are on disk only
        # The filter of its regions when it was read, if it was clean, and the blocks that it used.
        self.filter_kept: tuple[int, RegionFilter | None] = (0, None)
        self.pins = 0  # how many tasks are about to use it
        self.is_detached = False  # replaced by other nodes, or evicted
        self.is_torn = False  # its last bset was lost in a crash

    def __repr__(self) -> str:
        state = "clean" if self.is_clean else f"needs entry {self.oldest_seq}"
        return f"<Leaf up to {self._last_inode}:{self._end}, {self.live!r}, {state}, {self.pins} pins>"

    @property
    def is_clean(self) -> bool:
        """Whether all of it is in written bsets."""
        return self.writing is None and not self.unwritten.oldest_seq and not self.is_torn

    @property
    def oldest_seq(self) -> int:
        """The oldest journal entry that it needs; 0 if none."""
        return next((part.oldest_seq for part in self.changes() if part.oldest_seq), 0)

    @property
    def word_count(self) -> int:
        """Words of its keys in memory."""
        return self.live.word_count + self.unwritten.word_count

    def end_within(self, inode: int) -> int:
        """The sector at which the leaf's range of an inode ends."""
        return self._end if self._last_inode == inode else NO_LIMIT

    def changes(self) -> list[Unwritten]:
        """The changes in no written bset, including those whose write is not finished."""
        return [self.writing, self.unwritten] if self.writing else [self.unwritten]

    def insert(self, key: Key, seq: int) -> Sequence[Key]:
        """Insert a key of the leaf's range, in journal entry seq. Returns the pieces it cut out."""
        return self.insert_row(row_of(key), seq)

    def insert_row(self, row: Row, seq: int) -> Sequence[Key]:
        """Insert a key of the leaf's range, in journal entry seq. Returns the pieces it cut out."""
        unwritten = self.unwritten
        if seq != unwritten.newest_seq:
            unwritten.begin_entry(seq)
        removed = self.live.insert_row(row)
        unwritten.add(row)
        if removed and self.live.was_divided:
            rest = self._rest_behind(row, removed[-1])
            if rest is not None:
                unwritten.add(row_of(rest))
        return removed

    def drop(self, key: Key) -> bool:
        """Remove a stale key if it is unchanged. Returns whether it was; on disk it stays, still stale."""
        if self.live.lookup(key.inode, key.offset, key.end) != [key]:
            return False
        if self.unwritten.extents.lookup(key.inode, key.offset, key.end, 1):
            return False
        self.live.remove(key.inode, key.offset, key.end)
        return True

    def begin_write(self) -> Unwritten:
        """Move the unwritten changes to `writing`, to write them. Returns them."""
        assert self.writing is None, "the leaf is being written already"
        self.writing = self.unwritten
        self.unwritten = self._nothing()
        return self.writing

    def end_write(self, blocks: int) -> Unwritten:
        """Record that the changes in `writing` are durable, in `blocks` more blocks. Returns them."""
        written, self.writing = self.writing, None
        assert written is not None, "no write of the leaf was begun"
        self.blocks_used += blocks
        return written

    def _nothing(self) -> Unwritten:
        return Unwritten(Extents(keep_deletions=True, merge_within=self.live.merge_within))

    def _rest_behind(self, row: Row, removed: Key) -> Key | None:
        """Returns the rest behind a key of an extent whose middle key cut out; None otherwise.

        Kernel: writes that rest again beside the new key, so that reading never has to cut a key in two.
        """
        inode, start, end, _, _ = row
        if (removed.offset, removed.end) != (start, end):
            return None
        rest = self.live.lookup(inode, end, NO_LIMIT, 1)
        if not rest or rest[0].offset != end or len(rest[0].pointers) != len(removed.pointers):
            return None
        for before, behind in zip(removed.pointers, rest[0].pointers, strict=True):
            if (before.device, before.sector + removed.sectors, before.gen) != (
                behind.device,
                behind.sector,
                behind.gen,
            ):
                return None
        return rest[0]


class Interior:
    """An interior node. Child i has the range behind bounds[i - 1] up to bounds[i].

    A leaf with the bound of the one before it is below that one, which holds the keys of both: it is never
    loaded by itself, and is freed when that one is rewritten (state/index/keys/interior_keys.py).
    """

    __slots__ = (
        "blocks_used",
        "bounds",
        "children",
        "is_detached",
        "is_torn",
        "key",
        "level",
        "replaced",
        "seq",
    )

    def __init__(self, key: Key, level: int, seq: int, blocks_used: int, children: list[Child]) -> None:
        assert level > 0
        self.key = key
        self.level = level
        self.seq = seq  # of its bsets
        self.blocks_used = blocks_used
        self.children = children  # in order: nodes if loaded, else their keys
        self.bounds = [bound_of(key_of(child)) for child in children]
        assert self.bounds[-1] == bound_of(key), "the last child does not end where its parent ends"
        # Keys that are still in its bsets: of replaced children, and those that freed them. The gens they
        # name must not be used again.
        self.replaced: list[Key] = []
        self.is_detached = False  # replaced by other nodes
        self.is_torn = False  # its last bset was lost in a crash

    def __repr__(self) -> str:
        inode, end = position_at(bound_of(self.key))
        loaded = sum(not isinstance(child, Key) for child in self.children)
        return (
            f"<Interior of level {self.level} up to {inode}:{end}, {loaded} of {len(self.children)} loaded>"
        )

    def index_at(self, inode: int, sector: int) -> int:
        """The child that holds a sector."""
        return bisect_right(self.bounds, inode << INODE_SHIFT | sector)

    def index_of_key(self, key: Key) -> int:
        """The child in whose range a node with this key ends."""
        return bisect_left(self.bounds, bound_of(key))

    def count_below(self, index: int) -> int:
        """How many of the following children are below this one."""
        return bisect_right(self.bounds, self.bounds[index]) - index - 1

    def below(self, index: int) -> list[Key]:
        """The keys of the children below this one, the newest first."""
        return [key_of(child) for child in self.children[index + 1 : index + 1 + self.count_below(index)]]

    def replace(self, index: int, count: int, nodes: Sequence[Node]) -> None:
        """Replace `count` children by nodes that together have the same range."""
        assert 0 < count <= len(self.children) - index
        assert bound_of(nodes[-1].key) == self.bounds[index + count - 1]
        self.children[index : index + count] = nodes
        self.bounds[index : index + count] = [bound_of(node.key) for node in nodes]
