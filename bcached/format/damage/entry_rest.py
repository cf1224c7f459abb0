# SPDX-License-Identifier: GPL-2.0-only
"""Whether a sector is one of a journal entry behind its first: keys, and zeros behind the last one."""

import struct
from collections.abc import Iterator, Sequence

from bcached.format.bkey import COUNT_LIMIT, COUNT_SHIFT, HEAD_WORDS, HIGH_BIT, WORD_BYTES
from bcached.format.checksum import Buffer
from bcached.format.damage.torn_entry import HEAD_UNUSED, KEY_WORDS_BELOW
from bcached.units import SECTOR_BYTES

WORDS = SECTOR_BYTES // WORD_BYTES
SECTOR = struct.Struct(f"<{WORDS}Q")
KEY_WORDS_MAX = HEAD_WORDS + COUNT_LIMIT


def ends_of_rest(sector: Buffer) -> set[int]:
    """Returns the bytes at which the last key in a sector may end, maybe behind it; none if it has others.

    The first key may have begun in the sector before, with any number of words.
    """
    words = SECTOR.unpack_from(sector)
    return {end * WORD_BYTES for first in range(KEY_WORDS_MAX) if (end := _end(words, first)) is not None}


def has_pointers(sector: Buffer) -> bool:
    """Whether there is a key's pointer, whichever way the sector is read.

    1. Of a key that began in the sector before: its last word, but not its only one here, which may be the
    end of a deletion. 2. Of a whole key.
    """
    words = SECTOR.unpack_from(sector)
    firsts = [first for first in range(KEY_WORDS_MAX) if _end(words, first) is not None]
    return bool(firsts) and all(
        first > 1
        or any(count and begin + HEAD_WORDS + count <= WORDS for begin, count in _heads(words, first))
        for first in firsts
    )


def _end(words: Sequence[int], first: int) -> int | None:
    """Returns the word behind the last key, if there are only keys from one word on, and a rest before it."""
    if any(word >= KEY_WORDS_BELOW for word in words[:first]):
        return None
    end = first
    for begin, count in _heads(words, first):
        end = begin + HEAD_WORDS + count
        if any(word >= KEY_WORDS_BELOW for word in words[begin + 1 : end]):
            return None
    return end if not any(words[end:]) else None


def _heads(words: Sequence[int], first: int) -> Iterator[tuple[int, int]]:
    """Yields the word at which each key begins, and the number of its pointers, up to what is no key."""
    while first < WORDS and HIGH_BIT.get(words[first]) and not words[first] & HEAD_UNUSED:
        count = words[first] >> COUNT_SHIFT & COUNT_LIMIT
        yield first, count
        first += HEAD_WORDS + count
