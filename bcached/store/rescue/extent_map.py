# SPDX-License-Identifier: GPL-2.0-only
"""The dirty extents of a volume as a map for readers of another process (device/view_plugin.py)."""

from array import array
from collections.abc import Iterable

import numpy as np

from bcached.store.rescue.dirty_extents import DirtyExtent

ROW_WORDS = 4  # first sector, sectors, member, first sector there


def packed_map(extents: Iterable[DirtyExtent], first_sector: int) -> bytes:
    """Returns the rows in order; offsets count from first_sector, where the volume's data begins."""
    words = array("Q")
    for extent in extents:
        if extent.offset >= first_sector:
            copy = extent.copies[0]
            words.extend((extent.offset - first_sector, extent.sectors, copy.device, copy.sector))
    rows = np.frombuffer(words, np.uint64).reshape(-1, ROW_WORDS)
    return rows[np.argsort(rows[:, 0], kind="stable")].tobytes()
