# SPDX-License-Identifier: GPL-2.0-only
"""Sets that have been in use, made in memory without a daemon, and ways to spoil one field of theirs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from bcached.device.block_device import BlockDevice
from bcached.format.bset import Bset, pack_bset
from bcached.format.jset import JournalEntry
from bcached.format.superblock import Superblock
from bcached.keys import Key
from bcached.state.buckets.geometry import Geometry
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.store.make.layout import lay_out, plan_set
from bcached.store.opening.recovery import OpenedSet, first_run, recover
from bcached.store.reading.set_reader import read_set
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.format_samples import sealed, with_field

BUCKET_BYTES = 4096
SET_UUID = UUID(int=0x1234)
SUPERBLOCK_AT, COPY_AT = 4096, 8192


def make_buckets(geometry: Geometry, device: int) -> MemberBuckets:
    return MemberBuckets(geometry, device, seed=1)


async def open_set(devices: Sequence[BlockDevice]) -> OpenedSet:
    """A set opened without a daemon around it."""
    found = await read_set(devices)
    if found.contents is None:
        return await first_run(found, make_buckets, lambda: 0.0, synchronous=True)
    return await recover(found, make_buckets, lambda: 0.0)


async def fresh_devices(*bucket_counts: int, block_bytes: int = 512) -> list[MemoryDevice]:
    """Devices just laid out as one set."""
    devices = [MemoryDevice(count * BUCKET_BYTES, path=f"d{n}") for n, count in enumerate(bucket_counts)]
    layout = plan_set(devices, bucket_bytes=BUCKET_BYTES, block_bytes=block_bytes, set_uuid=SET_UUID)
    await lay_out(layout, devices)
    return devices


async def used_devices(*bucket_counts: int, entries: int = 3, block_bytes: int = 512) -> list[MemoryDevice]:
    """Devices whose set went through its first run and wrote so many journal entries."""
    devices = await fresh_devices(*bucket_counts, block_bytes=block_bytes)
    opened = await open_set(devices)
    for _ in range(entries - 1):
        await opened.journal.commit()
    return devices


@dataclass
class Image:
    """The bytes of a set of one device, and where its parts are."""

    raw: bytearray
    superblock: Superblock
    newest: JournalEntry
    newest_at: int  # byte of the device

    @classmethod
    async def used(cls, bucket_count: int = 530, entries: int = 3) -> "Image":
        """A set that was in use."""
        (device,) = await used_devices(bucket_count, entries=entries)
        found = await read_set([device])
        assert found.contents is not None
        ring = found.contents.journal.rings[0]
        superblock = found.members[0].superblock
        at = superblock.journal_buckets[ring.index] * BUCKET_BYTES + ring.behind_byte - 512
        return cls(bytearray(device.image()), superblock, found.contents.newest, at)

    def device(self) -> MemoryDevice:
        """The image as a device."""
        return MemoryDevice.holding(self.raw)

    def put(self, offset: int, data: bytes) -> None:
        """Overwrite bytes."""
        self.raw[offset : offset + len(data)] = data

    def spoil_superblock(self, offset: int, layout: str, value: int | bytes, at: int = SUPERBLOCK_AT) -> None:
        """Another value in one field, with the checksum put right; the copy stays as it is."""
        changed = with_field(bytes(self.raw[at : at + 4096]), offset, layout, value)
        journal_count = min(int.from_bytes(changed[206:208], "little"), 256)
        self.put(at, sealed(changed, 208 + 8 * journal_count))

    def spoil_entry(self, offset: int, layout: str, value: int | bytes) -> None:
        """Another value in one field of the newest journal entry, with the checksum put right."""
        changed = with_field(bytes(self.raw[self.newest_at : self.newest_at + 512]), offset, layout, value)
        words = min(int.from_bytes(changed[28:32], "little"), 16)
        self.put(self.newest_at, sealed(changed, 240 + 8 * words))

    def write_entry(self, **fields: object) -> None:
        """The newest journal entry with other values."""
        entry = replace(self.newest, **fields)  # type: ignore[arg-type]
        self.put(self.newest_at, entry.pack(self.superblock.set_magic, 512))

    def spoil_prios(self, offset: int, layout: str, value: int, index: int = 0) -> None:
        """Another value in one field of a set of the prio chain, with the checksum put right."""
        bucket = self.newest.prio_heads[0]
        for _ in range(index):
            bucket = int.from_bytes(self.raw[bucket * BUCKET_BYTES + 32 :][:8], "little")
        at = bucket * BUCKET_BYTES
        changed = with_field(bytes(self.raw[at : at + BUCKET_BYTES]), offset, layout, value)
        self.put(at, sealed(changed, BUCKET_BYTES))

    @property
    def root_at(self) -> int:
        """The byte of the device where the root's node begins."""
        return self.newest.root.pointers[0].sector * 512

    def write_root(self, *keys: Key, seq: int = 77, behind: int = 0) -> None:
        """A bset in the root's node."""
        raw = pack_bset(Bset(seq, keys), self.newest.root, self.superblock.set_magic, 512)
        self.put(self.root_at + behind, raw)
