# SPDX-License-Identifier: GPL-2.0-only
"""Keys of journal entries in columns, to compare all keys of an index with them in little time."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bcached.format.bits import NumberColumn
from bcached.keys import Key, Pointer
from bcached.state.index.keys.interior_keys import Position
from bcached.state.index.keys.key_rows import Rows

RANK_BITS, INODE_SHIFT, DEVICE_SHIFT = 40, 20, 8
NOWHERE = Pointer(0, 0, 0)
NONE = -1  # a place that no key has


class SectorPositions:
    """Sectors of volumes as single numbers in the same order; numbers of other kinds in place of inodes."""

    def __init__(self, *sectors: NumberColumn) -> None:
        self._known = distinct(np.concatenate(sectors))

    def of(self, inodes: NumberColumn, sectors: NumberColumn) -> NumberColumn:
        """Returns the numbers; sectors that are not among the known ones are between those."""
        behind, is_known = ranks_in(self._known, sectors)
        numbers: NumberColumn = (inodes << RANK_BITS) + 2 * behind + is_known
        return numbers


class Mappings:
    """Which place of a device each key, or row, has its sectors at: two columns that are compared as one."""

    def __init__(
        self,
        inodes: NumberColumn,
        offsets: NumberColumn,
        devices: NumberColumn,
        sectors: NumberColumn,
        gens: NumberColumn,
    ) -> None:
        self.shifts = sectors - offsets
        self.places = (inodes << INODE_SHIFT) + (devices << DEVICE_SHIFT) + gens

    @classmethod
    def of_rows(cls, rows: Rows) -> "Mappings":
        """Returns those of rows."""
        return cls(rows.inodes, rows.ends - rows.sectors, rows.devices, rows.first_sectors, rows.gens)

    @classmethod
    def of_keys(cls, keys: Sequence[Key], pointers: Sequence[Pointer]) -> "Mappings":
        """Returns those of keys, one pointer of each."""
        return cls(
            column([key.inode for key in keys]),
            column([key.offset for key in keys]),
            column([pointer.device for pointer in pointers]),
            column([pointer.sector for pointer in pointers]),
            column([pointer.gen for pointer in pointers]),
        )


def distinct(numbers: NumberColumn) -> NumberColumn:
    """Returns the numbers in order, each once. numpy's hash table takes ten times as long as a sort."""
    ordered: NumberColumn = np.sort(numbers)
    is_first = np.ones(len(ordered), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return ordered[is_first]


def ranks_in(known: NumberColumn, numbers: NumberColumn) -> tuple[NumberColumn, NDArray[np.bool_]]:
    """Returns how many of the known numbers are lower than each number, and whether each is known."""
    ranks = np.searchsorted(known, numbers)
    return ranks, known[np.minimum(ranks, len(known) - 1)] == numbers


def column(numbers: Sequence[int]) -> NumberColumn:
    """Returns a column."""
    return np.array(numbers, np.int64)


class NewestKeys:
    """Which of some keys, oldest first, is the newest that has each sector."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = keys
        inodes = column([key.inode for key in keys])
        starts, ends = column([key.offset for key in keys]), column([key.end for key in keys])
        self._positions = SectorPositions(starts, ends)
        starts, ends = self._positions.of(inodes, starts), self._positions.of(inodes, ends)
        self._bounds = distinct(np.concatenate([starts, ends]))  # of parts that are of one key, or of none
        self._firsts, self._lasts = (np.searchsorted(self._bounds, one) for one in (starts, ends))
        self._newest = np.full(len(self._bounds), NONE, np.int64)
        for number, (first, last) in enumerate(zip(self._firsts.tolist(), self._lasts.tolist(), strict=True)):
            self._newest[first:last] = number
        pointers = [key.pointers[0] if key.pointers else NOWHERE for key in keys]
        self._mappings = Mappings.of_keys(keys, pointers)
        self._mappings.places[column([not key.pointers for key in keys]) > 0] = NONE

    def differ(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether the newest key of a part of each row points to another place, with its first pointer."""
        firsts, counts = self._parts_of(rows)
        row = np.repeat(np.arange(len(rows)), counts)
        newest = self._newest[_counted(firsts, counts)]
        mappings = Mappings.of_rows(rows)
        differ = (self._mappings.shifts[newest] != mappings.shifts[row]) | (
            self._mappings.places[newest] != mappings.places[row]
        )
        found = np.zeros(len(rows), bool)
        found[row[differ & (newest != NONE)]] = True
        return found

    def near(self, rows: Rows) -> list[Key]:
        """Returns the keys that have a sector of a row, oldest first."""
        firsts, counts = self._parts_of(rows)
        is_near = np.zeros(len(self._bounds), np.int64)
        is_near[_counted(firsts, counts)] = 1
        before = np.concatenate([[0], np.cumsum(is_near)])
        numbers = np.flatnonzero(before[self._lasts] > before[self._firsts])
        return [self.keys[number] for number in numbers.tolist()]

    def _parts_of(self, rows: Rows) -> tuple[NumberColumn, NumberColumn]:
        """Returns the first part that each row has a sector of, and how many there are."""
        starts = self._positions.of(rows.inodes, rows.ends - rows.sectors)
        firsts = np.maximum(np.searchsorted(self._bounds, starts, side="right") - 1, 0)
        ends = np.searchsorted(self._bounds, self._positions.of(rows.inodes, rows.ends))
        return firsts, np.maximum(ends - firsts, 0)


def _counted(firsts: NumberColumn, counts: NumberColumn) -> NumberColumn:
    """Returns the numbers from each first one on, as many as it counts."""
    before = np.cumsum(counts) - counts
    numbers: NumberColumn = np.arange(int(counts.sum())) + np.repeat(firsts - before, counts)
    return numbers


class DirtySectors:
    """Which dirty sectors some keys map to which place of a device."""

    def __init__(self, keys: Sequence[Key]) -> None:
        placed = [(key, pointer) for key in keys if key.dirty for pointer in key.pointers]
        keys, pointers = [key for key, _ in placed], [pointer for _, pointer in placed]
        mappings = Mappings.of_keys(keys, pointers)
        self._shifts = distinct(mappings.shifts)
        self._groups = distinct(self._packed(mappings))
        groups = np.searchsorted(self._groups, self._packed(mappings))
        starts, ends = column([key.offset for key in keys]), column([key.end for key in keys])
        self._positions = SectorPositions(starts, ends) if placed else None
        if self._positions is not None:
            starts, ends = self._positions.of(groups, starts), self._positions.of(groups, ends)
            order = np.argsort(starts, kind="stable")
            starts, reached = starts[order], np.maximum.accumulate(ends[order])
            begins = np.concatenate([[True], starts[1:] > reached[:-1]])
            self._starts = starts[begins]
            self._ends = reached[np.concatenate([begins[1:], [True]])]

    def have(self, keys: Sequence[Key]) -> bool:
        """Whether every sector of each dirty key is mapped as the key does it."""
        placed = [(key, pointer) for key in keys if key.dirty for pointer in key.pointers]
        if not placed or self._positions is None:
            return not placed
        keys, pointers = [key for key, _ in placed], [pointer for _, pointer in placed]
        mappings = Mappings.of_keys(keys, pointers)
        packed = self._packed(mappings)
        groups, are_known = ranks_in(self._groups, packed)
        are_known &= ranks_in(self._shifts, mappings.shifts)[1]
        starts = self._positions.of(groups, column([key.offset for key in keys]))
        ends = self._positions.of(groups, column([key.end for key in keys]))
        number = np.searchsorted(self._starts, starts, side="right") - 1
        return bool((are_known & (number >= 0) & (self._ends[number] >= ends)).all())

    def _packed(self, mappings: Mappings) -> NumberColumn:
        ranks = np.searchsorted(self._shifts, mappings.shifts)
        packed: NumberColumn = (ranks << RANK_BITS) + mappings.places
        return packed


def keys_in(keys: Sequence[Key], low: Position, high: Position) -> list[Key]:
    """Returns the keys that have a sector in the range of a leaf."""
    return [key for key in keys if (key.inode, key.end) > low and (key.inode, key.offset) < high]
