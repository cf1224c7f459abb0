# SPDX-License-Identifier: GPL-2.0-only
"""What identifies a superblock (its sector, its magic, its checksum), put right over fields that are kept.

For readers of damaged devices only: `wipefs` erases the magic alone, and where a few bits are wrong most
fields are right. What is read that way is not known to be what was written.
"""

import struct

from bcached.errors import BadField
from bcached.format.checksum import Buffer, crc64_we
from bcached.format.magic import SUPERBLOCK_MAGIC
from bcached.format.sizes import JOURNAL_BUCKETS_MAX
from bcached.format.superblock_fields import CSUM, HEADER, NAME, SUPERBLOCK_SECTOR

OFFSET = struct.Struct("<Q")
MAGIC_OFFSET = 24
JOURNAL_COUNT = struct.Struct("<H")
JOURNAL_COUNT_OFFSET = HEADER.size - JOURNAL_COUNT.size


def checksum_of(raw: Buffer, where: str) -> int:
    """Returns the checksum that the fields should have. Raises BadField if its length is not known."""
    (count,) = JOURNAL_COUNT.unpack_from(raw, JOURNAL_COUNT_OFFSET)
    if count > JOURNAL_BUCKETS_MAX:
        most = f"at most {JOURNAL_BUCKETS_MAX}"
        raise BadField(NAME, f"{where}, njournal_buckets", most, count)
    return crc64_we(memoryview(raw)[CSUM.size : HEADER.size + 8 * count])


def resealed(raw: Buffer, where: str) -> bytes:
    """Returns the superblock with the right offset, magic and checksum; every other field as it is."""
    sealed = bytearray(raw)
    OFFSET.pack_into(sealed, CSUM.size, SUPERBLOCK_SECTOR)
    sealed[MAGIC_OFFSET : MAGIC_OFFSET + len(SUPERBLOCK_MAGIC)] = SUPERBLOCK_MAGIC
    CSUM.pack_into(sealed, 0, checksum_of(sealed, where))
    return bytes(sealed)
