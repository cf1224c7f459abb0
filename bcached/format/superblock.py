"""The superblock: who a device is, how it is laid out, and whether its journal is to be trusted.

At byte 4096, in a block of 4096 bytes, all of it little-endian:

      0 csum (over what follows, up to the last d[])       8 offset = 8      16 version     24 magic (16)
     40 uuid (16)        56 set_uuid (16)                 72 label (32)     104 flags      112 seq
    120 feature_compat  128 feature_incompat             136 feature_ro_compat             144 zero (40)
    184 nbuckets        192 block_size u16 (sectors)     194 bucket_size u16               196 nr_in_set u16
    198 nr_this_dev u16 200 last_mount u32               204 first_bucket u16              206 njournal u16
    208 d[256]: the journal's buckets; zero from there on

Versions: 0 is what make-bcache writes, 3 what the kernel makes of it, 5 has feature words. 1, 4 and 6 are
backing devices. A set of several devices of ours is version 5 with a private incompatible feature: kernels
since 5.10 would run such a set from one member and ruin it, and all of them refuse a bit they don't know.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID

from bcached.errors import BadChecksum, BadField, BadMagic
from bcached.format.bits import BitField
from bcached.format.checksum import Buffer, crc64_we
from bcached.format.label import pack_label, parse_label
from bcached.format.magic import SUPERBLOCK_MAGIC, set_magic_of
from bcached.format.sizes import (
    BLOCK_SECTORS_MAX,
    BUCKET_COUNT_MIN,
    BUCKET_SECTORS_MAX,
    BUCKET_SECTORS_MIN,
    JOURNAL_BUCKETS_MAX,
    MEMBERS_MAX,
    SECTOR_BYTES,
)

SUPERBLOCK_SECTOR = 8
COPY_SECTOR = 16  # ours: the kernel leaves this block alone in every layout that make-bcache makes
SUPERBLOCK_BYTES = 4096
SUPERBLOCK_SECTORS = SUPERBLOCK_BYTES // SECTOR_BYTES

CSUM = struct.Struct("<Q")
HEADER = struct.Struct("<QQQ16s16s16s32sQQQQQ40xQHHHHIHH")
assert HEADER.size == 208
assert HEADER.size + 8 * JOURNAL_BUCKETS_MAX <= SUPERBLOCK_BYTES

VERSION_FRESH = 0  # CACHE_SB_VERSION_CDEV
VERSION_IN_USE = 3  # BCACHE_SB_VERSION_CDEV_WITH_UUID
VERSION_FEATURES = 5  # BCACHE_SB_VERSION_CDEV_WITH_FEATURES
CACHE_VERSIONS = (VERSION_FRESH, VERSION_IN_USE, VERSION_FEATURES)
BACKING_VERSIONS = (1, 4, 6)

SYNC = BitField(0, 1)  # CACHE_SYNC
DISCARD = BitField(1, 1)  # CACHE_DISCARD
REPLACEMENT = BitField(2, 3)  # CACHE_REPLACEMENT
KNOWN_FLAGS = SYNC.mask | DISCARD.mask | REPLACEMENT.mask

FEATURE_INCOMPAT_LOG_LARGE_BUCKET = 1 << 1  # BCH_FEATURE_INCOMPAT_LOG_LARGE_BUCKET_SIZE
FEATURE_INCOMPAT_BCACHED_SET = 1 << 62  # ours: one of several members whose journals mirror each other
FEATURE_INCOMPAT_KNOWN = FEATURE_INCOMPAT_LOG_LARGE_BUCKET | FEATURE_INCOMPAT_BCACHED_SET

BUCKET_COUNT_MAX = (1 << 63) - 1
NO_UUID = UUID(int=0)
NAME = "superblock"


class Replacement(IntEnum):
    """Which buckets of cached data are given up first. Numbered as in the superblock."""

    LRU = 0
    FIFO = 1
    RANDOM = 2


def journal_bucket_count_for(bucket_count: int) -> int:
    """How many journal buckets the first run of a device sets aside."""
    return min(max(bucket_count >> 7, 2), JOURNAL_BUCKETS_MAX)


def first_bucket_for(bucket_sectors: int) -> int:
    """The first bucket clear of the superblock and its copy (sectors 8 to 23), as make-bcache counts."""
    return 23 // bucket_sectors + 1


@dataclass(frozen=True, slots=True)
class Superblock:
    """What the superblock says, checked. Named as we name things; the kernel's names are in the drawing."""

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
    synchronous: bool = False  # a journal exists and is to be trusted
    discard: bool = False
    replacement: Replacement = Replacement.LRU
    seq: int = 0
    label: str = ""
    last_mount: int = 0
    feature_compat: int = 0
    feature_incompat: int = 0
    feature_ro_compat: int = 0
    other_flags: int = 0  # flags that mean nothing to us, kept as they are

    @property
    def set_magic(self) -> int:
        """The number the magic numbers of journal, prios and btree are mixed with."""
        return set_magic_of(self.set_uuid)

    @property
    def has_room_for_copy(self) -> bool:
        """Whether the copy's place lies before the buckets in use: not in every layout the kernel takes."""
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
        """The superblock in raw, held against its device, with the kernel's checks in their order."""
        return _Reader(raw, where).superblock(device_bytes, logical_block_bytes)

    def pack(self) -> bytes:
        """The block as it stands on disk, 4096 bytes."""
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
        return (CSUM.pack(crc64_we(memoryview(used)[8:])) + used[8:]).ljust(SUPERBLOCK_BYTES, b"\0")

    def _flags(self) -> int:
        flags = SYNC.put(self.other_flags, int(self.synchronous))
        return REPLACEMENT.put(DISCARD.put(flags, int(self.discard)), self.replacement)

    def _bucket_size_field(self) -> int:
        large = self.version >= VERSION_FEATURES and self.feature_incompat & FEATURE_INCOMPAT_LOG_LARGE_BUCKET
        return self.bucket_sectors.bit_length() - 1 if large else self.bucket_sectors


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


class _Reader:
    """One reading of a superblock: its raw fields, and the checks in groups."""

    def __init__(self, raw: Buffer, where: str) -> None:
        self.raw, self.where = bytes(raw), where
        self.require(len(self.raw) == SUPERBLOCK_BYTES, "size", f"{SUPERBLOCK_BYTES} bytes", len(self.raw))
        (
            self.csum,
            self.offset,
            self.version,
            self.magic,
            uuid,
            set_uuid,
            self.label,
            self.flags,
            self.seq,
            self.feature_compat,
            self.feature_incompat,
            self.feature_ro_compat,
            self.bucket_count,
            self.block_sectors,
            self.bucket_sectors,
            self.members,
            self.member,
            self.last_mount,
            self.first_bucket,
            self.journal_count,
        ) = HEADER.unpack_from(self.raw)
        self.uuid, self.set_uuid = UUID(bytes=uuid), UUID(bytes=set_uuid)

    def require(self, holds: bool, field: str, expected: object, found: object) -> None:
        """Refuse the block unless the condition holds."""
        if not holds:
            raise BadField(NAME, f"{self.where}, {field}", expected, found)

    def superblock(self, device_bytes: int, logical_block_bytes: int) -> Superblock:
        """The checked value."""
        self.check_identity()
        self.require(
            self.block_sectors * SECTOR_BYTES >= logical_block_bytes,
            "block_size",
            f"at least the device's logical block of {logical_block_bytes} bytes",
            f"{self.block_sectors} sectors",
        )
        self.check_version()
        self.check_geometry(device_bytes)
        self.check_membership()
        journal_buckets = self.checked_journal_buckets()
        self.check_ours()
        return Superblock(
            uuid=self.uuid,
            set_uuid=self.set_uuid,
            version=self.version,
            bucket_count=self.bucket_count,
            bucket_sectors=self.bucket_sectors,
            block_sectors=self.block_sectors,
            first_bucket=self.first_bucket,
            members=self.members,
            member=self.member,
            journal_buckets=journal_buckets,
            synchronous=bool(SYNC.get(self.flags)),
            discard=bool(DISCARD.get(self.flags)),
            replacement=Replacement(REPLACEMENT.get(self.flags)),
            seq=self.seq,
            label=parse_label(self.label),
            last_mount=self.last_mount,
            feature_compat=self.feature_compat,
            feature_incompat=self.feature_incompat,
            feature_ro_compat=self.feature_ro_compat,
            other_flags=self.flags & ~KNOWN_FLAGS,
        )

    def check_identity(self) -> None:
        """It is a superblock at all, and whole."""
        self.require(self.offset == SUPERBLOCK_SECTOR, "offset", SUPERBLOCK_SECTOR, self.offset)
        if self.magic != SUPERBLOCK_MAGIC:
            raise BadMagic(NAME, self.where, SUPERBLOCK_MAGIC.hex(), self.magic.hex())
        # Kernel: checks this after the checksum. It says how far the checksum reaches, so we do before.
        self.require(
            self.journal_count <= JOURNAL_BUCKETS_MAX,
            "njournal_buckets",
            f"at most {JOURNAL_BUCKETS_MAX}",
            self.journal_count,
        )
        actual = crc64_we(memoryview(self.raw)[8 : HEADER.size + 8 * self.journal_count])
        if actual != self.csum:
            raise BadChecksum(NAME, self.where, f"{actual:#018x}", f"{self.csum:#018x}")
        self.require(self.uuid != NO_UUID, "uuid", "not zero", self.uuid)

    def check_version(self) -> None:
        """We know what all the fields mean."""
        found = f"{self.version} (a backing device)" if self.version in BACKING_VERSIONS else self.version
        self.require(self.version in CACHE_VERSIONS, "version", "a cache device's: 0, 3 or 5", found)
        if self.version != VERSION_FEATURES:
            return  # the feature words of older versions mean nothing
        unknown = self.feature_incompat & ~FEATURE_INCOMPAT_KNOWN
        self.require(self.feature_compat == 0, "feature_compat", "none", hex(self.feature_compat))
        self.require(unknown == 0, "feature_incompat", "no unknown bit", hex(self.feature_incompat))
        self.require(self.feature_ro_compat == 0, "feature_ro_compat", "none", hex(self.feature_ro_compat))
        if self.feature_incompat & FEATURE_INCOMPAT_LOG_LARGE_BUCKET:
            # Kernel: takes larger ones. A key could not tell the sectors of such a bucket.
            largest = BUCKET_SECTORS_MAX.bit_length() - 1
            self.require(
                self.bucket_sectors <= largest,
                "bucket_size",
                f"a power of at most {largest}",
                self.bucket_sectors,
            )
            self.bucket_sectors = 1 << self.bucket_sectors

    def check_geometry(self, device_bytes: int) -> None:
        """Buckets and blocks can be of these sizes, and the device holds them all."""
        count, bucket, block = self.bucket_count, self.bucket_sectors, self.block_sectors
        self.require(count <= BUCKET_COUNT_MAX, "nbuckets", f"at most {BUCKET_COUNT_MAX}", count)
        # Kernel: 128 here, and 513 when it comes to sizing its lists.
        self.require(count >= BUCKET_COUNT_MIN, "nbuckets", f"at least {BUCKET_COUNT_MIN}", count)
        self.require(_is_power_of_two(block), "block_size", "a power of two", block)
        self.require(block <= BLOCK_SECTORS_MAX, "block_size", f"at most {BLOCK_SECTORS_MAX} sectors", block)
        self.require(_is_power_of_two(bucket), "bucket_size", "a power of two", bucket)
        self.require(
            bucket >= BUCKET_SECTORS_MIN, "bucket_size", f"at least {BUCKET_SECTORS_MIN} sectors", bucket
        )
        needed = count * bucket * SECTOR_BYTES
        self.require(
            device_bytes >= needed,
            "nbuckets",
            f"what a device of {device_bytes} bytes holds",
            f"{needed} bytes",
        )

    def check_membership(self) -> None:
        """It is one of a set."""
        self.require(self.set_uuid != NO_UUID, "set_uuid", "not zero", self.set_uuid)
        self.require(1 <= self.members <= MEMBERS_MAX, "nr_in_set", f"1 to {MEMBERS_MAX}", self.members)
        self.require(self.member < self.members, "nr_this_dev", f"below {self.members}", self.member)

    def checked_journal_buckets(self) -> tuple[int, ...]:
        """The journal's buckets: in sequence, inside the device, behind the superblock."""
        buckets = struct.unpack_from(f"<{self.journal_count}Q", self.raw, HEADER.size)
        expected = tuple(range(self.first_bucket, self.first_bucket + self.journal_count))
        self.require(
            buckets == expected, "d", f"buckets in sequence from {self.first_bucket}", list(buckets)[:8]
        )
        end = self.first_bucket + self.journal_count
        self.require(
            end <= self.bucket_count, "njournal_buckets", f"to end by bucket {self.bucket_count}", end
        )
        start = self.first_bucket * self.bucket_sectors
        self.require(
            start >= 2 * SUPERBLOCK_SECTOR, "first_bucket", "behind the superblock", f"sector {start}"
        )
        return buckets

    def check_ours(self) -> None:
        """What the kernel lets pass and then fails on."""
        policy = REPLACEMENT.get(self.flags)
        self.require(policy <= max(Replacement), "flags", "replacement 0, 1 or 2", f"replacement {policy}")
        self.require(
            self.first_bucket < self.bucket_count,
            "first_bucket",
            f"below {self.bucket_count}",
            self.first_bucket,
        )
        trusted = not SYNC.get(self.flags) or self.journal_count > 0
        self.require(trusted, "njournal_buckets", "at least 1 where SYNC is set", self.journal_count)
