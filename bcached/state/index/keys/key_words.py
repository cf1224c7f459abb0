# SPDX-License-Identifier: GPL-2.0-only
"""Where the fields of packed extents are, for code that visits every key of a leaf (extent_run.py).

The layout is that of format/bkey.py. The fields are extracted inline by these shifts and limits, since a call
for each would take longer than the rest of the loop: a head's sectors are `head >> SIZE_SHIFT & SIZE_LIMIT`,
its pointers `head >> COUNT_SHIFT & COUNT_LIMIT`, a pointer's sector `word >> SECTOR_SHIFT & SECTOR_LIMIT`. An
extent is cut by a subtraction from its head, and its pointers are moved by an addition: no field
overflows, as an extent is in one bucket.
"""

from bcached.format.bkey import KEY_DIRTY, KEY_PTRS, KEY_SIZE, PTR_OFFSET

SIZE_SHIFT, SIZE_LIMIT = KEY_SIZE.shift, KEY_SIZE.limit
COUNT_SHIFT, COUNT_LIMIT = KEY_PTRS.shift, KEY_PTRS.limit
SECTOR_SHIFT, SECTOR_LIMIT = PTR_OFFSET.shift, PTR_OFFSET.limit
MERGED_FIELDS = KEY_PTRS.mask | KEY_DIRTY.mask  # what two heads must share to be merged, beside the inode


def pointer_count(head: int) -> int:
    """Returns how many pointers a key with this head has."""
    return head >> COUNT_SHIFT & COUNT_LIMIT
