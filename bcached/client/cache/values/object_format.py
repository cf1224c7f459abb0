# SPDX-License-Identifier: MIT
"""An object as it is stored: a header, the name, the value, and zeros up to a whole block.

    byte 0    u64  magic
    byte 8    u64  CRC-64/XZ of all bytes from 16 to the end of the value
    byte 16   u16  version
    byte 18   u16  codec           how the value was made from what the caller stored
    byte 20   u32  name bytes
    byte 24   u64  value bytes
    byte 32   u64  stored at       microseconds since 1970, UTC
    byte 40   u64  expires at      the same; 0 for never
    byte 48        name, then the value: at once, or from 64 KiB on at the next multiple of 4096

All little-endian. A *record* in the last sectors of a slot changes the expiry of the object in front of it:
it is an object of codec RECORD whose value is the CRC of the one that it is about, and is ignored with any
other.
"""

from collections.abc import Callable, Sequence
from struct import Struct

import msgspec
from fastcrc import crc64

from bcached.client.cache.values.names import RECORD_AT
from bcached.units import SECTOR_BYTES

MAGIC = 0x746A626F64636362  # the bytes "bccdobjt"
VERSION = 1
HEADER_BYTES = 48
CHECKED_AT = 16  # what the CRC covers begins there
PAGE_BYTES = 4096
ON_A_PAGE_BYTES = 1 << 16  # from this length on a value begins on a page
OBJECT_BYTES_MAX = RECORD_AT * SECTOR_BYTES
VALUE_BYTES_MAX = OBJECT_BYTES_MAX - PAGE_BYTES
TIME_MAX_US = (1 << 64) - 1
_start, _rest = Struct("<2Q").pack, Struct("<4Q").pack  # of a header: up to CHECKED_AT, and from there on
_header: Callable[[bytes | bytearray], tuple[int, ...]] = Struct("<6Q").unpack_from

RECORD = 255  # the codec of a record; those of values are in serializers


Parts = Sequence[bytes | memoryview]


class Seal(msgspec.Struct, frozen=True, gc=False):
    """All of an object but its value, and what the checksum of its bytes from CHECKED_AT on must be."""

    codec: int
    expires_at_us: int
    crc: int
    head: bytes  # from CHECKED_AT to the value
    length: int  # of the object


class StoredObject(msgspec.Struct, frozen=True, gc=False):
    """A verified object."""

    seal: Seal  # what it was verified with
    value: bytes


def value_at(name_length: int, value_length: int) -> int:
    """Returns the byte at which the value begins."""
    end = HEADER_BYTES + name_length
    return end if value_length < ON_A_PAGE_BYTES else -(-end // PAGE_BYTES) * PAGE_BYTES


def encoded(
    name: bytes,
    codec: int,
    value: bytes | memoryview,
    stored_at_us: int,
    expires_at_us: int,
    block_bytes: int,
) -> tuple[Parts, Seal]:
    """Returns the object's bytes, whole blocks, in parts; the value is one of them and is not copied."""
    length, name_length = len(value), len(name)
    begins = HEADER_BYTES + name_length if length < ON_A_PAGE_BYTES else value_at(name_length, length)
    kinds = VERSION | codec << 16 | name_length << 32
    head = _rest(kinds, length, stored_at_us, expires_at_us) + name
    if begins > HEADER_BYTES + name_length:
        head += bytes(begins - HEADER_BYTES - name_length)
    crc = crc64.xz(value, crc64.xz(head))
    seal = Seal(codec, expires_at_us, crc, head, begins + length)
    start = _start(MAGIC, crc) + head
    padding = -(begins + length) % block_bytes
    return ((start, value, bytes(padding)) if padding else (start, value)), seal


def bytes_needed(start: "bytes | bytearray") -> int:
    """Returns how many bytes an object has, from its first ones; 0 if it is none."""
    if len(start) < HEADER_BYTES:
        return 0
    magic, _, kinds, length, _, _ = _header(start)
    if magic != MAGIC or kinds & 0xFFFF != VERSION or length > VALUE_BYTES_MAX:
        return 0
    return value_at(kinds >> 32, length) + length


def decoded_long(start: bytes, value: bytes, checksum: int, name: bytes) -> StoredObject | None:
    """Returns the object of this value and all bytes before it, or None if they are not one of this name.

    checksum: of start from CHECKED_AT on, and the value.
    """
    _, crc, kinds, _, _, expires_at_us = _header(start)
    is_named = kinds >> 32 == len(name) and start.startswith(name, HEADER_BYTES)
    length = len(start) + len(value)
    if bytes_needed(start) != length or not is_named or checksum != crc:
        return None
    return StoredObject(Seal(kinds >> 16 & 0xFFFF, expires_at_us, crc, start[CHECKED_AT:], length), value)


def decoded(data: bytes, name: bytes) -> StoredObject | None:
    """Returns the object, or None if these bytes are not a whole object of this name."""
    if len(data) < HEADER_BYTES:
        return None
    magic, crc, kinds, length, _, expires_at_us = _header(data)
    begins = HEADER_BYTES + len(name) if length < ON_A_PAGE_BYTES else value_at(len(name), length)
    end = begins + length
    if (
        magic != MAGIC
        or kinds & 0xFFFF != VERSION
        or kinds >> 32 != len(name)
        or end > len(data)
        or not data.startswith(name, HEADER_BYTES)
        or crc64.xz(data[CHECKED_AT:end]) != crc
    ):
        return None
    seal = Seal(kinds >> 16 & 0xFFFF, expires_at_us, crc, data[CHECKED_AT:begins], end)
    return StoredObject(seal, data[begins:end])


def record_value(crc: int) -> bytes:
    """Returns the value of a record about the object with this CRC."""
    return crc.to_bytes(8, "little")
