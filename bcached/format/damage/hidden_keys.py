# SPDX-License-Identifier: GPL-2.0-only
"""Keys that follow where the bsets of a node end: the newest one has no beginning.

It was erased, or a power cut interrupted an append whose sectors the device wrote in another order.
"""

import struct
from collections.abc import Iterator, Sequence

from bcached.format.bkey import (
    COUNT_LIMIT,
    COUNT_SHIFT,
    END_MAX,
    HEAD_WORDS,
    HIGH_BIT,
    KEY_CSUM,
    KEY_SIZE,
    WORD_BYTES,
    key_of_words,
)
from bcached.format.checksum import Buffer
from bcached.keys import INODE_MAX, Key
from bcached.units import SECTOR_BYTES

ENOUGH = 4  # keys in ascending order, one behind the other: other data is not like that
WORDS = SECTOR_BYTES // WORD_BYTES


def keys_behind(raw: Buffer, end: int) -> Sequence[Key]:
    """Returns keys that follow where a node's bsets end, behind a sector of zeros; none if there are none.

    They are those of the second sector. Where the bucket held another node before, its keys are behind a
    header, not behind zeros.
    """
    view = memoryview(raw)
    if end + 2 * SECTOR_BYTES > len(view) or any(view[end : end + SECTOR_BYTES]):
        return ()
    words = struct.unpack_from(f"<{WORDS}Q", view, end + SECTOR_BYTES)
    found = (list(_keys_from(words, first)) for first in range(HEAD_WORDS + 1))
    return next((keys for keys in found if len(keys) >= ENOUGH), ())


def _keys_from(words: tuple[int, ...], index: int) -> Iterator[Key]:
    """Yields keys as long as they are complete and in ascending order."""
    before: tuple[int, int] = (-1, -1)
    while index + HEAD_WORDS <= WORDS:
        head, end = words[index : index + HEAD_WORDS]
        first = index + HEAD_WORDS
        index = first + (head >> COUNT_SHIFT & COUNT_LIMIT)
        is_key = HIGH_BIT.get(head) and not KEY_CSUM.get(head) and KEY_SIZE.get(head) and end <= END_MAX
        if not is_key or index > WORDS or (head & INODE_MAX, end) <= before:
            return
        before = head & INODE_MAX, end
        yield key_of_words(head, end, words[first:index])
