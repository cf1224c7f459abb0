# SPDX-License-Identifier: GPL-2.0-only
"""Leaves that lack newer keys, as journal entries show that are not needed any more.

Such entries are in the ring until they are overwritten. Their keys are in leaves, so where one entry names
other sectors than an earlier one did, a leaf names what the later one did, or what a moving collection wrote
since. If it has the dirty key of the earlier one, its newest bset was erased, which leaves no other trace.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import takewhile

import numpy as np

from bcached.format.bkey import Bounds
from bcached.format.jset import JournalEntry
from bcached.keys import Key
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.interior_keys import Position, position_of
from bcached.state.index.keys.key_rows import Rows
from bcached.store.reading.replay import merge_entries
from bcached.store.reading.torn_append import MappedSectors
from bcached.store.reading.tree_reader import TreeReader
from bcached.store.rescue.remains.doubts import DoubtfulRange, same_place

KEYS_MAX = 100_000  # of the newest entries: what a leaf lacks was written last


def outdated_leaves(
    tree: TreeReader, known: dict[int, JournalEntry], bounds: Bounds, damaged: Sequence[DoubtfulRange]
) -> list[tuple[Position, Position]]:
    """Returns the ranges of the leaves that have an outdated key; known has entries by their seqs.

    Of the damaged ones, those that have one among the keys that are newer than the damage.
    """
    keys = _OutdatedKeys(_newest_of(known), bounds)
    outdated = [] if keys.are_none else sorted(_all_of(tree, keys), key=position_of)
    if not outdated:
        return []
    positions = [position_of(key) for key in outdated]

    def within(low: Position, high: Position) -> Sequence[Key]:
        return outdated[bisect_right(positions, low) : bisect_right(positions, high)]

    found = [(low, high) for low, high in tree.sound_leaves if within(low, high)]
    for leaf in damaged:
        newer = (same_place(leaf.newer, key, key.pointers[0]) for key in within(leaf.low, leaf.high))
        if any(True for parts in newer for _ in parts):
            found.append((leaf.low, leaf.high))
    return found


def _all_of(tree: TreeReader, keys: "_OutdatedKeys") -> Iterator[Key]:
    for rows in tree.rows.chunks():
        yield from keys.within(rows.where(rows.dirty))


def _newest_of(known: dict[int, JournalEntry]) -> list[JournalEntry]:
    """Returns the newest entries with not too many keys, oldest first."""
    count = 0

    def is_within(entry: JournalEntry) -> bool:
        nonlocal count
        count += len(entry.keys)
        return count <= KEYS_MAX

    return list(takewhile(is_within, (known[seq] for seq in sorted(known, reverse=True))))[::-1]


class _OutdatedKeys:
    """The dirty keys of some entries that later ones replaced."""

    def __init__(self, entries: Sequence[JournalEntry], bounds: Bounds) -> None:
        merged = merge_entries("", entries, bounds, lambda _: None)
        self._newest: Extents = merged.extents
        replaced = [key for key in merged.superseded if key.dirty and key.pointers]
        self._replaced = MappedSectors(replaced)
        shifts = [pointer.sector - key.offset for key in replaced for pointer in key.pointers]
        self._shifts = np.unique(np.array(shifts, np.int64))

    @property
    def are_none(self) -> bool:
        """Whether there are none."""
        return not len(self._shifts)

    def within(self, rows: Rows) -> Iterator[Key]:
        """Yields the dirty rows that have a part of such a key."""
        shifts = rows.first_sectors.astype(np.int64) - (rows.ends - rows.sectors)
        for key in rows.where(np.isin(shifts, self._shifts)):
            for low, high in self._replaced_in(key):
                newest = self._newest.lookup(key.inode, low, high)
                if not any(_is_at_same_place(one, key) for one in newest):
                    yield key

    def _replaced_in(self, key: Key) -> Iterator[tuple[int, int]]:
        (pointer,) = key.pointers
        mapping = (key.inode, True, pointer.device, pointer.gen, pointer.sector - key.offset)
        for first, behind in self._replaced.ranges(mapping):
            low, high = max(first, key.offset), min(behind, key.end)
            if low < high:
                yield low, high


def _is_at_same_place(other: Key, key: Key) -> bool:
    """Whether another key, dirty or not, names the same sectors of a device for the part that both have."""
    (pointer,) = key.pointers
    shift = pointer.sector - key.offset
    return any(
        (one.device, one.gen, one.sector - other.offset) == (pointer.device, pointer.gen, shift)
        for one in other.pointers
    )
