# SPDX-License-Identifier: GPL-2.0-only
"""Images of sets, structure by structure: nothing is on them but what the test says, right or wrong."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from uuid import UUID

import numpy as np

from bcached.format.bkey import END_MAX
from bcached.format.bset import Bset, pack_bset
from bcached.format.jset import JournalEntry
from bcached.format.prio_set import PrioSet
from bcached.format.sizes import uuid_slots
from bcached.format.superblock import (
    COPY_SECTOR,
    FEATURE_INCOMPAT_BCACHED_SET,
    SUPERBLOCK_BYTES,
    SUPERBLOCK_SECTOR,
    Superblock,
    first_bucket_for,
    journal_bucket_count_for,
)
from bcached.format.uuid_entry import UuidEntry, pack_table
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.store.member import geometry_of
from instruments.devices.memory_device import MemoryDevice

SECTOR = 512
SET_UUID = UUID(int=0x5E7_0000_0000_0000_0000_0000_0000_0001)
PLAIN = UuidEntry(UUID(int=0x10), "plain")
FLASH = UuidEntry(UUID(int=0x11), "flash", flash_only=True, sectors=1 << 16)
MAX_POSITION = (INODE_MAX, END_MAX)
Keys = Sequence[Key]


class ImageBuilder:
    """Writes nodes and keys where it is told, and with `finish` all that makes a set of them."""

    def __init__(
        self,
        *,
        members: int = 1,
        bucket_count: int = 640,
        bucket_sectors: int = 64,
        block_sectors: int = 8,
        first_bucket: int = 0,
    ) -> None:
        first = first_bucket or first_bucket_for(bucket_sectors)
        count = journal_bucket_count_for(bucket_count)
        self.superblocks = [
            Superblock(
                uuid=UUID(int=0xDE71CE00 + member),
                set_uuid=SET_UUID,
                version=3 if members == 1 else 5,
                bucket_count=bucket_count,
                bucket_sectors=bucket_sectors,
                block_sectors=block_sectors,
                first_bucket=first,
                members=members,
                member=member,
                journal_buckets=tuple(range(first, first + count)),
                synchronous=True,
                seq=3,
                feature_incompat=0 if members == 1 else FEATURE_INCOMPAT_BCACHED_SET,
            )
            for member in range(members)
        ]
        self.geometry = geometry_of(self.superblocks[0])
        self.set_magic = self.superblocks[0].set_magic
        self.images = [bytearray(bucket_count * bucket_sectors * SECTOR) for _ in range(members)]
        self.gens = [np.zeros(bucket_count, np.uint8) for _ in range(members)]  # as they will be on disk
        self.volumes: list[UuidEntry | None] = [PLAIN, FLASH]
        self.prio_buckets: list[list[int]] = []
        self.entries: dict[int, tuple[JournalEntry, int]] = {}  # by seq: the entry and its byte
        self._next_bucket = [first + count] * members
        self._next_seq = 0x1000

    def bucket(self, member: int = 0) -> int:
        """A bucket nobody has used."""
        self._next_bucket[member] += 1
        return self._next_bucket[member] - 1

    def extent(
        self, inode: int, offset: int, sectors: int, *, dirty: bool = False, gen: int = 0, member: int = 0
    ) -> Key:
        """A key with a bucket of its own."""
        pointer = Pointer(member, self.geometry.sector_of(self.bucket(member)), gen)
        return Key(inode, offset, sectors, dirty, (pointer,))

    def node_key(
        self, position: tuple[int, int] = MAX_POSITION, *, gen: int = 0, member: int = 0, sectors: int = 0
    ) -> Key:
        """The key of a node in a bucket of its own."""
        inode, end = position
        sectors = sectors or self.geometry.bucket_sectors
        pointer = Pointer(member, self.geometry.sector_of(self.bucket(member)), gen)
        return Key(inode, end - sectors, sectors, False, (pointer,))

    def write_node(self, key: Key, *bsets: Keys, seq: int = 0) -> Key:
        """Write the bsets one behind the other at the key's place."""
        self._next_seq += 1
        seq = seq or self._next_seq
        raw = b"".join(
            pack_bset(Bset(seq, tuple(keys)), key, self.set_magic, self.geometry.block_bytes)
            for keys in bsets
        )
        assert len(raw) <= key.sectors * SECTOR
        self.write(key.pointers[0].sector * SECTOR, raw, key.pointers[0].device)
        return key

    def node(
        self, *bsets: Keys, position: tuple[int, int] = MAX_POSITION, gen: int = 0, member: int = 0
    ) -> Key:
        """A node in a bucket of its own."""
        return self.write_node(self.node_key(position, gen=gen, member=member), *bsets)

    def freeing(self, key: Key) -> Key:
        """The freeing key of a node."""
        pointer = key.pointers[0]
        return Key(0, -key.sectors, key.sectors, False, (replace_gen(pointer, pointer.gen + 1),))

    def finish(
        self, root: Key | None = None, level: int = 0, journal: Sequence[Keys] = ((),)
    ) -> "ImageBuilder":
        """Write uuids, prios, a journal entry for each of the given keys, and the superblocks."""
        root = root or self.node(())
        uuid_bucket = self.bucket()
        sectors = self.geometry.metadata_bytes // SECTOR
        self.uuid_key = Key(
            0, -sectors, sectors, False, (Pointer(0, self.geometry.sector_of(uuid_bucket), 0),)
        )
        self.root, self.level = root, level
        assert len(self.volumes) <= uuid_slots(self.geometry.bucket_sectors)
        self.write_volumes()
        for member in range(len(self.images)):
            self.prio_buckets.append([self.bucket(member) for _ in range(self.geometry.prio_bucket_count)])
            self.write_prios(member)
        byte = self.geometry.byte_of(self.superblocks[0].journal_buckets[1])
        for seq, keys in enumerate(journal, 1):
            byte = self.write_entry(self.entry(seq, 1, keys), byte)
        for member, superblock in enumerate(self.superblocks):
            self.write_superblock(superblock, member)
        return self

    def entry(self, seq: int, last_seq: int = 1, keys: Keys = ()) -> JournalEntry:
        """A journal entry that names this set's metadata."""
        heads = [chain[0] for chain in self.prio_buckets] + [0] * (8 - len(self.prio_buckets))
        return JournalEntry(seq, last_seq, self.uuid_key, self.root, self.level, tuple(heads), tuple(keys))

    def write_entry(self, entry: JournalEntry, byte: int, members: Sequence[int] | None = None) -> int:
        """Write it at a byte of the members, all of them by default; the byte behind it."""
        raw = entry.pack(self.set_magic, self.geometry.block_bytes)
        for member in range(len(self.images)) if members is None else members:
            self.write(byte, raw, member)
        self.entries[entry.seq] = entry, byte
        return byte + len(raw)

    def tear_entry(self, seq: int) -> None:
        """Leave only the first sector of a journal entry, as a power cut may."""
        entry, byte = self.entries[seq]
        used = entry.pack(self.set_magic)
        assert len(used) > SECTOR, "a sector is written whole"
        for member in range(len(self.images)):
            self.write(byte + SECTOR, bytes(len(used) - SECTOR), member)

    def write_volumes(self) -> None:
        """Write the uuid table where its key points."""
        raw = pack_table(self.volumes, self.geometry.metadata_bytes)
        self.write(self.uuid_key.pointers[0].sector * SECTOR, raw)

    def write_prios(self, member: int, seq: int = 7) -> None:
        """Write the member's prio chain; its last set points to junk, as the kernel's do."""
        buckets, step = self.prio_buckets[member], self.geometry.prios_per_bucket
        for index, (bucket, following) in enumerate(zip(buckets, [*buckets[1:], 0xBAD], strict=True)):
            gens = self.gens[member][index * step : (index + 1) * step]
            prio_set = PrioSet(seq, following, np.full(len(gens), 32768, np.uint16), gens)
            raw = prio_set.pack(self.set_magic, self.geometry.metadata_bytes)
            self.write(self.geometry.byte_of(bucket), raw, member)

    def write_superblock(self, superblock: Superblock, member: int = 0, *, copy: bool = True) -> None:
        """Write a superblock, and its copy."""
        self.write(SUPERBLOCK_SECTOR * SECTOR, superblock.pack(), member)
        if copy:
            self.write(COPY_SECTOR * SECTOR, superblock.pack(), member)
        assert len(superblock.pack()) == SUPERBLOCK_BYTES

    def write(self, byte: int, raw: bytes | bytearray, member: int = 0) -> None:
        """Overwrite bytes."""
        assert byte + len(raw) <= len(self.images[member])
        self.images[member][byte : byte + len(raw)] = raw

    def flip(self, byte: int, member: int = 0) -> None:
        """Damage one byte."""
        self.images[member][byte] ^= 0x40

    def byte_of(self, key: Key) -> int:
        """Where what a key names begins."""
        return key.pointers[0].sector * SECTOR

    def devices(self) -> list[MemoryDevice]:
        """Devices that hold the images, each named."""
        devices = [MemoryDevice.holding(bytes(image)) for image in self.images]
        for number, device in enumerate(devices):
            device.path = f"disk{number}"
        return devices

    def files(self, directory: Path) -> list[str]:
        """The images as files."""
        paths = [directory / f"disk{number}.img" for number in range(len(self.images))]
        for path, image in zip(paths, self.images, strict=True):
            path.write_bytes(image)
        return [str(path) for path in paths]


def replace_gen(pointer: Pointer, gen: int) -> Pointer:
    """The pointer with another gen."""
    return Pointer(pointer.device, pointer.sector, gen & 255)


def two_levels(builder: ImageBuilder, volume: int = 0) -> tuple[Key, list[Key]]:
    """A root over three leaves that hold ten extents of eight sectors each; the root's key, and theirs."""
    extents = [
        [builder.extent(volume, 1000 * leaf + 16 * n, 8, dirty=n % 2 == 0) for n in range(10)]
        for leaf in range(3)
    ]
    ends = [(volume, 1000), (volume, 2000), MAX_POSITION]
    leaves = [builder.node(keys, position=end) for keys, end in zip(extents, ends, strict=True)]
    return builder.node(leaves), leaves


def live_keys(*rows: Keys) -> list[Key]:
    """Rows of keys as one list, in their order."""
    return list(chain.from_iterable(rows))


def with_superblock(superblock: Superblock, **fields: object) -> Superblock:
    """A superblock with other fields."""
    return replace(superblock, **fields)  # type: ignore[arg-type]
