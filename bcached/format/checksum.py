# SPDX-License-Identifier: GPL-2.0-only
"""CRC-64 as bcache uses it: polynomial of ECMA-182, most significant bit first, complemented at the end."""

from fastcrc import crc64

Buffer = bytes | bytearray | memoryview

ALL_ONES = (1 << 64) - 1


def crc64_we(data: Buffer) -> int:
    """CRC-64/WE: of superblocks, journal entries, prio sets and bsets of version 0."""
    return crc64.we(data)


def crc64_seeded(data: Buffer, seed: int) -> int:
    """CRC-64/WE with seed as the initial register instead of all ones: of bsets of version 1."""
    # The library takes the checksum of the preceding data, that is, the complement of the register.
    return crc64.we(data, seed ^ ALL_ONES)
