# SPDX-License-Identifier: GPL-2.0-only
"""Journal entries. Each names the locations of all metadata, so the newest alone finds everything.

      0 csum (over what follows, up to the last key)    8 magic ^ set_magic    16 seq
     24 version u32    28 words of keys u32             32 last_seq: the oldest entry still needed
     40 key of the uuid table (64)    104 key of the btree's root (64)    168 level of the root u16
    176 prio_bucket[8]: the head of each member's prio chain              240 the keys, in order

An entry takes whole blocks of one bucket; entries follow each other from the bucket's start.
"""

import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from bcached.errors import BadChecksum, BadField, BadMagic, FormatError
from bcached.format.bkey import (
    PADDED_KEY_BYTES,
    WORD_BYTES,
    pack_keys,
    pack_padded_key,
    parse_keys,
    parse_padded_key,
)
from bcached.format.checksum import Buffer, crc64_we
from bcached.format.magic import JSET
from bcached.format.sizes import MEMBERS_MAX
from bcached.keys import Key

HEADER = struct.Struct("<QQQIIQ")
MAGIC_OFFSET, SEQ_OFFSET, LAST_SEQ_OFFSET = 8, 16, 32
UUID_KEY_OFFSET = HEADER.size
ROOT_KEY_OFFSET = UUID_KEY_OFFSET + PADDED_KEY_BYTES
TAIL_OFFSET = ROOT_KEY_OFFSET + PADDED_KEY_BYTES
TAIL = struct.Struct(f"<H6x{MEMBERS_MAX}Q")
JSET_BYTES = TAIL_OFFSET + TAIL.size
assert (UUID_KEY_OFFSET, ROOT_KEY_OFFSET, TAIL_OFFSET, JSET_BYTES) == (40, 104, 168, 240)

JSET_VERSION = 1  # BCACHE_JSET_VERSION
VERSION_OLD_UUIDS = 0  # the uuid table has entries of 64 bytes
JSET_BYTES_MAX = 32 << 10  # JSET_BITS: eight pages
LEVEL_MAX = 16  # a tree of more levels could not be filled by any device
NAME = "journal entry"


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One entry of the journal."""

    seq: int
    last_seq: int
    uuid_bucket: Key
    root: Key
    level: int
    prio_heads: tuple[int, ...]  # bucket numbers, by member
    keys: tuple[Key, ...] = field(default=())
    version: int = JSET_VERSION

    @property
    def is_a_beginning(self) -> bool:
        """Whether a journal may begin with it: it has no keys, and needs no other entry."""
        return self.seq == self.last_seq and not self.keys

    @property
    def is_a_filling(self) -> bool:
        """Whether a repair may have filled a gap with it (repair/gap_filling.py)."""
        return self.last_seq == max(self.seq - 1, 1) and not self.keys

    @classmethod
    def parse(cls, raw: Buffer, set_magic: int, where: str) -> "JournalEntry":
        """Returns the entry at the start of raw."""
        size_bytes = _used_bytes(raw, set_magic, where)
        view = memoryview(raw)[:size_bytes]
        (csum, _, seq, version, _, last_seq) = HEADER.unpack_from(view)
        actual = crc64_we(view[8:])
        if actual != csum:
            raise BadChecksum(NAME, where, f"{actual:#018x}", f"{csum:#018x}")
        if not 1 <= last_seq <= seq:
            raise BadField(NAME, f"{where}, last_seq", f"1 to seq {seq}", last_seq)
        if version > JSET_VERSION:
            raise BadField(NAME, f"{where}, version", f"at most {JSET_VERSION}", version)
        header = cls.parse_header(view, where)
        return replace(header, keys=parse_keys(view[JSET_BYTES:], f"{where}, keys"))

    @classmethod
    def parse_header(cls, raw: Buffer, where: str) -> "JournalEntry":
        """Returns the entry at the start of raw without its keys, whatever its checksum and its seq are."""
        _, _, seq, version, _, last_seq = HEADER.unpack_from(raw)
        level, *prio_heads = TAIL.unpack_from(raw, TAIL_OFFSET)
        if level > LEVEL_MAX:
            raise BadField(NAME, f"{where}, btree_level", f"at most {LEVEL_MAX}", level)
        return cls(
            seq=seq,
            last_seq=last_seq,
            uuid_bucket=parse_padded_key(raw, UUID_KEY_OFFSET, f"{where}, uuid_bucket"),
            root=parse_padded_key(raw, ROOT_KEY_OFFSET, f"{where}, btree_root"),
            level=level,
            prio_heads=tuple(prio_heads),
            version=version,
        )

    def pack(self, set_magic: int, block_bytes: int = 1, packed_keys: bytes = b"") -> bytes:
        """Returns the entry as it is on disk, padded with zeros to whole blocks.

        Keys that are packed already may follow its own.
        """
        assert 1 <= self.last_seq <= self.seq
        assert len(self.prio_heads) == MEMBERS_MAX
        assert 0 <= self.level <= LEVEL_MAX
        keys = pack_keys(self.keys) + packed_keys
        assert JSET_BYTES + len(keys) <= JSET_BYTES_MAX
        header = HEADER.pack(
            0, JSET ^ set_magic, self.seq, self.version, len(keys) // WORD_BYTES, self.last_seq
        )
        locations = pack_padded_key(self.uuid_bucket) + pack_padded_key(self.root)
        used = header[8:] + locations + TAIL.pack(self.level, *self.prio_heads) + keys
        packed = struct.pack("<Q", crc64_we(used)) + used
        return packed.ljust(-(-len(packed) // block_bytes) * block_bytes, b"\0")


@dataclass(frozen=True, slots=True)
class PlacedEntry:
    """An entry and where in its bucket it was found."""

    offset_bytes: int
    blocks: int
    entry: JournalEntry


def scan_journal_bucket(
    raw: Buffer, set_magic: int, block_bytes: int, where: str, most: int = sys.maxsize
) -> tuple[list[PlacedEntry], FormatError | None]:
    """Returns the bucket's first entries, at most so many, and why no more follow; None if they fill it."""
    view = memoryview(raw)
    placed: list[PlacedEntry] = []
    offset = 0
    while offset < len(view) and len(placed) < most:
        here = f"{where}, byte {offset}"
        try:
            size_bytes = _used_bytes(view[offset:], set_magic, here)
            entry = JournalEntry.parse(view[offset : offset + size_bytes], set_magic, here)
        except FormatError as error:
            return placed, error.with_traceback(None)  # whose frames would keep the bucket's bytes
        blocks = -(-size_bytes // block_bytes)
        placed.append(PlacedEntry(offset, blocks, entry))
        offset += blocks * block_bytes
    return placed, None


class EntryTrace(NamedTuple):
    """A block with the magic of an entry, and its fields; it may be damaged."""

    byte: int  # of the journal bucket
    seq: int
    last_seq: int


def trace_entries(raw: Buffer, set_magic: int, block_bytes: int) -> list[EntryTrace]:
    """Returns the traces of entries in a journal bucket, sound or damaged."""
    words = np.frombuffer(raw, dtype="<u8").reshape(-1, block_bytes // WORD_BYTES)
    blocks = np.flatnonzero(words[:, MAGIC_OFFSET // WORD_BYTES] == JSET ^ set_magic)
    seqs, last_seqs = (words[blocks, offset // WORD_BYTES] for offset in (SEQ_OFFSET, LAST_SEQ_OFFSET))
    return list(map(EntryTrace, (blocks * block_bytes).tolist(), seqs.tolist(), last_seqs.tolist()))


def sound_entries(
    raw: Buffer, offsets: Iterable[int], set_magic: int, block_bytes: int, where: str
) -> list[PlacedEntry]:
    """Returns the entries at these offsets of a journal bucket whose checksums are right."""
    placed = []
    for offset in offsets:
        found, _ = scan_journal_bucket(memoryview(raw)[offset:], set_magic, block_bytes, where, most=1)
        placed += [replace(one, offset_bytes=offset) for one in found]
    return placed


def claimed_seq(raw: Buffer, offset: int) -> int:
    """Returns the seq that an entry at offset would have, whatever is there."""
    seq: int = HEADER.unpack_from(raw, offset)[2]
    return seq


def claimed_bytes(raw: Buffer) -> int:
    """Returns the length that an entry at the start of raw would have by its own header."""
    words: int = HEADER.unpack_from(raw)[4]
    return JSET_BYTES + words * WORD_BYTES


def is_of_another_set(raw: Buffer, offset: int, where: str) -> bool:
    """Whether a sound entry is at offset, but of a set with another magic."""
    (magic,) = struct.unpack_from("<Q", raw, offset + MAGIC_OFFSET)
    return bool(sound_entries(raw, [offset], magic ^ JSET, WORD_BYTES, where))


class TooLong(BadField):
    """The entry would end beyond its bucket, or is longer than any entry can be."""


def _used_bytes(raw: Buffer, set_magic: int, where: str) -> int:
    """Returns the bytes that the entry at the start of raw uses by its own header."""
    if len(raw) < JSET_BYTES:
        raise TooLong(NAME, f"{where}, size", f"at least {JSET_BYTES} bytes", len(raw))
    _, magic, _, _, words, _ = HEADER.unpack_from(raw)
    if magic != JSET ^ set_magic:
        raise BadMagic(NAME, where, f"{JSET ^ set_magic:#018x}", f"{magic:#018x}")
    size_bytes = JSET_BYTES + int(words) * WORD_BYTES
    limit = min(len(raw), JSET_BYTES_MAX)
    if size_bytes > limit:
        raise TooLong(NAME, f"{where}, keys", f"an entry of at most {limit} bytes", f"{size_bytes} bytes")
    return size_bytes
