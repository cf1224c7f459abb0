# SPDX-License-Identifier: GPL-2.0-only
"""The words of packed extents: what heads and pointers say, and become when an extent is cut or extended.

The layout is that of format/bkey.py. Where each key of a leaf is visited (extent_run.py, extents.py) the
fields are extracted inline, by these shifts and limits: a call would take longer than the rest of the loop.
"""

from bcached.format.bkey import KEY_DIRTY, KEY_PTRS, KEY_SIZE, PTR_OFFSET

SIZE_SHIFT, SIZE_LIMIT = KEY_SIZE.shift, KEY_SIZE.limit
COUNT_SHIFT, COUNT_LIMIT = KEY_PTRS.shift, KEY_PTRS.limit
SECTOR_SHIFT, SECTOR_LIMIT = PTR_OFFSET.shift, PTR_OFFSET.limit
MERGED_FIELDS = KEY_PTRS.mask | KEY_DIRTY.mask  # what two heads must share to be merged, beside the inode


def sectors_of(head: int) -> int:
    """Returns how many sectors a key with this head has."""
    return head >> SIZE_SHIFT & SIZE_LIMIT


def pointer_count(head: int) -> int:
    """Returns how many pointers a key with this head has."""
    return head >> COUNT_SHIFT & COUNT_LIMIT


def resized(head: int, more: int) -> int:
    """Returns the head of a key with so many more sectors, or fewer if negative; the result must fit."""
    return head + (more << SIZE_SHIFT)


def moved(word: int, sectors: int) -> int:
    """Returns the pointer so many sectors further on the device; it stays in its bucket."""
    return word + (sectors << SECTOR_SHIFT)
