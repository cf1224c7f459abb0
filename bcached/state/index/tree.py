# SPDX-License-Identifier: GPL-2.0-only
"""The index in memory: a tree of nodes, of which some are loaded.

No method waits for a node. The caller first asks which node of a range is `missing`, has it read, and asks
again, since a result is only valid until the next await.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bcached.keys import Key
from bcached.state.index.key_batch import KeyBatch
from bcached.state.index.keys.extents import INODE_SHIFT, NO_LIMIT
from bcached.state.index.keys.key_ranges import Span, cut_at
from bcached.state.index.loaded_leaves import LoadedLeaves
from bcached.state.index.node import Interior, Leaf, Node, bound_of, key_of, position_at
from bcached.state.index.node_paths import interiors, path_to
from bcached.state.index.node_shape import NodeShape


@dataclass(frozen=True, slots=True)
class Missing:
    """A node that must be read first, and its parent."""

    parent: Interior
    key: Key

    @property
    def level(self) -> int:
        """The node's level."""
        return self.parent.level - 1

    @property
    def below(self) -> list[Key]:
        """The older nodes at its position, which are read and merged with it."""
        return self.parent.below(self.parent.index_of_key(self.key))


class Tree:
    """The nodes by position: finds the leaf of a sector, reads and changes keys over several leaves.

    Three groups of methods, one for each caller: finding and changing keys, attaching what was read and
    evicting it, and the walk of a collection.
    """

    def __init__(self, root: Node, shape: NodeShape) -> None:
        self.root = root
        self.shape = shape  # of new nodes
        self.leaves = LoadedLeaves(shape)
        # Bound once: both are called for each key.
        self._use = self.leaves.order.move_to_end
        self._insert = self.leaves.insert
        if isinstance(root, Leaf):
            self.leaves.add(root)

    def __repr__(self) -> str:
        return f"<Tree of {self.root.level + 1} levels, {self.leaves!r}>"

    @property
    def last_bound(self) -> int:
        """Where the last leaf ends."""
        return bound_of(self.root.key)

    @property
    def is_whole(self) -> bool:
        """Whether all nodes are in memory."""
        return not any(
            isinstance(child, Key) and node.index_of_key(child) == index
            for node in interiors(self.root)
            for index, child in enumerate(node.children)
        )

    # Looking

    def find(self, inode: int, sector: int) -> Leaf | Missing:
        """Returns the leaf that holds a sector, or the node to be read first."""
        node = self.root
        position = inode << INODE_SHIFT | sector
        while not isinstance(node, Leaf):
            child = node.children[bisect_right(node.bounds, position)]
            if isinstance(child, Key):
                return Missing(node, child)
            node = child
        self._use(node)
        return node

    def missing(self, inode: int, start: int, end: int) -> Missing | None:
        """Returns the first node to be read before [start, end) can be looked up; None if all are loaded."""
        while start < end:
            found = self.find(inode, start)
            if isinstance(found, Missing):
                return found
            start = found.end_within(inode)
        return None

    def scan(
        self, inode: int, start: int, end: int, limit: int = NO_LIMIT, leaves_max: int = NO_LIMIT
    ) -> tuple[list[Key], int]:
        """Returns the keys in [start, end), stale or not, and the sector up to which leaves were searched.

        It ends early 1. at a leaf that is not loaded, unless it is known what it has, 2. at `limit` keys: the
        last leaf may hold more, 3. after leaves_max leaves.
        """
        leaf = self.find(inode, start)
        if isinstance(leaf, Leaf) and inode << INODE_SHIFT | end <= leaf.bound:  # the common case
            return leaf.live.lookup(inode, start, end, limit), end
        keys: list[Key] = []
        while isinstance(leaf, Leaf):
            keys += leaf.live.lookup(inode, start, end, limit - len(keys))
            start = min(leaf.end_within(inode), end)
            leaves_max -= 1
            if start >= end or len(keys) >= limit or not leaves_max:
                break
            leaf = self.find(inode, start)
        if isinstance(leaf, Missing):
            known = self._known(leaf, inode, start, end)
            if known is not None and len(keys) + len(known) <= limit:
                return keys + known, end
        return keys, start

    def _known(self, missing: Missing, inode: int, start: int, end: int) -> list[Key] | None:
        """Returns the keys in a range of a leaf that is not loaded; None if it has to be read for that.

        1. Changes that wait for it cover the whole range. 2. It has no key there but those.
        """
        bound, leaves = bound_of(missing.key), self.leaves
        if missing.parent.level != 1 or inode << INODE_SHIFT | end > bound:
            return None
        changes = leaves.waiting.by_bound.get(bound)
        found = changes.extents.lookup(inode, start, end) if changes is not None else []
        covered = sum([key.sectors for key in found])
        if covered < end - start and not leaves.filters.excludes(bound, inode, start, end):
            return None
        return [key for key in found if key.pointers]

    def lookup_several(self, spans: Iterable[Span], limit: int) -> dict[Span, list[Key]] | Missing:
        """Returns the keys in each range, as `lookup`, those left out that hold none."""
        found: dict[Span, list[Key]] = {}
        for span in spans:
            inode, start, end = span
            leaf = self.find(inode, start)
            if (
                isinstance(leaf, Leaf)
                and inode << INODE_SHIFT | end <= leaf.bound
                and leaf.live.is_empty_in(inode, start, end)
            ):
                continue  # the common case
            keys = self.lookup(inode, start, end, limit)
            if isinstance(keys, Missing):
                return keys
            if keys:
                found[span] = keys
        return found

    def uncovered(self, spans: Sequence[Span], batch: KeyBatch) -> Sequence[Span]:
        """Returns the ranges that may hold more than the keys of a placed batch will cover.

        Left out are those that hold no key, or one that the batch's key at the beginning of the range covers:
        what new objects and those stored again look like. The n-th range is compared with the n-th key.
        """
        assert batch.leaves is not None, "the caller has not placed the batch"
        others: list[Span] = []
        # A range may have no key of its own, or a key no range.
        for span, (inode, start, covered, _, _), leaf in zip(spans, batch.rows, batch.leaves):  # noqa: B905
            volume, first, end = span
            if (
                first != start
                or volume != inode
                or type(leaf) is not Leaf
                or inode << INODE_SHIFT | end > leaf.bound
                or not leaf.live.holds_at_most(inode, start, covered, end)
            ):
                others.append(span)
        others += spans[len(batch.rows) :]
        return others

    def lookup(self, inode: int, start: int, end: int, limit: int = NO_LIMIT) -> list[Key] | Missing:
        """Returns the keys in [start, end), stale or not, at most limit; or the node to be read first."""
        keys, until = self.scan(inode, start, end, limit)
        if until < end and len(keys) < limit:
            missing = self.find(inode, until)
            assert isinstance(missing, Missing)
            return missing
        return keys

    def parts_of(self, key: Key) -> Iterator[tuple[int, Key]]:
        """Yields a key's parts, cut at the bounds of leaves, each with its leaf's bound."""
        rest: Key | None = key
        while rest is not None:
            found = self.find(rest.inode, rest.offset)
            bound = bound_of(found.key)
            inode, end = position_at(bound)
            part, rest = cut_at(rest, end if inode == key.inode else NO_LIMIT)
            yield bound, part

    # Changing

    def place(self, batch: KeyBatch) -> Missing | None:
        """Find the leaf of each key of a batch. Returns the first node to be read before that is possible."""
        leaves: list[Leaf | int | None] = []
        root, levels, use = self.root, range(self.root.level), self._use
        for inode, start, end, _, _ in batch.rows:
            position = inode << INODE_SHIFT | start
            node: Any = root
            for _ in levels:
                parent = node
                node = parent.children[bisect_right(parent.bounds, position)]
                if type(node) is Key:
                    return Missing(parent, node)
            use(node)
            if inode << INODE_SHIFT | end <= node.bound:
                leaves.append(node)
                continue
            missing = self.missing(inode, start, end)
            if missing is not None:
                return missing
            leaves.append(None)
        batch.leaves = leaves
        return None

    def place_or_wait(self, batch: KeyBatch) -> Missing | None:
        """Find leaves as `place`, but one need not be loaded that can take its keys as waiting changes."""
        leaves: list[Leaf | int | None] = []
        low = bound = -1  # of the last leaf that can take them: deletions are often one behind the other
        for inode, start, end, _, _ in batch.rows:
            if low <= inode << INODE_SHIFT | start and inode << INODE_SHIFT | end <= bound:
                leaves.append(bound)
                continue
            found = self.find(inode, start)
            if isinstance(found, Missing):
                low, bound = inode << INODE_SHIFT | start, bound_of(found.key)
                if inode << INODE_SHIFT | end > bound or not self._may_wait(found.parent, bound, batch):
                    return found
                leaves.append(bound)
            elif inode << INODE_SHIFT | end <= found.bound:
                leaves.append(found)
            else:
                missing = self.missing(inode, start, end)
                if missing is not None:
                    return missing
                leaves.append(None)
        batch.leaves = leaves
        return None

    def _may_wait(self, parent: Interior, bound: int, batch: KeyBatch) -> bool:
        """Whether keys of a batch may wait for a leaf; not if several nodes are at its position."""
        if parent.level != 1 or not self.leaves.waiting.may_take(bound, len(batch.words), len(batch.keys)):
            return False
        return not parent.count_below(bisect_left(parent.bounds, bound))

    def insert_batch(self, batch: KeyBatch, seq: int) -> list[tuple[int, Sequence[Key]]]:
        """Insert the keys of a batch, which is placed, of journal entry seq.

        Returns the pieces cut out of older keys, with the number of the key that cut them, in order.
        """
        assert batch.leaves is not None, "the caller has not placed the batch"
        cut: list[tuple[int, Sequence[Key]]] = []
        insert_row = self.leaves.insert_row
        for number, (leaf, row) in enumerate(zip(batch.leaves, batch.rows, strict=True)):
            if type(leaf) is Leaf:
                removed = insert_row(leaf, row, seq)
            elif leaf is None:
                removed = self.insert(batch.keys[number], seq)
            else:
                assert not isinstance(leaf, Leaf)
                removed = self.leaves.insert_waiting(leaf, row, seq)
            if removed:
                cut.append((number, removed))
        return cut

    def insert(self, key: Key, seq: int) -> Sequence[Key]:
        """Insert a key of journal entry seq. Returns the pieces it cut out of older keys.

        Its range must be loaded.
        """
        leaf = self.find(key.inode, key.offset)
        assert isinstance(leaf, Leaf), "the caller has not loaded the range"
        end = leaf.end_within(key.inode)
        if key.offset + key.sectors <= end:  # the common case
            return self._insert(leaf, key, seq)
        here, rest = cut_at(key, end)
        assert rest is not None
        return [*self._insert(leaf, here, seq), *self.insert(rest, seq)]

    def fits(self, inode: int, start: int, end: int, words: int) -> bool:
        """Whether `words` more fit in each leaf of a range, all of them loaded, without another node."""
        while start < end:
            leaf = self.find(inode, start)
            assert isinstance(leaf, Leaf), "the caller has not loaded the range"
            if leaf.live.word_count + words > self.shape.node_words:
                return False
            start = leaf.end_within(inode)
        return True

    # Loading and evicting

    def attach(self, missing: Missing, node: Node) -> bool:
        """Attach a node that was read to its parent. Returns False if the parent has changed meanwhile."""
        parent = missing.parent
        index = parent.index_of_key(missing.key)
        if parent.is_detached or index >= len(parent.children) or parent.children[index] is not missing.key:
            return False
        parent.children[index] = node
        if isinstance(node, Leaf):
            self.leaves.add(node)
            changes = self.leaves.deferred.pop(node.bound, None)
            if changes is not None:
                self.leaves.merge_changes(node, changes)
            self.leaves.merge_waiting(node)
            self.leaves.filters.leaf_loaded(node)
        return True

    def evictable(self) -> Iterator[Leaf]:
        """Yields the leaves without pins, the least recently used first."""
        return (leaf for leaf in self.leaves.order if not leaf.pins and leaf is not self.root)

    def evict(self, leaf: Leaf) -> None:
        """Evict a clean leaf: only its key stays."""
        assert leaf.is_clean
        self._detach(leaf)

    def defer(self, leaf: Leaf) -> None:
        """Evict a leaf that is not clean; its unwritten changes are deferred until it is read again."""
        assert leaf.writing is None
        assert not leaf.is_torn
        self._detach(leaf)
        if leaf.unwritten.oldest_seq:
            self.leaves.deferred[leaf.bound] = leaf.unwritten

    def _detach(self, leaf: Leaf) -> None:
        assert not leaf.pins
        parent, index = path_to(self.root, leaf)[-1]
        assert parent.children[index] is leaf
        parent.children[index] = leaf.key
        leaf.is_detached = True
        self.leaves.remove(leaf)
        self.leaves.waiting.leaf_evicted(leaf.bound, leaf.live.word_count + leaf.dropped_words)
        self.leaves.filters.leaf_evicted(leaf)

    # All nodes

    def lower(self, root: Interior) -> None:
        """Replace the root by its only child."""
        assert root is self.root
        (child,) = root.children
        assert not isinstance(child, Key)
        root.is_detached = True
        self.root = child

    def node_keys(self) -> Iterator[Key]:
        """Yields the keys of all nodes whose parents are loaded."""
        yield self.root.key
        for node in interiors(self.root):
            yield from map(key_of, node.children)
