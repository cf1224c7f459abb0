# SPDX-License-Identifier: GPL-2.0-only
"""The dirty extents of a volume as a map for readers of another process (device/view_plugin.py)."""

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bcached.store.rescue.dirty_extents import DirtyExtent, Place
from bcached.store.rescue.unreadable import Unreadable

ROW_WORDS = 4  # first sector, sectors, member, first sector there
NO_MEMBER = (1 << 64) - 1  # of sectors that no member can read

Row = tuple[int, int, int, int]


def packed_map(extents: Iterable[DirtyExtent], first_sector: int, unreadable: Unreadable) -> bytes:
    """Returns the rows in order; offsets count from first_sector, where the volume's data begins."""
    words = array("Q")
    for extent in extents:
        if extent.offset >= first_sector:
            for row in _rows(extent.offset - first_sector, extent.sectors, extent.copies, unreadable):
                words.extend(row)
    rows = np.frombuffer(words, np.uint64).reshape(-1, ROW_WORDS)
    return rows[np.argsort(rows[:, 0], kind="stable")].tobytes()


def _rows(offset: int, sectors: int, copies: Sequence[Place], unreadable: Unreadable) -> Iterator[Row]:
    """Yields where to read each part: the first copy that can be read there."""
    if not copies:
        yield offset, sectors, NO_MEMBER, 0
        return
    place = copies[0]
    for skipped, count, is_readable in unreadable.parts(place, sectors):
        if is_readable:
            yield offset + skipped, count, place.device, place.sector + skipped
        else:
            others = [Place(other.device, other.sector + skipped) for other in copies[1:]]
            yield from _rows(offset + skipped, count, others, unreadable)
