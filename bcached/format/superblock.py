# SPDX-License-Identifier: GPL-2.0-only
"""The superblock: a device's identity, its layout, and whether its journal is valid.

bcached's sets of several devices have version 5 with a private incompatible feature: kernels since 5.10 would
run such a set from one member and corrupt it, and all of them refuse an unknown bit.
"""

import struct
from dataclasses import dataclass
from uuid import UUID

from bcached.format.checksum import Buffer, crc64_we
from bcached.format.label import pack_label, parse_label
from bcached.format.magic import SUPERBLOCK_MAGIC, set_magic_of
from bcached.format.sizes import JOURNAL_BUCKETS_MAX
from bcached.format.superblock_fields import (
    CACHE_VERSIONS,
    CSUM,
    DISCARD,
    FEATURE_INCOMPAT_BCACHED_SET,
    FEATURE_INCOMPAT_LOG_LARGE_BUCKET,
    HEADER,
    KNOWN_FLAGS,
    REPLACEMENT,
    SUPERBLOCK_BYTES,
    SUPERBLOCK_SECTOR,
    SYNC,
    VERSION_FEATURES,
    VERSION_FRESH,
    VERSION_IN_USE,
    NotWhole,
    unpack,
)
from bcached.set_state import Replacement
from bcached.units import SECTOR_BYTES

__all__ = [
    "COPY_SECTOR",
    "FEATURE_INCOMPAT_BCACHED_SET",
    "FEATURE_INCOMPAT_LOG_LARGE_BUCKET",
    "SUPERBLOCK_BYTES",
    "SUPERBLOCK_SECTOR",
    "SUPERBLOCK_SECTORS",
    "VERSION_FEATURES",
    "VERSION_FRESH",
    "VERSION_IN_USE",
    "NotWhole",
    "Replacement",
    "Superblock",
    "first_bucket_for",
    "journal_bucket_count_for",
]

COPY_SECTOR = 16  # bcached's own: the kernel does not use this block in any layout of make-bcache
SUPERBLOCK_SECTORS = SUPERBLOCK_BYTES // SECTOR_BYTES


def journal_bucket_count_for(bucket_count: int) -> int:
    """Returns how many journal buckets the first run of a device reserves."""
    return min(max(bucket_count >> 7, 2), JOURNAL_BUCKETS_MAX)


def first_bucket_for(bucket_sectors: int) -> int:
    """Returns the first bucket behind the superblock and its copy (sectors 8 to 23), as make-bcache does."""
    return 23 // bucket_sectors + 1


SEQ_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Superblock:
    """The checked fields, by bcached's names; the kernel's are in superblock_fields.py.

    All of them, also those that bcached has no use for: it must write back what it found.
    """

    uuid: UUID
    set_uuid: UUID
    version: int
    bucket_count: int
    bucket_sectors: int
    block_sectors: int
    first_bucket: int
    members: int = 1
    member: int = 0
    journal_buckets: tuple[int, ...] = ()
    synchronous: bool = False  # there is a valid journal
    discard: bool = False
    replacement: Replacement = Replacement.LRU
    seq: int = 0
    label: str = ""
    last_mount: int = 0
    feature_compat: int = 0
    feature_incompat: int = 0
    feature_ro_compat: int = 0
    other_flags: int = 0  # unknown flags, kept as they are

    @property
    def bucket_bytes(self) -> int:
        """The size of a bucket in bytes."""
        return self.bucket_sectors * SECTOR_BYTES

    @property
    def block_bytes(self) -> int:
        """The size of a block in bytes."""
        return self.block_sectors * SECTOR_BYTES

    @property
    def set_magic(self) -> int:
        """The number that the magic numbers of journal, prios and btree are mixed with."""
        return set_magic_of(self.set_uuid)

    @property
    def next_seq(self) -> int:
        """The seq of the next write: it only counts them, and may wrap, as the kernel's does."""
        return (self.seq + 1) & SEQ_MASK

    @property
    def has_space_for_copy(self) -> bool:
        """Whether the copy is before the buckets in use: not in every layout that the kernel accepts."""
        return self.first_bucket * self.bucket_sectors >= COPY_SECTOR + SUPERBLOCK_SECTORS

    @classmethod
    def parse(
        cls,
        raw: Buffer,
        *,
        device_bytes: int,
        logical_block_bytes: int,
        where: str = f"sector {SUPERBLOCK_SECTOR}",
    ) -> "Superblock":
        """Returns the superblock in raw, checked against its device as the kernel does, in its order."""
        fields = unpack(raw, where)
        fields.check(bytes(raw), device_bytes, logical_block_bytes, where)
        return cls(
            uuid=UUID(bytes=fields.uuid),
            set_uuid=UUID(bytes=fields.set_uuid),
            version=fields.version,
            bucket_count=fields.bucket_count,
            bucket_sectors=fields.bucket_sectors,
            block_sectors=fields.block_sectors,
            first_bucket=fields.first_bucket,
            members=fields.members,
            member=fields.member,
            journal_buckets=fields.journal_buckets(bytes(raw)),
            synchronous=bool(SYNC.get(fields.flags)),
            discard=bool(DISCARD.get(fields.flags)),
            replacement=Replacement(REPLACEMENT.get(fields.flags)),
            seq=fields.seq,
            label=parse_label(fields.label),
            last_mount=fields.last_mount,
            feature_compat=fields.feature_compat,
            feature_incompat=fields.feature_incompat,
            feature_ro_compat=fields.feature_ro_compat,
            other_flags=fields.flags & ~KNOWN_FLAGS,
        )

    def pack(self) -> bytes:
        """Returns the block as it is on disk, 4096 bytes."""
        assert self.version in CACHE_VERSIONS
        assert len(self.journal_buckets) <= JOURNAL_BUCKETS_MAX
        assert self.other_flags & KNOWN_FLAGS == 0
        header = HEADER.pack(
            0,
            SUPERBLOCK_SECTOR,
            self.version,
            SUPERBLOCK_MAGIC,
            self.uuid.bytes,
            self.set_uuid.bytes,
            pack_label(self.label),
            self._flags(),
            self.seq,
            self.feature_compat,
            self.feature_incompat,
            self.feature_ro_compat,
            self.bucket_count,
            self.block_sectors,
            self._bucket_size_field(),
            self.members,
            self.member,
            self.last_mount,
            self.first_bucket,
            len(self.journal_buckets),
        )
        used = header + struct.pack(f"<{len(self.journal_buckets)}Q", *self.journal_buckets)
        return (CSUM.pack(crc64_we(used[CSUM.size :])) + used[CSUM.size :]).ljust(SUPERBLOCK_BYTES, b"\0")

    def _flags(self) -> int:
        flags = SYNC.put(self.other_flags, int(self.synchronous))
        return REPLACEMENT.put(DISCARD.put(flags, int(self.discard)), self.replacement)

    def _bucket_size_field(self) -> int:
        large = self.version >= VERSION_FEATURES and self.feature_incompat & FEATURE_INCOMPAT_LOG_LARGE_BUCKET
        return self.bucket_sectors.bit_length() - 1 if large else self.bucket_sectors
