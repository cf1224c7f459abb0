# SPDX-License-Identifier: GPL-2.0-only
"""The superblock as raw fields, and every check they must pass. superblock.py has the checked value.

At byte 4096, in a block of 4096 bytes, all of it little-endian:

      0 csum (over what follows, up to the last d[])       8 offset = 8      16 version     24 magic (16)
     40 uuid (16)        56 set_uuid (16)                 72 label (32)     104 flags      112 seq
    120 feature_compat  128 feature_incompat             136 feature_ro_compat             144 zero (40)
    184 nbuckets        192 block_size u16 (sectors)     194 bucket_size u16               196 nr_in_set u16
    198 nr_this_dev u16 200 last_mount u32               204 first_bucket u16              206 njournal u16
    208 d[256]: the journal's buckets; zero from there on

Versions: 0 is what make-bcache writes, 3 what the kernel makes of it, 5 has feature words. 1, 4 and 6 are
backing devices.
"""

import struct
from dataclasses import dataclass
from uuid import UUID

from bcached.errors import BadChecksum, BadField, BadMagic
from bcached.format.bits import BitField
from bcached.format.checksum import Buffer, crc64_we
from bcached.format.magic import SUPERBLOCK_MAGIC
from bcached.format.sizes import (
    BLOCK_SECTORS_READ_MAX,
    BUCKET_COUNT_MIN,
    BUCKET_SECTORS_MAX,
    BUCKET_SECTORS_MIN,
    JOURNAL_BUCKETS_MAX,
    MEMBERS_MAX,
)
from bcached.set_state import Replacement
from bcached.units import SECTOR_BYTES

SUPERBLOCK_SECTOR = 8
SUPERBLOCK_BYTES = 4096

CSUM = struct.Struct("<Q")
HEADER = struct.Struct("<QQQ16s16s16s32sQQQQQ40xQHHHHIHH")
assert HEADER.size == 208
assert HEADER.size + 8 * JOURNAL_BUCKETS_MAX <= SUPERBLOCK_BYTES

VERSION_FRESH = 0  # BCACHE_SB_VERSION_CDEV
VERSION_IN_USE = 3  # BCACHE_SB_VERSION_CDEV_WITH_UUID
VERSION_FEATURES = 5  # BCACHE_SB_VERSION_CDEV_WITH_FEATURES
CACHE_VERSIONS = (VERSION_FRESH, VERSION_IN_USE, VERSION_FEATURES)
BACKING_VERSIONS = (1, 4, 6)
BACKING_CACHE_MODE = BitField(0, 4)  # BDEV_CACHE_MODE
BACKING_CACHE_MODES = ("writethrough", "writeback", "writearound", "no caching")
BACKING_STATE = BitField(61, 2)  # BDEV_STATE
BACKING_STATES = ("detached", "clean", "dirty", "inconsistent")  # as bcache-super-show has them

SYNC = BitField(0, 1)  # CACHE_SYNC
DISCARD = BitField(1, 1)  # CACHE_DISCARD
REPLACEMENT = BitField(2, 3)  # CACHE_REPLACEMENT
KNOWN_FLAGS = SYNC.mask | DISCARD.mask | REPLACEMENT.mask
REPLACEMENT_MAX = int(max(Replacement))

FEATURE_INCOMPAT_LOG_LARGE_BUCKET = 1 << 1  # BCH_FEATURE_INCOMPAT_LOG_LARGE_BUCKET_SIZE
FEATURE_INCOMPAT_BCACHED_SET = 1 << 62  # bcached's own: one of several members with mirrored journals
FEATURE_INCOMPAT_KNOWN = FEATURE_INCOMPAT_LOG_LARGE_BUCKET | FEATURE_INCOMPAT_BCACHED_SET

BUCKET_COUNT_MAX = (1 << 63) - 1
NO_UUID = bytes(16)
NAME = "superblock"


class NotWhole(BadField):
    """A wrong field among those that locate the checksum: torn or damaged, or no superblock."""


class BackingDevice(BadField):
    """A sound superblock, but of a backing device."""

    def __init__(self, where: str, raw: "RawSuperblock") -> None:
        super().__init__(
            NAME, f"{where}, version", "a cache device's: 0, 3 or 5", f"{raw.version} (a backing device)"
        )
        self.raw = raw
        self.what = f"a bcache backing device ({raw.backing_words})"
        self._where = where

    def __str__(self) -> str:
        return f"{self._where}: is {self.what}, not a cache device"


@dataclass(frozen=True, slots=True)
class RawSuperblock:
    """The fields as they are on disk, unchecked until `check` has passed.

    As many as the format has, in its order, so that they can be unpacked by position: see the drawing above.
    """

    csum: int
    offset: int
    version: int
    magic: bytes
    uuid: bytes
    set_uuid: bytes
    label: bytes
    flags: int
    seq: int
    feature_compat: int
    feature_incompat: int
    feature_ro_compat: int
    bucket_count: int
    block_sectors: int
    bucket_size: int  # sectors, or their logarithm
    members: int
    member: int
    last_mount: int
    first_bucket: int
    journal_count: int

    @property
    def bucket_sectors(self) -> int:
        """Sectors of a bucket."""
        return 1 << self.bucket_size if self._bucket_size_is_logarithm else self.bucket_size

    @property
    def backing_words(self) -> str:
        """Of a backing device: its state, its cache mode, and the set it is attached to."""
        state, mode = BACKING_STATE.get(self.flags), BACKING_CACHE_MODE.get(self.flags)
        mode_name = BACKING_CACHE_MODES[mode] if mode < len(BACKING_CACHE_MODES) else f"cache mode {mode}"
        attached = f", of cache set {UUID(bytes=self.set_uuid)}" if state else ""
        return f"{BACKING_STATES[state]}, {mode_name}{attached}"

    @property
    def _bucket_size_is_logarithm(self) -> bool:
        has_features = self.version == VERSION_FEATURES
        return has_features and bool(self.feature_incompat & FEATURE_INCOMPAT_LOG_LARGE_BUCKET)

    def check(self, raw: bytes, device_bytes: int, logical_block_bytes: int, where: str) -> None:
        """Refuse what the kernel refuses, in its order, and what it accepts and then fails on."""
        self._check_identity(raw, where)
        enough = self.block_sectors * SECTOR_BYTES >= logical_block_bytes
        expected = f"at least the device's logical block of {logical_block_bytes} bytes"
        _require(enough, where, "block_size", expected, f"{self.block_sectors} sectors")
        self._check_version(where)
        self._check_geometry(device_bytes, where)
        self._check_membership(where)
        self._check_journal(raw, where)
        policy = REPLACEMENT.get(self.flags)
        known = f"replacement 0 to {REPLACEMENT_MAX}"
        _require(policy <= REPLACEMENT_MAX, where, "flags", known, f"replacement {policy}")

    def _check_identity(self, raw: bytes, where: str) -> None:
        """Check that it is a superblock with a good checksum."""
        if self.offset != SUPERBLOCK_SECTOR and self.magic != SUPERBLOCK_MAGIC:
            raise NotWhole(NAME, where, "bcache's", "neither its offset nor its magic")
        if self.offset != SUPERBLOCK_SECTOR:
            raise NotWhole(NAME, f"{where}, offset", SUPERBLOCK_SECTOR, self.offset)
        if self.magic != SUPERBLOCK_MAGIC:
            raise BadMagic(NAME, where, SUPERBLOCK_MAGIC.hex(), self.magic.hex())
        # Kernel: checks this after the checksum. The checksum's length depends on it, so it is first here.
        if self.journal_count > JOURNAL_BUCKETS_MAX:
            most = f"at most {JOURNAL_BUCKETS_MAX}"
            raise NotWhole(NAME, f"{where}, njournal_buckets", most, self.journal_count)
        actual = crc64_we(memoryview(raw)[CSUM.size : HEADER.size + 8 * self.journal_count])
        if actual != self.csum:
            raise BadChecksum(NAME, where, f"{actual:#018x}", f"{self.csum:#018x}")
        _require(self.uuid != NO_UUID, where, "uuid", "not zero", "zero")

    def _check_version(self, where: str) -> None:
        """Check that version and features are known."""
        if self.version in BACKING_VERSIONS:
            raise BackingDevice(where, self)
        _require(
            self.version in CACHE_VERSIONS, where, "version", "a cache device's: 0, 3 or 5", self.version
        )
        if self.version != VERSION_FEATURES:
            return  # the feature words of older versions mean nothing
        compat, incompat, ro_compat = self.feature_compat, self.feature_incompat, self.feature_ro_compat
        unknown = incompat & ~FEATURE_INCOMPAT_KNOWN
        _require(compat == 0, where, "feature_compat", "no unknown bit", f"{compat:#x}")
        _require(unknown == 0, where, "feature_incompat", "no unknown bit", f"{incompat:#x}")
        _require(ro_compat == 0, where, "feature_ro_compat", "no unknown bit", f"{ro_compat:#x}")
        if self._bucket_size_is_logarithm:
            # Kernel: accepts larger ones. A key's fields are too small for the sectors of such a bucket.
            largest = BUCKET_SECTORS_MAX.bit_length() - 1
            small = self.bucket_size <= largest
            _require(small, where, "bucket_size", f"at most 2^{largest} sectors", f"2^{self.bucket_size}")

    def _check_geometry(self, device_bytes: int, where: str) -> None:
        """Check that the sizes of buckets and blocks are valid, and that the device holds them all."""
        count, bucket, block = self.bucket_count, self.bucket_sectors, self.block_sectors
        _require(count <= BUCKET_COUNT_MAX, where, "nbuckets", f"at most {BUCKET_COUNT_MAX}", count)
        # Kernel: 128 here, and 513 when it sizes its lists.
        _require(count >= BUCKET_COUNT_MIN, where, "nbuckets", f"at least {BUCKET_COUNT_MIN}", count)
        _require(is_power_of_two(block), where, "block_size", "a power of two", block)
        _require(
            block <= BLOCK_SECTORS_READ_MAX, where, "block_size", f"at most {BLOCK_SECTORS_READ_MAX}", block
        )
        _require(is_power_of_two(bucket), where, "bucket_size", "a power of two", bucket)
        _require(bucket >= BUCKET_SECTORS_MIN, where, "bucket_size", f"at least {BUCKET_SECTORS_MIN}", bucket)
        needed = count * bucket * SECTOR_BYTES
        expected = f"what a device of {device_bytes} bytes holds"
        _require(needed <= device_bytes, where, "nbuckets", expected, f"{count}, or {needed} bytes")

    def _check_membership(self, where: str) -> None:
        """Check its set and its number in it."""
        _require(self.set_uuid != NO_UUID, where, "set_uuid", "not zero", "zero")
        _require(1 <= self.members <= MEMBERS_MAX, where, "nr_in_set", f"1 to {MEMBERS_MAX}", self.members)
        _require(self.member < self.members, where, "nr_this_dev", f"below {self.members}", self.member)

    def _check_journal(self, raw: bytes, where: str) -> None:
        """Check that the journal's buckets are in sequence, inside the device, behind the superblock."""
        first, end = self.first_bucket, self.first_bucket + self.journal_count
        found = self.journal_buckets(raw)
        expected = f"buckets {first} to {end - 1} in sequence"
        _require(found == tuple(range(first, end)), where, "d", expected, list(found))
        _require(end < self.bucket_count, where, "first_bucket", f"an end below {self.bucket_count}", end)
        start = first * self.bucket_sectors
        behind = 2 * SUPERBLOCK_SECTOR
        _require(start >= behind, where, "first_bucket", f"sector {behind} or later", f"sector {start}")
        trusted = SYNC.get(self.flags) == 0 or self.journal_count > 0
        _require(trusted, where, "njournal_buckets", "at least 1, since SYNC is set", self.journal_count)

    def journal_buckets(self, raw: bytes) -> tuple[int, ...]:
        """Returns the journal's buckets, d[] in the drawing."""
        return struct.unpack_from(f"<{self.journal_count}Q", raw, HEADER.size)


def unpack(raw: Buffer, where: str) -> RawSuperblock:
    """Returns the fields in a block of 4096 bytes."""
    _require(len(raw) == SUPERBLOCK_BYTES, where, "size", f"{SUPERBLOCK_BYTES} bytes", len(raw))
    return RawSuperblock(*HEADER.unpack_from(raw))


def is_power_of_two(number: int) -> bool:
    """Whether the number is 1, 2, 4, ..."""
    return number > 0 and number & (number - 1) == 0


def _require(holds: bool, where: str, field: str, expected: object, found: object) -> None:
    if not holds:
        raise BadField(NAME, f"{where}, {field}", expected, found)
