# SPDX-License-Identifier: GPL-2.0-only
"""Whether a journal entry with a wrong checksum was cut off by a power failure, or damaged afterwards.

Both have the same wrong checksum, but not the same contents. Of an interrupted write some sectors are as
written, and the others as they were before: zeros, or what an earlier lap of the ring left there.
"""

import struct
from collections.abc import Iterator

from bcached.errors import FormatError
from bcached.format.bkey import COUNT_LIMIT, COUNT_SHIFT, HEAD_WORDS, HIGH_BIT, WORD_BYTES, parse_keys
from bcached.format.checksum import Buffer, crc64_we
from bcached.format.jset import HEADER, JSET_BYTES, JSET_BYTES_MAX, JSET_VERSION, JournalEntry
from bcached.format.magic import JSET
from bcached.units import SECTOR_BYTES

COUNT_OFFSET = 28
COUNT, WORD = struct.Struct("<I"), struct.Struct("<Q")
KEY_WORDS_BELOW = 1 << 54  # the words of a key behind its head: an offset, or a pointer to a member
HEAD_UNUSED = (1 << 60) - (1 << 37)


def is_cut_off(raw: Buffer, set_magic: int, before: JournalEntry) -> bool:
    """Whether raw begins with an entry right behind another one whose write did not end."""
    return cut_of(raw, set_magic, before) is not None


def cut_of(raw: Buffer, set_magic: int, before: JournalEntry) -> int | None:
    """Returns how much was written of an entry right behind another one; None if its write may have ended.

    1. Its header and its keys up to the cut are an entry's, and the first sector is whole. 2. From the cut on
    all is zeros, or a sector there begins with an older entry. 3. No smaller number of keys has the checksum:
    else the number is wrong.
    """
    used = used_by_next(raw, set_magic, before)
    if used is None or len(used) <= SECTOR_BYTES:
        return None
    cut = _cut(memoryview(raw), len(used), set_magic, before.seq)
    if not SECTOR_BYTES <= cut < len(used) or not _has_keys_up_to(used, cut):
        return None
    return None if any(_is_whole(used, size) for size in _sizes(used, cut)) else cut


def begins_with_key_word(raw: Buffer) -> bool:
    """Whether raw begins with a word of a key, as the blocks of an entry behind its first one do."""
    (word,) = WORD.unpack_from(raw)
    return 0 < word < KEY_WORDS_BELOW or (HIGH_BIT.get(word) == 1 and not word & HEAD_UNUSED)


def used_by_next(raw: Buffer, set_magic: int, before: JournalEntry) -> memoryview | None:
    """Returns the bytes that the entry says it has; None if they cannot be those of the next entry."""
    view = memoryview(raw)
    if len(view) < JSET_BYTES:
        return None
    _, magic, seq, version, words, last_seq = HEADER.unpack_from(view)
    size_bytes = JSET_BYTES + words * WORD_BYTES
    is_next = magic == JSET ^ set_magic and seq == before.seq + 1 and version <= JSET_VERSION
    if not is_next or not before.last_seq <= last_seq <= seq:
        return None
    return view[:size_bytes] if JSET_BYTES <= size_bytes <= min(len(view), JSET_BYTES_MAX) else None


def _cut(raw: memoryview, used: int, set_magic: int, newest: int) -> int:
    """Returns the first byte that was not written: of zeros to the end, or of a sector with an old entry.

    In front of that, sectors of zeros are what the entry before it had behind its keys: no key is zeros.
    """
    for begin in range(SECTOR_BYTES, min(used, len(raw) - HEADER.size), SECTOR_BYTES):
        _, magic, seq, _, _, _ = HEADER.unpack_from(raw, begin)
        if magic == JSET ^ set_magic and seq <= newest:
            behind_zeros = range(begin, SECTOR_BYTES, -SECTOR_BYTES)
            return next((at for at in behind_zeros if any(raw[at - SECTOR_BYTES : at])), SECTOR_BYTES)
    return -(-len(bytes(raw[:used]).rstrip(b"\0")) // WORD_BYTES) * WORD_BYTES


def _has_keys_up_to(used: memoryview, cut: int) -> bool:
    """Whether keys, one behind the other, reach the cut; the last may be cut anywhere."""
    byte = JSET_BYTES
    while byte + WORD_BYTES < cut:
        (head,) = struct.unpack_from("<Q", used, byte)
        end = byte + (HEAD_WORDS + (head >> COUNT_SHIFT & COUNT_LIMIT)) * WORD_BYTES
        if not HIGH_BIT.get(head):
            return False
        if end > cut:
            return True
        try:
            parse_keys(used[byte:end], "key")
        except FormatError:
            return False
        byte = end
    return True


def _sizes(used: memoryview, cut: int) -> Iterator[int]:
    return iter(range(JSET_BYTES, min(cut + HEAD_WORDS * WORD_BYTES, len(used)), WORD_BYTES))


def _is_whole(used: memoryview, size_bytes: int) -> bool:
    """Whether the entry would have the right checksum with another number of keys."""
    (csum,) = struct.unpack_from("<Q", used)
    changed = bytearray(used[:size_bytes])
    COUNT.pack_into(changed, COUNT_OFFSET, (size_bytes - JSET_BYTES) // WORD_BYTES)
    return bool(crc64_we(memoryview(changed)[8:]) == csum)
