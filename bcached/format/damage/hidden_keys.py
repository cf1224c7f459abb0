# SPDX-License-Identifier: GPL-2.0-only
"""Whether keys follow where the bsets of a node end: the beginning of its newest bset was erased then."""

import struct

from bcached.format.bkey import (
    COUNT_LIMIT,
    COUNT_SHIFT,
    END_MAX,
    HEAD_WORDS,
    HIGH_BIT,
    KEY_CSUM,
    KEY_SIZE,
    WORD_BYTES,
)
from bcached.format.checksum import Buffer
from bcached.keys import INODE_MAX
from bcached.units import SECTOR_BYTES

ENOUGH = 4  # keys in ascending order, one behind the other: other data is not like that
WORDS = SECTOR_BYTES // WORD_BYTES


def has_keys_behind(raw: Buffer, end: int) -> bool:
    """Whether a node has a sector of zeros where its bsets end, and keys behind that.

    Where the bucket held another node before, its keys are behind a header, not behind zeros.
    """
    view = memoryview(raw)
    if end + 2 * SECTOR_BYTES > len(view) or any(view[end : end + SECTOR_BYTES]):
        return False
    words = struct.unpack_from(f"<{WORDS}Q", view, end + SECTOR_BYTES)
    return any(_keys_from(words, first) for first in range(HEAD_WORDS + 1))


def _keys_from(words: tuple[int, ...], index: int) -> bool:
    before: tuple[int, int] = (-1, -1)
    for _ in range(ENOUGH):
        head, end = words[index : index + HEAD_WORDS]
        is_key = HIGH_BIT.get(head) and not KEY_CSUM.get(head) and KEY_SIZE.get(head) and end <= END_MAX
        if not is_key or (head & INODE_MAX, end) <= before:
            return False
        before = head & INODE_MAX, end
        index += HEAD_WORDS + (head >> COUNT_SHIFT & COUNT_LIMIT)
    return True
