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

KEYS_MAX = 100_000  # of the newest entries: what a leaf lacks was written last


def outdated_leaves(
    tree: TreeReader, known: dict[int, JournalEntry], bounds: Bounds
) -> list[tuple[Position, Position]]:
    """Returns the ranges of the sound leaves that have an outdated key; known has entries by their seqs."""
    keys = _OutdatedKeys(_newest_of(known), bounds)
    positions = [] if keys.are_none else sorted(_positions(tree, keys))
    found = []
    for low, high in tree.sound_leaves if positions else ():
        following = bisect_right(positions, low)
        if following < len(positions) and positions[following] <= high:
            found.append((low, high))
    return found


def _positions(tree: TreeReader, keys: "_OutdatedKeys") -> Iterator[Position]:
    for rows in tree.rows.chunks():
        for key in keys.within(rows.where(rows.dirty)):
            yield position_of(key)


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
