# SPDX-License-Identifier: GPL-2.0-only
"""Which keys of an index are sure for a reason that holds for whole columns: in a sound set, nearly all.

What is not plain is looked at one by one (dirty_extents.py), which takes a hundred times as long.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bcached.state.accounting.check_counts import Use
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.interior_keys import Position
from bcached.state.index.keys.key_rows import Rows
from bcached.store.rescue.remains.doubts import Doubts
from bcached.store.rescue.remains.set_left import SetLeft

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """Sectors of an inode, in order, no two ranges overlapping."""

    inode: int
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PlainRows:
    """The rule for one set; its keys must all be known."""

    left: SetLeft
    proven: Sequence[Mask]  # by member: buckets whose gen is certain
    conflicting: NDArray[np.int64]  # numbers of keys, in order
    _replayed: list[Ranges] = field(default_factory=list)  # what the journal has, if not all gens are certain

    @classmethod
    def for_set(cls, left: SetLeft, proven: Sequence[Mask], conflicting: Iterable[int]) -> "PlainRows":
        """Returns the rule, by what is proven at this moment."""
        replayed = list(ranges_of(left.doubts.replayed)) if not all(known.all() for known in proven) else []
        return cls(left, proven, np.array(sorted(conflicting), np.int64), replayed)

    def of(self, rows: Rows) -> Mask:
        """Whether each row is of a key that is sure as a whole; False where that takes a closer look.

        1. Nothing in this set is plain. 2. Keys of several copies, of other members, in buckets with a gen
        that is newer, or that is not certain (unless only the leaves have the key), or that hold metadata.
        3. Keys that others claim, too. 4. Keys in the range of a damaged node.
        """
        if not _allow_plain(self.left.doubts):
            return np.zeros(len(rows), bool)
        plain = self._in_sound_buckets(rows) & _is_single(rows)
        if len(self.conflicting):
            plain &= ~np.isin(rows.keys, self.conflicting)
        for doubtful in (*self.left.doubts.leaves, *self.left.doubts.interiors):
            plain &= ~_overlaps(rows, doubtful.low, doubtful.high)
        return plain

    def _in_sound_buckets(self, rows: Rows) -> Mask:
        sound = np.zeros(len(rows), bool)
        for device, census in enumerate(self.left.checked.censuses):
            here = np.flatnonzero(rows.devices == device)
            buckets = census.geometry.buckets_of(rows.first_sectors[here])
            uses = census.uses[buckets]
            current = census.gens[buckets] == rows.gens[here]
            holds_data = (uses == Use.FREE) | (uses == Use.DATA)
            sound[here] = current & holds_data & self.proven[device][buckets]
            if self.left.doubts.index_is_whole and self._replayed:
                sound[here] |= current & holds_data & self._only_in_leaves(rows, here)
        return sound

    def _only_in_leaves(self, rows: Rows, here: NDArray[np.int64]) -> Mask:
        """Whether the journal has no part of each of these rows."""
        return are_outside(rows.where(here), self._replayed)


def are_outside(rows: Rows, every: Iterable[Ranges]) -> Mask:
    """Whether no part of each row is in any of the ranges."""
    starts = rows.ends - rows.sectors
    outside = np.ones(len(rows), bool)
    for ranges in every:
        if not len(ranges.ends):
            continue
        number = np.searchsorted(ranges.ends, starts, side="right")
        following = ranges.starts[np.minimum(number, len(ranges.ends) - 1)]
        outside &= (rows.inodes != ranges.inode) | (number == len(ranges.ends)) | (following >= rows.ends)
    return outside


def ranges_of(extents: Extents) -> Iterator[Ranges]:
    """Yields what extents have of each inode; at least one, of nothing."""
    keys: dict[int, list[tuple[int, int]]] = {0: []}
    for key in extents:
        keys.setdefault(key.inode, []).append((key.offset, key.end))
    for inode, ranges in keys.items():
        columns = np.array(ranges, np.int64).reshape(-1, 2)
        yield Ranges(inode, columns[:, 0], columns[:, 1])


def _allow_plain(doubts: Doubts) -> bool:
    return doubts.journal_is_whole and not doubts.nothing_is_sure and not doubts.contested.key_count


def _is_single(rows: Rows) -> Mask:
    """Whether each row's key has no other row. A key's rows are neighbours, and in one chunk."""
    single = np.ones(len(rows), bool)
    same = rows.keys[1:] == rows.keys[:-1]
    single[1:] &= ~same
    single[:-1] &= ~same
    return single


def _overlaps(rows: Rows, low: Position, high: Position) -> Mask:
    """Whether a part of each row is in a range of positions."""
    starts = rows.ends - rows.sectors
    behind_low = (rows.inodes > low[0]) | ((rows.inodes == low[0]) & (rows.ends > low[1]))
    before_high = (rows.inodes < high[0]) | ((rows.inodes == high[0]) & (starts < high[1]))
    overlapping: Mask = behind_low & before_high
    return overlapping
