# SPDX-License-Identifier: GPL-2.0-only
"""The leaves in memory: their order of use, their unwritten changes, and how many words all of them hold.

Every change of a leaf that is in the tree goes through here, so that the counts follow it and the leaf is
marked when it is to be written.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from bcached.format.bkey import WORD_BYTES
from bcached.keys import Key
from bcached.state.index.journal_pins import SeqPins
from bcached.state.index.keys.extents import Row, row_of
from bcached.state.index.keys.unwritten import Unwritten
from bcached.state.index.node import Leaf
from bcached.state.index.node_shape import KEY_WORDS_MAX, NodeShape
from bcached.state.index.region_filters import RegionFilters
from bcached.state.index.waiting_changes import LEAF_WORDS, WaitingChanges

LEAF_BYTES = 4096  # bytes of Python objects per leaf, beside its words


class LoadedLeaves:
    """The loaded leaves of one tree, and the changes of evicted ones.

    One method for each change of a leaf, and for each step of a write: counts change with all of them.
    """

    def __init__(self, shape: NodeShape) -> None:
        self.order: OrderedDict[Leaf, None] = OrderedDict()  # all loaded leaves, least recently used first
        self.wanted: OrderedDict[Leaf, None] = OrderedDict()  # to be written soon
        self.oversize: set[Leaf] = set()  # too large for one node; wanted, too
        self.deferred: dict[int, Unwritten] = {}  # by bound: unwritten changes of evicted leaves
        self.pins = SeqPins()  # the journal entries that leaves need, loaded or not
        self.waiting = WaitingChanges(shape, self.pins)  # of leaves that are not loaded
        self.filters = RegionFilters()  # of the same leaves
        self.unwritten_words = 0  # of keys that are in no written bset
        self.memory_words = 0  # of keys in memory, counting unwritten ones twice
        self.key_counts: defaultdict[int, int] = defaultdict(int)  # by inode, of all leaves, loaded or not
        self._shape = shape
        self._write_at_words = shape.block_words - KEY_WORDS_MAX  # so that another key fits in the block
        self._node_words = shape.node_words

    def __repr__(self) -> str:
        return (
            f"<LoadedLeaves {len(self.order)} leaves, {self.memory_words} words, {self.unwritten_words} "
            f"unwritten, {len(self.wanted)} wanted, {len(self.oversize)} oversize, "
            f"{len(self.deferred)} deferred>"
        )

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Leaf]:
        """All of them, the least recently used first."""
        return iter(self.order)

    def __contains__(self, leaf: Leaf) -> bool:
        return leaf in self.order

    @property
    def memory_bytes(self) -> int:
        """An estimate of the memory of all of them, in bytes."""
        words = self.memory_words + len(self.waiting.by_bound) * LEAF_WORDS
        return words * WORD_BYTES + len(self.order) * LEAF_BYTES + self.filters.bytes

    # Adding and removing leaves

    def add(self, leaf: Leaf) -> None:
        """Add a leaf with the changes that it has."""
        assert leaf not in self.order
        self.order[leaf] = None
        self.memory_words += leaf.word_count
        unwritten = leaf.unwritten
        self.unwritten_words += unwritten.word_count
        if unwritten.oldest_seq:
            self.pins.pin(unwritten.oldest_seq)
        if unwritten.word_count > self._write_at_words or leaf.is_torn:
            self.wanted[leaf] = None
        self._note_size(leaf)

    def remove(self, leaf: Leaf) -> None:
        """Remove a leaf; the journal entries that it needs stay pinned until `unpin`."""
        del self.order[leaf]
        self.wanted.pop(leaf, None)
        self.oversize.discard(leaf)
        self.memory_words -= leaf.live.word_count
        for part in leaf.changes():
            self.memory_words -= part.word_count
            self.unwritten_words -= part.word_count

    def count_keys(self, leaf: Leaf, sign: int = 1) -> None:
        """Count a leaf's keys that were not counted yet; with sign -1 count them out."""
        for run in leaf.live.runs:
            self.key_counts[run.inode] += sign * len(run)

    def unpin(self, leaf: Leaf) -> None:
        """Unpin the journal entries that a removed leaf needed; its successors may have pinned them."""
        for part in leaf.changes():
            if part.oldest_seq:
                self.pins.unpin(part.oldest_seq)

    # Changing leaves

    def insert(self, leaf: Leaf, key: Key, seq: int) -> Sequence[Key]:
        """Insert a key of the leaf's range, of journal entry seq. Returns the pieces it cut out."""
        return self.insert_row(leaf, row_of(key), seq)

    def insert_row(self, leaf: Leaf, row: Row, seq: int) -> Sequence[Key]:
        """Insert a key of the leaf's range, of journal entry seq. Returns the pieces it cut out."""
        live, unwritten = leaf.live, leaf.unwritten
        live_words, unwritten_words = live.word_count, unwritten.word_count
        keys = live.key_count
        if not unwritten.oldest_seq:
            self.pins.pin(seq)
        removed = leaf.insert_row(row, seq)
        words = live.word_count
        more = unwritten.word_count - unwritten_words
        self.unwritten_words += more
        self.memory_words += words - live_words + more
        if live.key_count != keys:
            self.key_counts[row[0]] += live.key_count - keys
        if unwritten.word_count > self._write_at_words and leaf not in self.wanted:
            self._want_if_full(leaf)
        if words > self._node_words or (self.oversize and leaf in self.oversize):
            self._note_size(leaf)
        return removed

    def _want_if_full(self, leaf: Leaf) -> None:
        """Have a leaf written if its unwritten keys, merged, take a block."""
        unwritten = leaf.unwritten
        words = unwritten.word_count
        unwritten.recount()
        self.unwritten_words += unwritten.word_count - words
        self.memory_words += unwritten.word_count - words
        if unwritten.word_count > self._write_at_words:
            self.wanted[leaf] = None

    def insert_waiting(self, bound: int, row: Row, seq: int) -> Sequence[Key]:
        """Have a key wait for its leaf. Returns the pieces it cut out of others that wait."""
        words = self.waiting.words
        removed = self.waiting.insert(bound, row, seq)
        self.unwritten_words += self.waiting.words - words
        self.memory_words += self.waiting.words - words
        return removed

    def merge_waiting(self, leaf: Leaf) -> None:
        """Merge the changes that waited for a leaf, which has been read."""
        changes = self.waiting.leaf_loaded(leaf.bound)
        if changes is None:
            return
        self.unwritten_words -= changes.word_count
        self.memory_words -= changes.word_count
        self.count_keys(leaf, -1)
        removed = self.merge_changes(leaf, changes)
        self.count_keys(leaf)
        self.waiting.on_merged(removed)

    def merge_changes(self, leaf: Leaf, changes: Unwritten) -> list[Key]:
        """Merge changes, whose oldest entry is pinned, into a leaf that has older ones, or none.

        Deletions of nothing are left out. Returns the pieces cut out. Keys are not counted: those of deferred
        changes were.
        """
        words, unwritten = leaf.word_count, leaf.unwritten
        oldest_seq, unwritten_words = unwritten.oldest_seq, unwritten.word_count
        removed: list[Key] = []
        for key in changes.extents:
            if key.pointers or not leaf.live.is_empty_in(key.inode, key.offset, key.end):
                removed += leaf.insert(key, changes.newest_seq)
        if oldest_seq:
            self.pins.unpin(changes.oldest_seq)
        unwritten.oldest_seq = oldest_seq or changes.oldest_seq
        self.memory_words += leaf.word_count - words
        self.unwritten_words += unwritten.word_count - unwritten_words
        if unwritten.word_count > self._write_at_words:
            self.wanted[leaf] = None
        self._note_size(leaf)
        return removed

    def drop(self, leaf: Leaf, key: Key) -> bool:
        """Remove a stale key from a leaf in memory, if it is unchanged; on disk it stays until a rewrite.

        Returns whether it was removed.
        """
        assert leaf in self.order
        words = leaf.live.word_count
        dropped = leaf.drop(key)
        self.key_counts[key.inode] -= dropped
        self.memory_words += leaf.live.word_count - words
        leaf.dropped_words += words - leaf.live.word_count
        self._note_size(leaf)
        return dropped

    def _note_size(self, leaf: Leaf) -> None:
        """Record whether a leaf is too large for one node: it needs another bucket, so it is written soon."""
        found_words = self._shape.words_in(self._shape.blocks_of(leaf.key.sectors))
        if leaf.live.word_count > max(self._node_words, found_words):
            self.oversize.add(leaf)
            self.wanted[leaf] = None
        else:
            self.oversize.discard(leaf)

    # Writing leaves

    def needs(self, through_seq: int | None = None) -> bool:
        """Whether any leaf, in memory or not, needs an entry through through_seq, or any entry."""
        oldest = self.pins.oldest
        return oldest is not None and (through_seq is None or oldest <= through_seq)

    def unwritten(self, through_seq: int | None = None, among: Iterable[Leaf] | None = None) -> list[Leaf]:
        """Returns the leaves that are not clean; with through_seq those that need an entry through it."""
        leaves = self.order if among is None else among
        if through_seq is None:
            return [leaf for leaf in leaves if not leaf.is_clean]
        return [leaf for leaf in leaves if 0 < leaf.oldest_seq <= through_seq]

    def deferred_bounds(self, through_seq: int | None = None) -> Iterator[int]:
        """Yields the bounds of leaves not loaded that have changes; through_seq as in `unwritten`."""
        for bound, changes in self.deferred.items():
            if through_seq is None or changes.oldest_seq <= through_seq:
                yield bound
        yield from (bound for bound in self.waiting.bounds(through_seq) if bound not in self.deferred)

    def begin_write(self, leaf: Leaf) -> None:
        """Move a leaf's unwritten changes to `writing`, to write them."""
        assert leaf in self.order
        leaf.begin_write()
        self.wanted.pop(leaf, None)

    def end_write(self, leaf: Leaf, blocks: int) -> None:
        """Record that a leaf's `writing` changes are durable, in `blocks` more blocks."""
        written = leaf.end_write(blocks)
        words = written.word_count
        self.unwritten_words -= words
        self.memory_words -= words
        assert 0 <= self.unwritten_words <= self.memory_words
        if written.oldest_seq:
            self.pins.unpin(written.oldest_seq)
