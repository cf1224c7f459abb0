# SPDX-License-Identifier: GPL-2.0-only
"""Changes of leaves that are not in memory, which wait until one read of the leaf serves many of them.

They are in the journal, and pin its entries, like those of a leaf that is loaded. What they overwrite in the
leaf counts as live until they are merged into it: that keeps buckets from being reused, never the contrary.
"""

from collections.abc import Callable, Iterator, Sequence
from heapq import nlargest
from itertools import islice

from bcached.keys import Key
from bcached.state.index.journal_pins import SeqPins
from bcached.state.index.keys.extents import Extents, Row
from bcached.state.index.keys.unwritten import Unwritten
from bcached.state.index.node_shape import KEY_WORDS_MAX, NodeShape

LEAVES_A_LOOK = 64
LEAF_WORDS = 128  # of Python objects per leaf, beside the words of its keys


class WaitingChanges:
    """The changes by the bound of their leaf, and how full these leaves are.

    A leaf takes only as many as fit in one node with it, whatever they cut: so merging them needs no more
    nodes than there are. on_merged is called with what was overwritten, on_many while they are many.
    """

    def __init__(self, shape: NodeShape, pins: SeqPins) -> None:
        self.by_bound: dict[int, Unwritten] = {}
        self.keys = 0
        self.words = 0  # of the keys
        self.memory_words = 0
        self.limit_words = 0  # of memory
        self.are_many = False  # leaves should be read to merge some
        self.are_too_many = False  # changes have to wait until some are merged
        self.on_many: Callable[[], None] = lambda: None
        self.on_merged: Callable[[Sequence[Key]], None] = lambda _: None
        self._fill: dict[int, int] = {}  # by bound: the words of a leaf when it was evicted
        self._shape = shape
        self._pins = pins

    def __repr__(self) -> str:
        return f"<WaitingChanges {self.keys} keys of {len(self.by_bound)} leaves>"

    def _count(self, words: int, keys: int) -> None:
        """Count words and keys that were added, or negative ones. Plain flags: every commit looks at one."""
        self.words += words
        self.keys += keys
        self.memory_words = self.words + len(self.by_bound) * LEAF_WORDS
        self.are_many = self.memory_words > self.limit_words // 2
        self.are_too_many = self.memory_words > self.limit_words

    def leaf_evicted(self, bound: int, words: int) -> None:
        """Note how full a leaf is that is not in memory any more."""
        self._fill[bound] = words

    def leaf_loaded(self, bound: int) -> Unwritten | None:
        """Remove and return the changes of a leaf that is in memory again."""
        self._fill.pop(bound, None)
        changes = self.by_bound.pop(bound, None)
        if changes is not None:
            self._count(-changes.word_count, -changes.extents.key_count)
        return changes

    def may_take(self, bound: int, words: int, keys: int) -> bool:
        """Whether so many keys, of so many words, may wait for a leaf: each may divide an extent of it."""
        fill = self._fill.get(bound)
        if fill is None or not self.limit_words:
            return False
        changes = self.by_bound.get(bound)
        if changes is not None:
            keys += changes.extents.key_count
            words += changes.word_count
        return fill + words + keys * KEY_WORDS_MAX <= self._shape.node_words

    def insert(self, bound: int, row: Row, seq: int) -> Sequence[Key]:
        """Add a key of journal entry seq. Returns the pieces it cut out of other waiting changes."""
        changes = self.by_bound.get(bound)
        if changes is None:
            extents = Extents(keep_deletions=True, merge_within=self._shape.bucket_sectors)
            changes = self.by_bound[bound] = Unwritten(extents, seq)
            self._pins.pin(seq)
        words, keys = changes.word_count, changes.extents.key_count
        removed = changes.insert_row(row)
        changes.newest_seq = seq
        self._count(changes.word_count - words, changes.extents.key_count - keys)
        if self.are_many:
            self.on_many()
        return removed

    def fullest(self, count: int) -> list[int]:
        """Returns the bounds of the leaves with most changes, among those that were waited for longest."""
        oldest = islice(self.by_bound, LEAVES_A_LOOK)
        return nlargest(count, oldest, lambda bound: self.by_bound[bound].word_count)

    def bounds(self, through_seq: int | None) -> Iterator[int]:
        """Yields the bounds of leaves with changes of an entry through through_seq, or any."""
        for bound, changes in self.by_bound.items():
            if through_seq is None or changes.oldest_seq <= through_seq:
                yield bound
