# SPDX-License-Identifier: GPL-2.0-only
"""Everything that can be damaged of an image of the kernel's: what it is called, and how it is done."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from bcached.device.block_device import BlockDevice
from bcached.store.btree.node_reader import NodeFound
from bcached.store.check.checker import CheckedSet
from instruments.devices.bad_sectors import BadSectorsDevice
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import (
    Damage,
    bsets,
    erase,
    flip,
    garble,
    image_bytes,
    journal_entries,
    structures,
)

SECTOR = 512


@dataclass(frozen=True)
class Kind:
    """One damage: of which kind, where, and what it does to the bytes or to the device."""

    name: str
    where: str
    change: Damage | None = None
    bad: range = range(0)  # sectors that cannot be read
    end: int = 0  # the device ends at this sector; 0: where it did

    def applied(self, raw: bytearray) -> bytearray:
        """The bytes with this damage."""
        if self.change is not None:
            self.change(raw)
        return raw[: self.end * SECTOR] if self.end else raw


def damaged(name: str, kinds: list[Kind]) -> tuple[MemoryDevice, BlockDevice]:
    """A kernel's image with these damages: the device, and the one through which it is read."""
    raw = bytearray(image_bytes(name))
    for kind in kinds:
        raw = kind.applied(raw)
    device = MemoryDevice.holding(raw)
    bad = [kind.bad for kind in kinds if kind.bad]
    return device, BadSectorsDevice(device, bad) if bad else device


async def kinds_of(name: str, random: Random) -> list[Kind]:
    """All kinds for an image."""
    checked, nodes = await structures(name)
    return [
        *_of_superblock(random),
        *_of_journal(checked, random),
        *_of_locations(checked, random),
        *_of_nodes(nodes, random),
        *_of_device(checked, nodes),
    ]


def _of_superblock(random: Random) -> Iterator[Kind]:
    yield Kind("superblock: a bit", "csum", flip(4096))
    yield Kind("superblock: magic erased", "", erase(4096 + 24, 16))
    for byte in (56, 184, 192, 206, 208):
        yield Kind("superblock: a word garbled", f"byte {byte}", garble(4096 + byte, random))
    yield Kind("superblock: erased", "", erase(4096, 4096))


def _of_journal(checked: CheckedSet, random: Random) -> Iterator[Kind]:
    assert checked.journal is not None
    superblock = checked.members[0].superblock
    bucket_bytes = superblock.bucket_sectors * SECTOR
    entries = list(journal_entries(checked))
    for bucket in checked.journal.buckets:
        holds_newest = any(placed.entry is checked.journal.newest for placed in bucket.entries)
        what = "with the newest entry" if holds_newest else "with older ones"
        yield Kind(
            f"journal bucket {what}: erased",
            f"{bucket.bucket}",
            erase(bucket.bucket * bucket_bytes, bucket_bytes),
        )
    for seq, byte, length in entries:
        what = "newest entry" if seq == entries[-1][0] else "entry"
        at = byte + random.randrange(length)
        yield Kind(f"{what}: a bit", f"{seq}", flip(at))
        yield Kind(f"{what}: a word garbled", f"{seq}", garble(at, random))
        yield Kind(f"{what}: erased", f"{seq}", erase(byte, SECTOR))
        yield Kind(f"{what}: unreadable", f"{seq}", bad=range(byte // SECTOR, byte // SECTOR + 1))
    first, count = superblock.journal_buckets[0], len(superblock.journal_buckets)
    yield Kind("journal: erased", "", erase(first * bucket_bytes, count * bucket_bytes))


def _of_locations(checked: CheckedSet, random: Random) -> Iterator[Kind]:
    assert checked.journal is not None
    bucket_bytes = checked.members[0].superblock.bucket_sectors * SECTOR
    for bucket, _ in checked.chains[0]:
        byte = bucket * bucket_bytes
        yield Kind("prios: a bit", f"{bucket}", flip(byte + random.randrange(bucket_bytes)))
        yield Kind(
            "prios: a word garbled", f"{bucket}", garble(byte + random.randrange(bucket_bytes), random)
        )
        yield Kind("prios: erased", f"{bucket}", erase(byte, bucket_bytes))
        yield Kind("prios: unreadable", f"{bucket}", bad=range(byte // SECTOR, byte // SECTOR + 1))
    table = checked.journal.newest.uuid_bucket.pointers[0].sector
    yield Kind("uuid table: a word garbled", "", garble(table * SECTOR + random.randrange(128), random))
    yield Kind("uuid table: erased", "", erase(table * SECTOR, bucket_bytes))
    yield Kind("uuid table: unreadable", "", bad=range(table, table + 1))


def _of_nodes(nodes: list[NodeFound], random: Random) -> Iterator[Kind]:
    for node in nodes:
        what = "leaf" if node.level == 0 else "interior node"
        sector, sectors = node.key.pointers[0].sector, node.key.sectors
        yield Kind(f"{what}: erased", f"{sector}", erase(sector * SECTOR, sectors * SECTOR))
        yield Kind(f"{what}: unreadable", f"{sector}", bad=range(sector, sector + sectors))
        yield Kind(f"{what}: first sector unreadable", f"{sector}", bad=range(sector, sector + 1))
        last = sector + sectors - 1
        yield Kind(f"{what}: last sector unreadable", f"{sector}", bad=range(last, last + 1))
        if node.level == 0 and len(node.bsets) > 1:
            newest = node.bsets[-1].offset_bytes
            where, length = sector * SECTOR + newest, sectors * SECTOR - newest
            yield Kind("newest bset of a leaf: erased whole", f"{where}", erase(where, length))
    for level, what in ((0, "bset of a leaf"), (1, "bset of an interior node")):
        for byte, length in bsets(nodes, level):
            at = byte + random.randrange(length)
            yield Kind(f"{what}: a bit", f"{byte}", flip(at))
            yield Kind(f"{what}: a word garbled", f"{byte}", garble(at, random))
            yield Kind(f"{what}: erased", f"{byte}", erase(byte, SECTOR))


def _of_device(checked: CheckedSet, nodes: list[NodeFound]) -> Iterator[Kind]:
    superblock = checked.members[0].superblock
    end = superblock.bucket_count * superblock.bucket_sectors
    yield Kind("device: shorter by a sector", "", end=end - 1)
    yield Kind("device: shorter by an eighth", "", end=end - end // 8)
    yield Kind("device: a sixteenth of the data unreadable", "", bad=range(end // 2, end // 2 + end // 16))
    roots = [node for node in nodes if node.level == max(node.level for node in nodes)]
    bucket_bytes = superblock.bucket_sectors * SECTOR

    def both(raw: bytearray) -> None:
        for node in roots:
            erase(node.key.pointers[0].sector * SECTOR, node.key.sectors * SECTOR)(raw)
        for prio, _ in checked.chains[0]:
            erase(prio * bucket_bytes, bucket_bytes)(raw)

    yield Kind("root and prios: erased", "", both)
