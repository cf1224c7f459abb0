# SPDX-License-Identifier: GPL-2.0-only
"""Correcting one wrong bit of a structure by its checksum.

CRC-64 is linear: a flipped bit changes the checksum by a value that depends only on its distance from
the end.
What is corrected has at most 2^22 bits, so for other damage the chance that one of these values fits
is 2^-42.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bcached.format.bkey import WORD_BYTES, pointer_word
from bcached.format.bset import BSET_HEADER
from bcached.format.checksum import ALL_ONES, Buffer, crc64_seeded, crc64_we
from bcached.format.jset import JSET_BYTES
from bcached.format.magic import BSET, JSET, PSET, SUPERBLOCK_MAGIC
from bcached.format.superblock_fields import HEADER as SUPERBLOCK_HEADER
from bcached.keys import Key

POLYNOMIAL = 0x42F0E1EBA9EA3693  # ECMA-182
CSUM = struct.Struct("<Q")
MAGIC_OFFSET, SUPERBLOCK_MAGIC_OFFSET = 8, 24
SEQ_OFFSET = 16
BYTES_MAX = 512 << 10  # of what is corrected: the search takes a second for so much


@dataclass(frozen=True, slots=True)
class Shape:
    """Where a structure with a checksum of its own has what, in bytes."""

    header_bytes: int
    count_offset: int  # of the number of words behind the header
    count_bits: int  # 0: there is none
    checksum: Callable[[Buffer], int] = crc64_we

    def size_of(self, raw: Buffer) -> int:
        """Returns the bytes that the structure uses, by its count."""
        length = -(-self.count_bits // 8)
        count = int.from_bytes(bytes(raw[self.count_offset : self.count_offset + length]), "little")
        return self.header_bytes + count * WORD_BYTES


ENTRY = Shape(JSET_BYTES, 28, 32)
SUPERBLOCK = Shape(SUPERBLOCK_HEADER.size, 206, 16)


def corrected_entry(raw: Buffer, set_magic: int) -> bytes | None:
    """Returns the journal entry at the start of raw without its wrong bit; None if more is wrong."""
    return _corrected(_with(raw, MAGIC_OFFSET, CSUM.pack(JSET ^ set_magic)), ENTRY)


def corrected_superblock(raw: Buffer) -> bytes | None:
    """Returns a superblock without its wrong bit, or with its magic; None if more is wrong."""
    return _corrected(_with(raw, SUPERBLOCK_MAGIC_OFFSET, SUPERBLOCK_MAGIC), SUPERBLOCK)


def corrected_prio_set(raw: Buffer, set_magic: int) -> bytes | None:
    """Returns a prio set without its wrong bit; None if more is wrong."""
    return _corrected(_with(raw, MAGIC_OFFSET, CSUM.pack(PSET ^ set_magic)), Shape(len(raw), 0, 0))


def corrected_bset(raw: Buffer, node_key: Key, set_magic: int, seq: int) -> bytes | None:
    """Returns the bset at the start of raw without its wrong bit; seq is that of its node, 0 if not known."""

    def checksum(used: Buffer) -> int:
        return crc64_seeded(used, pointer_word(node_key.pointers[0]))

    shape = Shape(BSET_HEADER.size, 28, 32, checksum)
    sealed = _with(raw, MAGIC_OFFSET, CSUM.pack(BSET ^ set_magic))
    found = _corrected(sealed, shape)
    if found is None and seq:
        found = _corrected(_with(sealed, SEQ_OFFSET, CSUM.pack(seq)), shape)
    return found


def _with(raw: Buffer, offset: int, value: bytes) -> bytearray:
    changed = bytearray(raw)
    changed[offset : offset + len(value)] = value
    return changed


def _corrected(raw: bytearray, shape: Shape) -> bytes | None:
    """Returns all bytes of the structure, corrected.

    1. Right, but for what the caller has put right. 2. A bit of the checksum. 3. A bit of the contents.
    4. A bit of the count, which changes what the checksum is of.
    """
    (csum,) = CSUM.unpack_from(raw)
    size_bytes = shape.size_of(raw)
    if size_bytes <= len(raw):
        used = memoryview(raw)[CSUM.size : size_bytes]
        difference = shape.checksum(used) ^ csum
        if difference.bit_count() <= 1:
            return CSUM.pack(csum ^ difference) + bytes(used)
        bit = flipped_bit(len(used), difference)
        if bit is not None:
            raw[CSUM.size + bit // 8] ^= 1 << bit % 8
            return bytes(raw[:size_bytes]) if shape.size_of(raw) == size_bytes else None
    for other in _with_other_counts(raw, shape):
        if shape.checksum(memoryview(other)[CSUM.size :]) == csum:
            return bytes(other)
    return None


def _with_other_counts(raw: bytearray, shape: Shape) -> Iterator[bytearray]:
    for bit in range(shape.count_bits):
        other = bytearray(raw)
        other[shape.count_offset + bit // 8] ^= 1 << bit % 8
        size_bytes = shape.size_of(other)
        if size_bytes <= len(raw):
            yield other[:size_bytes]


def flipped_bit(size_bytes: int, difference: int) -> int | None:
    """Returns the bit that, flipped, changes the checksum of so many bytes by that; None if none does."""
    if size_bytes > BYTES_MAX:
        return None
    effect = POLYNOMIAL  # of the last byte's lowest bit
    for distance in range(8 * size_bytes):
        if effect == difference:
            byte, bit = size_bytes - 1 - distance // 8, distance % 8
            return 8 * byte + bit
        effect = (effect << 1) & ALL_ONES ^ (POLYNOMIAL if effect >> 63 else 0)
    return None
