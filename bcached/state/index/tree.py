"""The index in memory: a tree of nodes, of which some are loaded.

No method waits for a node. The caller first asks which node of a range is `missing`, has it read, and asks
again, since a result is only valid until the next await.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from bcached.keys import Key, Pointer
from bcached.state.index.extents import INODE_SHIFT, NO_LIMIT
from bcached.state.index.journal_pins import SeqPins
from bcached.state.index.node import Child, Interior, Leaf, Node, Unwritten, bound_of, key_of, position_at
from bcached.state.index.node_shape import KEY_WORDS_MAX, NodeShape

LEAF_BYTES = 4096  # of objects per leaf, beside the words


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
        return self.parent.below(self.parent.place_of(self.key))


NodePath = list[tuple[Interior, int]]  # from the root down: a node, and the index of the next child


class Tree:
    """The nodes, their order of use, and their unwritten changes."""

    def __init__(self, root: Node, shape: NodeShape) -> None:
        self.root = root
        self.shape = shape
        self.pins = SeqPins()
        self.leaves: OrderedDict[Leaf, None] = OrderedDict()  # loaded, least recently used first
        self.wanted: OrderedDict[Leaf, None] = OrderedDict()  # to be written
        self.oversize: set[Leaf] = set()  # too large for one node; wanted, too
        self.deferred: dict[int, Unwritten] = {}  # by bound: deferred changes of evicted leaves
        self.unwritten_words = 0
        self.cached_words = 0  # in leaves, counting unwritten ones twice
        self._write_at_words = shape.block_words - KEY_WORDS_MAX
        self._node_words = shape.node_words
        if isinstance(root, Leaf):
            self.adopt(root)

    @property
    def cached_bytes(self) -> int:
        """An estimate of the memory of all loaded leaves."""
        return self.cached_words * 8 + len(self.leaves) * LEAF_BYTES

    @property
    def last_bound(self) -> int:
        """Where the last leaf ends."""
        return bound_of(self.root.key)

    @property
    def is_whole(self) -> bool:
        """Whether all nodes are in memory."""
        return not any(
            isinstance(child, Key) and node.place_of(child) == index
            for node in self.interiors()
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
        self.leaves.move_to_end(node)
        return node

    def missing(self, inode: int, start: int, end: int) -> Missing | None:
        """Returns the first node to be read before [start, end) can be looked up; None if all are loaded."""
        while start < end:
            found = self.find(inode, start)
            if isinstance(found, Missing):
                return found
            start = found.end_within(inode)
        return None

    def lookup(self, inode: int, start: int, end: int, limit: int = NO_LIMIT) -> list[Key] | Missing:
        """Returns the keys in [start, end), stale or not, at most limit; or the node to be read first."""
        keys: list[Key] = []
        while start < end and len(keys) < limit:
            leaf = self.find(inode, start)
            if isinstance(leaf, Missing):
                return leaf
            if not keys and inode << INODE_SHIFT | end <= leaf.bound:
                return leaf.live.lookup(inode, start, end, limit)
            keys += leaf.live.lookup(inode, start, end, limit - len(keys))
            start = leaf.end_within(inode)
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

    def insert(self, key: Key, seq: int) -> Sequence[Key]:
        """Insert a key of journal entry seq. Returns the pieces it cut out of older keys.

        Its range must be loaded.
        """
        leaf = self.find(key.inode, key.offset)
        assert isinstance(leaf, Leaf), "the caller has the range loaded"
        end = leaf.end_within(key.inode)
        if key.offset + key.sectors <= end:  # the common case
            return self._insert(leaf, key, seq)
        here, rest = cut_at(key, end)
        assert rest is not None
        return [*self._insert(leaf, here, seq), *self.insert(rest, seq)]

    def _insert(self, leaf: Leaf, key: Key, seq: int) -> Sequence[Key]:
        live, unwritten = leaf.live, leaf.unwritten
        extents = unwritten.extents
        live_words, unwritten_words = live.word_count, extents.word_count
        if not unwritten.oldest_seq:
            self.pins.pin(seq)
        removed = leaf.insert(key, seq)
        more = extents.word_count
        self.unwritten_words += more - unwritten_words
        words = live.word_count
        self.cached_words += words - live_words + more - unwritten_words
        if more > self._write_at_words:
            self.wanted[leaf] = None
        if words > self._node_words or self.oversize:
            self._note_fill(leaf)
        return removed

    def _note_fill(self, leaf: Leaf) -> None:
        """Record whether a leaf is too large for one node: it needs another bucket, so it is written soon."""
        found_words = self.shape.words_in(self.shape.blocks_of(leaf.key.sectors))
        if leaf.live.word_count > max(self._node_words, found_words):
            self.oversize.add(leaf)
            self.wanted[leaf] = None
        else:
            self.oversize.discard(leaf)

    def takes(self, inode: int, start: int, end: int, words: int) -> bool:
        """Whether `words` more fit in the leaves of a range, all of them loaded, without another node."""
        while start < end:
            leaf = self.find(inode, start)
            assert isinstance(leaf, Leaf), "the caller has the range loaded"
            if leaf.live.word_count + words > self._node_words:
                return False
            start = leaf.end_within(inode)
        return True

    def merge_changes(self, leaf: Leaf, changes: Unwritten) -> list[Key]:
        """Merge changes, whose oldest entry is pinned, into a clean leaf. Returns the pieces cut out."""
        assert not leaf.unwritten.oldest_seq
        words = leaf.word_count
        removed: list[Key] = []
        for key in changes.extents:
            removed += leaf.insert(key, changes.newest_seq)
        leaf.unwritten.oldest_seq = changes.oldest_seq
        unwritten_words = leaf.unwritten.extents.word_count
        self.cached_words += leaf.word_count - words
        self.unwritten_words += unwritten_words
        if unwritten_words > self._write_at_words:
            self.wanted[leaf] = None
        self._note_fill(leaf)
        return removed

    # Writing leaves

    def needs(self, through_seq: int | None = None) -> bool:
        """Whether any leaf, in memory or not, needs an entry through through_seq, or any entry."""
        oldest = self.pins.oldest
        return oldest is not None and (through_seq is None or oldest <= through_seq)

    def unwritten_leaves(
        self, through_seq: int | None = None, among: Iterable[Leaf] | None = None
    ) -> list[Leaf]:
        """The leaves that are not clean; with through_seq those that need an entry through it."""
        leaves = self.leaves if among is None else among
        if through_seq is None:
            return [leaf for leaf in leaves if not leaf.is_clean]
        return [leaf for leaf in leaves if 0 < leaf.oldest_seq <= through_seq]

    def deferred_bounds(self, through_seq: int | None = None) -> list[int]:
        """The bounds of evicted leaves with deferred changes; through_seq as in `unwritten_leaves`."""
        if through_seq is None:
            return list(self.deferred)
        return [bound for bound, changes in self.deferred.items() if changes.oldest_seq <= through_seq]

    def begin_write(self, leaf: Leaf) -> None:
        """Move a leaf's unwritten changes to `writing`, to write them."""
        leaf.begin_write()
        self.wanted.pop(leaf, None)

    def end_write(self, leaf: Leaf, blocks: int) -> None:
        """Record that a leaf's `writing` changes are durable, in `blocks` more blocks."""
        written = leaf.end_write(blocks)
        words = written.extents.word_count
        self.unwritten_words -= words
        self.cached_words -= words
        if written.oldest_seq:
            self.pins.unpin(written.oldest_seq)

    def drop(self, leaf: Leaf, key: Key) -> bool:
        """Remove a stale key from a leaf in memory, if it is unchanged; on disk it stays until a rewrite.

        Returns whether it was removed.
        """
        words = leaf.live.word_count
        dropped = leaf.drop(key)
        self.cached_words += leaf.live.word_count - words
        self._note_fill(leaf)
        return dropped

    # Adding and removing nodes

    def adopt(self, leaf: Leaf) -> None:
        """Add a leaf to the counts and lists."""
        self.leaves[leaf] = None
        self.cached_words += leaf.word_count
        unwritten = leaf.unwritten
        self.unwritten_words += unwritten.extents.word_count
        if unwritten.oldest_seq:
            self.pins.pin(unwritten.oldest_seq)
        if unwritten.extents.word_count > self._write_at_words or leaf.is_torn:
            self.wanted[leaf] = None
        self._note_fill(leaf)

    def abandon(self, leaf: Leaf) -> None:
        """Remove a leaf from the counts and lists."""
        del self.leaves[leaf]
        self.wanted.pop(leaf, None)
        self.oversize.discard(leaf)
        self.cached_words -= leaf.live.word_count
        for part in leaf.changes():
            self.cached_words -= part.extents.word_count
            self.unwritten_words -= part.extents.word_count

    def unpin(self, leaf: Leaf) -> None:
        """Unpin the journal entries that an abandoned leaf needed; its successors may have pinned them."""
        for part in leaf.changes():
            if part.oldest_seq:
                self.pins.unpin(part.oldest_seq)

    def attach(self, missing: Missing, node: Node) -> bool:
        """Attach a node that was read to its parent; False if the parent has changed meanwhile."""
        parent = missing.parent
        index = parent.place_of(missing.key)
        if parent.is_detached or index >= len(parent.children) or parent.children[index] is not missing.key:
            return False
        parent.children[index] = node
        if isinstance(node, Leaf):
            self.adopt(node)
            changes = self.deferred.pop(node.bound, None)
            if changes is not None:
                self.merge_changes(node, changes)
        return True

    def evictable(self) -> Iterator[Leaf]:
        """Leaves without pins, the least recently used first."""
        return (leaf for leaf in self.leaves if not leaf.pins and leaf is not self.root)

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
            self.deferred[leaf.bound] = leaf.unwritten

    def _detach(self, leaf: Leaf) -> None:
        assert not leaf.pins
        parent, index = self.path_to(leaf)[-1]
        assert parent.children[index] is leaf
        parent.children[index] = leaf.key
        leaf.is_detached = True
        self.abandon(leaf)

    # The shape

    def path_to(self, node: Node) -> NodePath:
        """Returns the path from the root down to a node's parent."""
        path: NodePath = []
        here: Child = self.root
        while here is not node:
            assert isinstance(here, Interior)
            index = here.place_of(node.key)
            path.append((here, index))
            here = here.children[index]
        return path

    def node_at(self, level: int, inode: int, sector: int) -> Node:
        """The node of a level that holds a sector, or the root if that is lower; it must be loaded."""
        node = self.root
        while node.level > level:
            assert isinstance(node, Interior)
            child = node.children[node.index_of(inode, sector)]
            assert not isinstance(child, Key), "the caller has it loaded"
            node = child
        return node

    def are_siblings(self, nodes: Sequence[Node]) -> bool:
        """Whether nodes are neighbours under one parent, in this order."""
        if nodes[0] is self.root:
            return len(nodes) == 1
        parent, index = self.path_to(nodes[0])[-1]
        return all(
            child is node for child, node in zip_longest(parent.children[index : index + len(nodes)], nodes)
        )

    def lower(self, root: Interior) -> None:
        """Replace the root by its only child."""
        (child,) = root.children
        assert not isinstance(child, Key)
        root.is_detached = True
        self.root = child

    def low_of(self, key: Key) -> tuple[int, int]:
        """Where the range of a node begins: (inode, sector)."""
        low, here = 0, self.root
        while isinstance(here, Interior) and here.key is not key:
            index = here.place_of(key)
            low = here.bounds[index - 1] if index else low
            child = here.children[index]
            if isinstance(child, Key):
                break
            here = child
        return position_at(low)

    def interiors(self) -> Iterator[Interior]:
        """All interior nodes that are loaded, parents first."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            if isinstance(node, Interior):
                yield node
                waiting += [child for child in node.children if isinstance(child, Interior)]

    def node_keys(self) -> Iterator[Key]:
        """The keys of all nodes whose parents are loaded."""
        yield self.root.key
        for node in self.interiors():
            yield from map(key_of, node.children)


def cut_at(key: Key, sector: int) -> tuple[Key, Key | None]:
    """Returns a key's part before a sector and the part behind it; None if there is none."""
    skipped = sector - key.offset
    if skipped >= key.sectors:
        return key, None
    assert skipped > 0
    pointers = tuple([Pointer(p.device, p.sector + skipped, p.gen) for p in key.pointers])
    return (
        Key(key.inode, key.offset, skipped, key.dirty, key.pointers),
        Key(key.inode, sector, key.sectors - skipped, key.dirty, pointers),
    )
