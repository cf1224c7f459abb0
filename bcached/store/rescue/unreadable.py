# SPDX-License-Identifier: GPL-2.0-only
"""Which sectors of the members cannot be read: behind a short device's end, or bad in a map of ddrescue."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bcached.errors import SetRefused
from bcached.state.index.keys.key_rows import Rows
from bcached.store.rescue.dirty_extents import DirtyExtent, Place
from bcached.units import SECTOR_BYTES

SHOWN_OF_A_ROW = 40
GOOD = "+"  # ddrescue: finished; every other status means that the block was not read


@dataclass(slots=True)
class Unreadable:
    """The ends of the members, and the bad ranges of the only one, in sectors."""

    ends: Sequence[int]
    _firsts: list[int] = field(default_factory=list)
    _ends: list[int] = field(default_factory=list)

    def add_map(self, lines: Iterable[str], path: str) -> None:
        """Add the bad ranges of a map of ddrescue. Raises SetRefused if it is none."""
        if len(self.ends) != 1:
            raise SetRefused(f"{path}: a map is of one device, and the set has {len(self.ends)}")
        for begin, end in bad_ranges(lines, path):
            self._firsts.append(begin // SECTOR_BYTES)
            self._ends.append(-(-end // SECTOR_BYTES))

    def overlaps(self, place: Place, sectors: int) -> bool:
        """Whether one of these sectors cannot be read."""
        if place.sector + sectors > self.ends[place.device]:
            return True
        number = bisect_right(self._ends, place.sector)
        return number < len(self._firsts) and self._firsts[number] < place.sector + sectors

    def overlaps_rows(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether each row has a sector that cannot be read."""
        firsts, ends = rows.first_sectors, rows.first_sectors + rows.sectors
        overlapping = ends > np.array(self.ends)[rows.devices]
        if self._ends:
            numbers = np.searchsorted(self._ends, firsts, side="right")
            overlapping |= np.append(self._firsts, 1 << 62)[numbers] < ends
        return overlapping

    def holds(self, extent: DirtyExtent) -> bool:
        """Whether every copy of an extent has a sector that cannot be read."""
        return all(self.overlaps(place, extent.sectors) for place in extent.copies)


def bad_ranges(lines: Iterable[str], path: str) -> Iterator[tuple[int, int]]:
    """Yields begin and end, in bytes, of what a map of ddrescue does not call finished.

    Its lines are: comments (#), one of the current position, then position, size and status of each block.
    """
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if len(rows) < 2 or not _is_position(rows[0]):
        raise _no_map(path, rows[0] if rows else [])
    last = 0
    for row in rows[1:]:
        try:
            begin, size, status = int(row[0], 0), int(row[1], 0), row[2]
        except (ValueError, IndexError):
            raise _no_map(path, row) from None
        if begin < last:
            raise SetRefused(f"{path}: expected blocks in order, found position {begin} behind {last}")
        last = begin + size
        if status != GOOD:
            yield begin, last


def _is_position(row: Sequence[str]) -> bool:
    """Whether a row is the current position and status, and perhaps the pass."""
    try:
        int(row[0], 0)
    except ValueError:
        return False
    return len(row) in (2, 3)


def _no_map(path: str, row: Sequence[str]) -> SetRefused:
    found = repr(" ".join(row)[:SHOWN_OF_A_ROW]) if row else "no block"
    return SetRefused(f"{path}: expected a ddrescue map (position, size, status), found {found}")
