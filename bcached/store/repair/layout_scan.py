# SPDX-License-Identifier: GPL-2.0-only
"""How a set was made, found from its journal entries: they have the sizes, and half of the set's uuid.

An entry is recognized without knowing the set: by fields that can have few values, and its checksum. It names
the uuid table, which is as long as a bucket (up to 4 MiB); its own place is a multiple of the block's size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from uuid import UUID

import numpy as np

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError, FormatError, SetRefused
from bcached.format.backing_superblock import SET_UUID_OFFSET
from bcached.format.jset import (
    HEADER,
    JSET_BYTES,
    JSET_BYTES_MAX,
    JSET_VERSION,
    LAST_SEQ_OFFSET,
    MAGIC_OFFSET,
    SEQ_OFFSET,
    JournalEntry,
)
from bcached.format.magic import JSET, set_magic_of
from bcached.format.sizes import (
    BLOCK_SECTORS_MAX,
    BLOCK_SECTORS_READ_MAX,
    BUCKET_SECTORS_MIN,
    METADATA_BYTES_MAX,
)
from bcached.format.superblock import COPY_SECTOR, SUPERBLOCK_BYTES, SUPERBLOCK_SECTOR
from bcached.store.rescue.remains.superblock_left import KnownLayout
from bcached.units import SECTOR_BYTES

CHUNK_BYTES = 4 << 20
SCANNED_BYTES = 4 << 30  # a journal has at most 256 buckets, the first ones
WORDS = SECTOR_BYTES // 8
KEY_WORDS_MAX = (JSET_BYTES_MAX - JSET_BYTES) // 8
ENOUGH = 64  # entries
ENOUGH_INSIDE = 8  # of buckets: all of them at multiples of a block by chance is unlikely


@dataclass(frozen=True, slots=True)
class LayoutFound:
    """What the journal entries on a device say of their set."""

    set_magic: int
    newest_seq: int
    bucket_sectors: int  # 0: too large to be seen
    block_sectors: int
    set_uuid: UUID | None  # if there is more left of it than the half that is in each entry

    @property
    def uuid_half(self) -> str:
        """The half of the set's uuid that is in each entry."""
        half = self.set_magic.to_bytes(8, "little").hex()
        return f"{half[:8]}-{half[8:12]}-{half[12:]}"


async def find_layout(device: BlockDevice, scanned_bytes: int = SCANNED_BYTES) -> LayoutFound | None:
    """Returns what the journal entries near the beginning of a device show; None if there are none."""
    found: list[tuple[int, int, JournalEntry]] = []
    for begin in range(0, min(device.size_bytes, scanned_bytes), CHUNK_BYTES):
        length = min(CHUNK_BYTES + JSET_BYTES_MAX, device.size_bytes - begin)
        try:
            raw = await device.read(begin, length)
        except BcachedError:
            continue
        found += [(begin + byte, magic, entry) for byte, magic, entry in _entries(raw)]
        if len(found) > ENOUGH:
            break
    if not found:
        return None
    _, magic, newest = max(found, key=lambda one: one[2].seq)
    places = [byte // SECTOR_BYTES for byte, one, _ in found if one == magic]
    bucket_sectors = newest.uuid_bucket.sectors
    block_sectors = min(gcd(*places), _largest_block(places, bucket_sectors), bucket_sectors)
    if bucket_sectors < BUCKET_SECTORS_MIN or bucket_sectors * SECTOR_BYTES >= METADATA_BYTES_MAX:
        bucket_sectors = 0
    set_uuid = await _uuid_left(device)
    is_right = set_uuid is not None and set_magic_of(set_uuid) == magic
    return LayoutFound(magic, newest.seq, bucket_sectors, block_sectors, set_uuid if is_right else None)


def _largest_block(places: Sequence[int], bucket_sectors: int) -> int:
    """Returns the largest size of a block that the places of entries may show: few may be even by chance."""
    inside = sum(1 for place in places if bucket_sectors and place % bucket_sectors)
    return BLOCK_SECTORS_READ_MAX if inside >= ENOUGH_INSIDE else BLOCK_SECTORS_MAX


async def scan_layout(device: BlockDevice, set_uuid: UUID | None) -> KnownLayout:
    """Returns the layout that the entries on a device show. Raises SetRefused if it is not all known."""
    found = await find_layout(device)
    if found is None:
        raise SetRefused(
            f"{device.path}: found neither a superblock nor a journal entry; if it was made with buckets of "
            "512k and blocks of 4k, for example: --geometry 512k,4k --set-uuid UUID"
        )
    if not found.bucket_sectors:
        raise SetRefused(
            f"{device.path}: its journal does not say how large its buckets are (4M or more): --geometry "
            f"BUCKET,{found.block_sectors * SECTOR_BYTES} says it"
        )
    set_uuid = set_uuid or found.set_uuid
    if set_uuid is None or set_magic_of(set_uuid) != found.set_magic:
        given = f"the one given is {set_uuid}" if set_uuid is not None else "there is no more of it"
        raise SetRefused(
            f"{device.path}: the set's uuid begins with {found.uuid_half}, and {given}: "
            "--set-uuid says it, or --backing DEV, whose superblock has it"
        )
    return KnownLayout(found.bucket_sectors, found.block_sectors, set_uuid)


async def _uuid_left(device: BlockDevice) -> UUID | None:
    """Returns the set's uuid as a damaged superblock, or its copy, may still have it."""
    for sector in (SUPERBLOCK_SECTOR, COPY_SECTOR):
        try:
            raw = await device.read(sector * SECTOR_BYTES, SUPERBLOCK_BYTES)
        except BcachedError:
            continue
        uuid = UUID(bytes=raw[SET_UUID_OFFSET : SET_UUID_OFFSET + 16])
        if uuid.int:
            return uuid
    return None


def _entries(raw: bytes) -> Iterator[tuple[int, int, JournalEntry]]:
    """Yields the place of each entry in a chunk, its set's magic, and the entry."""
    words = np.frombuffer(raw[: len(raw) // SECTOR_BYTES * SECTOR_BYTES], "<u8").reshape(-1, WORDS)
    seqs, last_seqs = words[:, SEQ_OFFSET // 8], words[:, LAST_SEQ_OFFSET // 8]
    versions, counts = words[:, 3] & 0xFFFFFFFF, words[:, 3] >> np.uint64(32)
    may_be = (last_seqs > 0) & (last_seqs <= seqs) & (versions <= JSET_VERSION) & (counts <= KEY_WORDS_MAX)
    for sector in np.flatnonzero(may_be[: CHUNK_BYTES // SECTOR_BYTES]).tolist():
        byte = sector * SECTOR_BYTES
        magic = HEADER.unpack_from(raw, byte)[1] ^ JSET
        try:
            entry = JournalEntry.parse(memoryview(raw)[byte:], magic, "journal entry")
        except FormatError:
            continue
        yield byte, magic, entry


assert MAGIC_OFFSET == 8
