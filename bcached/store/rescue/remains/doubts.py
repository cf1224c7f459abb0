# SPDX-License-Identifier: GPL-2.0-only
"""How far an extent of a damaged set can be trusted.

*Sure*: named by an index whose journal is whole, with its bucket's gen. *Newest found*: nothing newer was
found, but what could be newer is missing. *Conflicting*: other live keys or metadata claim the same sectors.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from bcached.format.bkey import Bounds
from bcached.format.jset import JournalEntry
from bcached.keys import Key, Pointer
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.interior_keys import Position
from bcached.store.reading.replay import merge_entries
from bcached.store.rescue.remains.journal_left import JournalLeft


class Confidence(IntEnum):
    """How far an extent can be trusted."""

    SURE = 0
    NEWEST = 1
    CONFLICTING = 2


Part = tuple[int, int, Confidence]  # first sector, end


@dataclass(slots=True)
class DoubtfulRange:
    """What a damaged node covers, and the keys in it that are newer than its damage."""

    low: Position
    high: Position
    newer: Extents


@dataclass(slots=True)
class Doubts:
    """What keeps extents from being sure, by where they were found."""

    journal_is_whole: bool
    replayed: Extents  # of the whole journal
    sure: Extents  # of the entries behind the last hole
    since_prios: Extents  # of those since the last prio write
    nothing_is_sure: bool = False
    index_is_whole: bool = True
    leaves: list[DoubtfulRange] = field(default_factory=list)  # in the order of their positions
    interiors: list[DoubtfulRange] = field(default_factory=list)
    contested: Extents = field(default_factory=Extents)  # parts of the index that two leaves name otherwise
    outdated: Extents = field(default_factory=Extents)  # parts that were replaced, as old entries show

    @classmethod
    def of(cls, journal: JournalLeft, bounds: Bounds) -> "Doubts":
        """Returns the doubts that the journal gives rise to."""

        def merged(entries: Sequence[JournalEntry]) -> Extents:
            return merge_entries("", entries, bounds, lambda _: None).extents

        return cls(
            journal.is_whole, merged(journal.entries), merged(journal.sure), merged(journal.with_newest_prios)
        )

    def add_leaf(self, low: Position, high: Position, newer: Extents) -> None:
        """Doubt what a leaf holds, but for these newer keys."""
        insort(self.leaves, DoubtfulRange(low, high, newer), key=_low_of)

    def doubt_leaf(self, low: Position, high: Position) -> None:
        """Doubt all that a leaf holds, also what is newer than its damage."""
        known = [one for one in self.leaves if (one.low, one.high) == (low, high)]
        for one in known:
            one.newer = Extents()
        if not known:
            self.add_leaf(low, high, Extents())

    def take_as_outdated(self, keys: Iterable[Key]) -> None:
        """Take keys of doubtful ranges for ones that others replaced: their data is not the newest."""
        for key in keys:
            self.outdated.insert(key)

    def add_interior(self, low: Position, high: Position) -> None:
        """Doubt all below an interior node, sound leaves included: they may have been replaced."""
        self.interiors.append(DoubtfulRange(low, high, Extents()))

    def parts_of(self, key: Key, pointer: Pointer, *, gen_is_known: bool, in_leaf: Extents) -> list[Part]:
        """Returns the parts of a live key and how far each can be trusted.

        in_leaf has what the leaves hold below the journal's keys. 1. Nothing is sure. 2. Of the index:
        sure if the journal is whole and the node is. 3. Of the journal: sure behind its last hole. 4. With
        the gen unknown, a key that only the journal has must be newer than the last prio write: its bucket
        may have been reused since.
        """
        if self.nothing_is_sure:
            parts = [(key.offset, key.end, Confidence.NEWEST)]
            return self._with_conflicts(parts, key, pointer)
        is_sure = self.journal_is_whole and (gen_is_known or self.index_is_whole)
        parts = [(key.offset, key.end, Confidence.SURE if is_sure else Confidence.NEWEST)]
        for doubtful in self._leaves_at(key):
            parts = painted(parts, _inside(key, doubtful), Confidence.NEWEST)
            if is_sure:
                parts = painted(parts, same_place(doubtful.newer, key, pointer), Confidence.SURE)
        for doubtful in self.interiors:
            parts = painted(parts, _inside(key, doubtful), Confidence.NEWEST)
        parts = self._with_conflicts(parts, key, pointer)
        if gen_is_known:
            return painted(parts, same_place(self.sure, key, pointer), Confidence.SURE)
        if not self.index_is_whole:
            return parts
        only_journal = same_place(self.replayed, key, pointer)
        parts = painted(parts, only_journal, Confidence.NEWEST)
        if self.journal_is_whole and not self.leaves and not self.interiors:
            parts = painted(parts, same_place(in_leaf, key, pointer), Confidence.SURE)
        return painted(parts, same_place(self.since_prios, key, pointer), Confidence.SURE)

    def _leaves_at(self, key: Key) -> Iterator[DoubtfulRange]:
        """Yields the doubtful leaves that have a part of a key."""
        behind = bisect_left(self.leaves, (key.inode, key.end), key=_low_of)
        for number in range(behind - 1, -1, -1):
            doubtful = self.leaves[number]
            if doubtful.high <= (key.inode, key.offset):
                return
            yield doubtful

    def _with_conflicts(self, parts: list[Part], key: Key, pointer: Pointer) -> list[Part]:
        """Returns the parts with what others claim, or have replaced, as conflicting."""
        parts = painted(parts, same_place(self.outdated, key, pointer), Confidence.CONFLICTING)
        return painted(parts, self._contested_in(key), Confidence.CONFLICTING)

    def _contested_in(self, key: Key) -> Iterator[tuple[int, int]]:
        for found in self.contested.lookup(key.inode, key.offset, key.end):
            yield found.offset, found.end


def _low_of(doubtful: DoubtfulRange) -> Position:
    return doubtful.low


def same_place(extents: Extents, key: Key, pointer: Pointer) -> Iterator[tuple[int, int]]:
    """Yields the parts of a key that these extents have at the same sectors of the device."""
    for found in extents.lookup(key.inode, key.offset, key.end):
        place = Pointer(pointer.device, pointer.sector + found.offset - key.offset, pointer.gen)
        if found.dirty == key.dirty and place in found.pointers:
            yield found.offset, found.end


def _inside(key: Key, doubtful: DoubtfulRange) -> Iterator[tuple[int, int]]:
    """Yields the part of a key that is inside of a range."""
    low, high = doubtful.low, doubtful.high
    start = key.offset if (key.inode, key.offset) >= low else low[1]
    end = key.end if (key.inode, key.end) <= high else high[1]
    if low[0] <= key.inode <= high[0] and start < end:
        yield start, end


def painted(parts: list[Part], ranges: Iterator[tuple[int, int]], confidence: Confidence) -> list[Part]:
    """Returns the parts with another confidence in these ranges."""
    for low, high in ranges:
        parts = [piece for part in parts for piece in _repainted(part, low, high, confidence)]
    return parts


def _repainted(part: Part, low: int, high: int, confidence: Confidence) -> Iterator[Part]:
    start, end, before = part
    low, high = max(low, start), min(high, end)
    if low >= high:
        yield part
        return
    if start < low:
        yield start, low, before
    yield low, high, confidence
    if high < end:
        yield high, end, before
