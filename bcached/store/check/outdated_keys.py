# SPDX-License-Identifier: GPL-2.0-only
"""Keys of leaves that newer ones have replaced, as journal entries show that are not needed any more.

Such entries are in the ring until they are overwritten. Their keys are in leaves, so where one entry names
other sectors than an earlier one did, a leaf names what the later one did, or what a moving collection wrote
since. If it has the dirty key of the earlier one, its newest bset was erased, which leaves no other trace.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from bcached.format.bkey import Bounds
from bcached.format.jset import JournalEntry
from bcached.keys import Key, Pointer
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.interior_keys import Position, position_of
from bcached.state.index.keys.key_rows import KeyRows, Rows
from bcached.store.check.journaled_keys import NewestKeys
from bcached.store.finding import Finding, Report, Severity
from bcached.store.reading.replay import merge_entries
from bcached.store.reading.torn_append import MappedSectors

KEYS_MAX = 100_000  # of the newest entries: what a leaf lacks was written last


class OutdatedKeys:
    """The parts of an index's dirty keys that entries replaced, in order."""

    def __init__(self, rows: KeyRows, known: dict[int, JournalEntry], bounds: Bounds) -> None:
        """Find them; known has entries by their seqs."""
        self.keys = sorted(_outdated(rows, _newest_of(known), bounds), key=position_of)
        self._positions = [position_of(key) for key in self.keys]

    def within(self, low: Position, high: Position) -> Sequence[Key]:
        """Returns those in the range of a leaf."""
        return self.keys[bisect_right(self._positions, low) : bisect_right(self._positions, high)]

    def leaves(self, ranges: Sequence[tuple[Position, Position]]) -> list[tuple[Position, Position]]:
        """Returns those ranges that have any."""
        return [(low, high) for low, high in ranges if self.within(low, high)] if self.keys else []


def report_erased(low: Position, high: Position, report: Report) -> None:
    """Report a leaf with such keys."""
    problem = "a key is there that the journal replaced: its newest bset was erased"
    lost = "the keys in that bset; others of this range may not be the newest"
    where = f"leaf of inode {low[0]} sector {low[1]} to inode {high[0]} sector {high[1]}"
    report(Finding("node-erased", Severity.DAMAGE, "btree node", where, problem, lost))


def _newest_of(known: dict[int, JournalEntry]) -> list[JournalEntry]:
    """Returns the newest entries with not too many keys, oldest first."""
    count = 0

    def is_within(entry: JournalEntry) -> bool:
        nonlocal count
        count += len(entry.keys)
        return count <= KEYS_MAX

    return list(takewhile(is_within, (known[seq] for seq in sorted(known, reverse=True))))[::-1]


def _outdated(rows: KeyRows, entries: Sequence[JournalEntry], bounds: Bounds) -> Iterator[Key]:
    """Yields the outdated parts of rows.

    All rows are compared with the newest keys in columns. What differs, little as a rule, is compared key by
    key with the entries' keys that it overlaps.
    """
    keys = [key for entry in entries for key in entry.keys if key.sectors]
    if not keys:
        return
    newest = NewestKeys(keys)
    for chunk in rows.chunks():
        dirty = chunk.where(chunk.dirty)
        different = dirty.where(newest.differ(dirty))
        if len(different):
            near = replace(entries[-1], keys=tuple(newest.near(different)))
            yield from _Replaced(near, bounds).within(different)


class _Replaced:
    """What the dirty keys of some entries that later ones replaced had; the keys are those of one entry."""

    def __init__(self, entry: JournalEntry, bounds: Bounds) -> None:
        merged = merge_entries("", [entry], bounds, lambda _: None)
        self._newest: Extents = merged.extents
        self._replaced = MappedSectors([key for key in merged.superseded if key.dirty and key.pointers])

    def within(self, rows: Rows) -> Iterator[Key]:
        """Yields the parts of dirty rows that have a part of such a key."""
        for key in rows:
            for low, high in self._replaced_in(key):
                newest = self._newest.lookup(key.inode, low, high)
                if not any(_is_at_same_place(one, key) for one in newest):
                    yield _part(key, low, high)

    def _replaced_in(self, key: Key) -> Iterator[tuple[int, int]]:
        (pointer,) = key.pointers
        mapping = (key.inode, True, pointer.device, pointer.gen, pointer.sector - key.offset)
        for first, behind in self._replaced.ranges(mapping):
            low, high = max(first, key.offset), min(behind, key.end)
            if low < high:
                yield low, high


def _part(key: Key, low: int, high: int) -> Key:
    (pointer,) = key.pointers
    place = Pointer(pointer.device, pointer.sector + low - key.offset, pointer.gen)
    return Key(key.inode, low, high - low, key.dirty, (place,))


def _is_at_same_place(other: Key, key: Key) -> bool:
    """Whether another key, dirty or not, names the same sectors of a device for the part that both have."""
    (pointer,) = key.pointers
    shift = pointer.sector - key.offset
    return any(
        (one.device, one.gen, one.sector - other.offset) == (pointer.device, pointer.gen, shift)
        for one in other.pointers
    )
