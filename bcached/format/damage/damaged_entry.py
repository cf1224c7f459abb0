# SPDX-License-Identifier: GPL-2.0-only
"""Whether a journal entry with a wrong checksum was damaged after it was written.

A power cut leaves each sector as it was before or as it was to be. So of an entry that was interrupted the
first sector is right, with the header, and of each other one either all or nothing. One of a single sector
cannot be interrupted. torn_entry.py tells for certain that an entry was; here is what certainly was not.

Some devices may garble the sector that they are writing when the power fails. That counts as damage, too: it
is safe to doubt what is right.
"""

from typing import NamedTuple

from bcached.errors import FormatError
from bcached.format.bkey import (
    COUNT_LIMIT,
    COUNT_SHIFT,
    HEAD_WORDS,
    HIGH_BIT,
    WORD_BYTES,
    Bounds,
    check_extent,
    check_node_key,
    parse_keys,
)
from bcached.format.checksum import Buffer
from bcached.format.damage.correction import corrected_entry
from bcached.format.damage.torn_entry import HEAD_UNUSED, KEY_WORDS_BELOW, WORD, used_by_next
from bcached.format.jset import JSET_BYTES, JournalEntry
from bcached.format.magic import JSET
from bcached.units import SECTOR_BYTES

MAGIC_OFFSET = 8
ONE_POINTER_BYTES = (HEAD_WORDS + 1) * WORD_BYTES


def is_damaged(raw: Buffer, set_magic: int, before: JournalEntry, bounds: Bounds) -> bool:
    """Whether what is right behind an entry, and has the next seq, was written and damaged.

    1. Only its magic is wrong; else it is an entry of another set, or no entry. 2. Its first sector is wrong,
    or all that it has. 3. Another sector is. 4. A single bit is.
    """
    (magic,) = WORD.unpack_from(raw, MAGIC_OFFSET)
    used = used_by_next(raw, magic ^ JSET, before)
    if magic != JSET ^ set_magic:
        return used is not None
    if used is None or len(used) <= SECTOR_BYTES or not _has_right_header(used, before, bounds):
        return True
    first, *others = _sectors(used, bounds)
    return not all(first.keys) or any(map(_is_mixed, others)) or corrected_entry(raw, set_magic) is not None


def _has_right_header(used: memoryview, before: JournalEntry, bounds: Bounds) -> bool:
    """Whether the fields in front of the keys may be those of an entry."""
    try:
        header = JournalEntry.parse_header(used, "header")
        check_node_key(header.uuid_bucket, bounds, "uuid_bucket")
        check_node_key(header.root, bounds, "btree_root")
    except FormatError:
        return False
    heads = zip(header.prio_heads, before.prio_heads, bounds.bucket_counts, strict=False)
    return all(head == known or bounds.first_bucket <= head < count for head, known, count in heads)


class _SectorKeys(NamedTuple):
    """Of each key that should begin in a sector whether it may be one, and whether others begin there."""

    keys: list[bool]
    has_others: bool


def _sectors(used: memoryview, bounds: Bounds) -> list[_SectorKeys]:
    """Returns what is in each sector."""
    sectors, byte = [], JSET_BYTES
    for begin in range(0, len(used), SECTOR_BYTES):
        end = min(begin + SECTOR_BYTES, len(used))
        written = begin + _length_without_zeros(used[begin:end]) if begin else end
        keys, begins = list[bool](), set[int]()
        while byte < end:
            (head,) = WORD.unpack_from(used, byte)
            # Behind what is no key the next one is assumed where it would be behind a key of one pointer.
            behind = byte + (_size_of(head) if _is_head(head) else ONE_POINTER_BYTES)
            if behind <= written or (byte < written and not _is_head(head)):
                keys.append(_is_key(used[byte:behind], bounds))
            begins.add(byte)
            byte = behind
        words = range(max(begin, JSET_BYTES), end, WORD_BYTES)
        heads = {at for at in words if _is_head(WORD.unpack_from(used, at)[0])}
        sectors.append(_SectorKeys(keys, bool(heads - begins)))
    return sectors


def _is_mixed(sector: _SectorKeys) -> bool:
    """Whether a sector has keys of the entry and something else: what was there before has neither."""
    return any(sector.keys) and not all(sector.keys) and not sector.has_others


def _length_without_zeros(sector: memoryview) -> int:
    return -(-len(bytes(sector).rstrip(b"\0")) // WORD_BYTES) * WORD_BYTES


def _is_head(word: int) -> bool:
    return bool(HIGH_BIT.get(word)) and not word & HEAD_UNUSED


def _size_of(head: int) -> int:
    return (HEAD_WORDS + (head >> COUNT_SHIFT & COUNT_LIMIT)) * WORD_BYTES


def _is_key(raw: memoryview, bounds: Bounds) -> bool:
    """Whether a key may be one that was written."""
    if len(raw) < HEAD_WORDS * WORD_BYTES or not _is_head(WORD.unpack_from(raw)[0]):
        return False
    try:
        (key,) = parse_keys(raw, "key")
        check_extent(key, bounds, "key")
    except FormatError:
        return False
    return key.end < KEY_WORDS_BELOW
