# SPDX-License-Identifier: GPL-2.0-only
"""A kernel's images with structures damaged, and what a rescue of them makes of the backing device."""

import lzma
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError
from bcached.store.btree.node_reader import NodeFound
from bcached.store.check.checker import CheckedSet, read_metadata, read_tree
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtent, DirtyExtents, Totals
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.lost_keys import bring_back_lost
from bcached.store.rescue.remains.set_left import SetLeft
from bcached.store.rescue.unreadable import Unreadable
from bcached.store.rescue.write_back import DirtyDataWriter, Written
from bcached.units import SECTOR_BYTES
from instruments.devices.memory_device import MemoryDevice
from instruments.samples import kernel_images
from instruments.samples.kernel_images import FOLDER, kernel_image
from instruments.samples.lapped_journal import in_a_later_lap

LAPPED = "-lapped"
WITH_BACKING = ("clean", "crash", "clean-lapped", "crash-lapped")
Damage = Callable[[bytearray], None]


@cache
def image_bytes(name: str) -> bytes:
    """The image, unpacked; of a name with "-lapped" behind it, with its journal in a later lap."""
    raw = kernel_images.image_bytes(name.removesuffix(LAPPED))
    return in_a_later_lap(raw) if name.endswith(LAPPED) else raw


@cache
def backing_bytes(name: str) -> bytes:
    """The backing device below an image, unpacked; zeros below the flash-only one."""
    name = name.removesuffix(LAPPED)
    if name in WITH_BACKING:
        return lzma.decompress((FOLDER / f"{name}.backing.xz").read_bytes())
    return bytes(max(start + length for start, length, _ in kernel_image(name).expected))


@cache
def truth(name: str) -> tuple[bytes, np.ndarray]:
    """What the kernel read from the volume, and which of the sectors are known."""
    image = kernel_image(name.removesuffix(LAPPED))
    contents = bytearray(backing_bytes(name))
    known = np.zeros(len(contents) // SECTOR_BYTES, bool)
    for start, length, _ in image.expected:
        for at in range(start, start + length, SECTOR_BYTES):
            sector = at // SECTOR_BYTES + image.data_offset
            written = image.written(sector)
            known[sector] = written is not None
            if written is not None:
                contents[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES] = written
    return bytes(contents), known


def wrong_sectors(name: str, contents: bytes) -> set[int]:
    """The sectors that differ from what the kernel read."""
    right, known = truth(name)
    ours, theirs = (np.frombuffer(raw, np.uint8).reshape(-1, SECTOR_BYTES) for raw in (contents, right))
    return set(np.flatnonzero((ours != theirs).any(axis=1) & known).tolist())


@dataclass(frozen=True)
class Rescued:
    """The outcome of a rescue: counts, the device, and what was done to it; a reason if it was refused."""

    totals: Totals
    contents: bytes
    written: Written
    sectors: set[int]  # written
    refused: str = ""

    @property
    def sure(self) -> int:
        return self.totals.sectors[Confidence.SURE]

    @property
    def found(self) -> int:
        return self.totals.sectors.total()


async def rescued(
    name: str,
    damage: Damage | None = None,
    most: Confidence = Confidence.SURE,
    inode: int = 0,
    read: Callable[[Sequence[BlockDevice]], Awaitable[SetLeft]] = read_corrected,
) -> Rescued:
    """Damage a copy of an image, and write the dirty data of a volume to a copy of its backing device."""
    raw = bytearray(image_bytes(name))
    if damage is not None:
        damage(raw)
    cache, target = MemoryDevice.holding(raw), MemoryDevice.holding(backing_bytes(name))
    try:
        left = await read([cache])
        await bring_back_lost(left)
        extents = DirtyExtents.of(left)
    except BcachedError as error:
        return Rescued(Totals(), backing_bytes(name), Written(), set(), str(error))
    chosen = [extent for extent in extents.of_inode(inode) if extent.confidence <= most]
    sectors = {sector for one in chosen for sector in range(one.offset, one.offset + one.sectors)}
    write_back = DirtyDataWriter([cache], Unreadable([cache.size_bytes // SECTOR_BYTES]), target)
    written = await write_back.run(chosen)
    assert cache.image() == raw, "a rescue writes to no cache device"
    return Rescued(totals_of(extents.of_inode(inode)), target.image(), written, sectors)


# Where the structures of an image are


async def structures(name: str) -> tuple[CheckedSet, list[NodeFound]]:
    """The set on an image as a check reads it, and its nodes."""
    checked = await read_metadata([MemoryDevice.holding(image_bytes(name))])
    return checked, [node async for node in read_tree(checked)]


def flip(byte: int) -> Damage:
    """Change a bit."""

    def damage(raw: bytearray) -> None:
        raw[byte] ^= 4

    return damage


def garble(byte: int, random: Random) -> Damage:
    """Change many bits of the word that a byte is in."""
    word = random.randbytes(8)

    def damage(raw: bytearray) -> None:
        raw[byte - byte % 8 : byte - byte % 8 + 8] = word

    return damage


def erase(byte: int, length: int) -> Damage:
    """Turn bytes to zeros."""

    def damage(raw: bytearray) -> None:
        raw[byte : byte + length] = bytes(length)

    return damage


def journal_entries(checked: CheckedSet) -> Iterator[tuple[int, int, int]]:
    """Yields the seq of each entry that an opening needs, its first byte, and its length in use."""
    assert checked.journal is not None
    superblock = checked.members[0].superblock
    needed = {entry.seq for entry in checked.journal.entries}
    for bucket, placed in checked.journal.placed():
        if placed.entry.seq in needed:
            byte = bucket.bucket * superblock.bucket_bytes + placed.offset_bytes
            words = sum(2 + len(key.pointers) for key in placed.entry.keys)
            yield placed.entry.seq, byte, 240 + 8 * words


def bsets(nodes: list[NodeFound], level: int) -> Iterator[tuple[int, int]]:
    """Yields the first byte of each bset of the nodes of a level, and its length in use."""
    for node in nodes:
        if node.level == level:
            for placed in node.bsets:
                words = sum(2 + len(key.pointers) for key in placed.bset.keys)
                yield node.key.pointers[0].sector * SECTOR_BYTES + placed.offset_bytes, 32 + 8 * words


def totals_of(extents: Iterator[DirtyExtent]) -> Totals:
    """Returns the sums over these extents."""
    totals = Totals()
    for extent in extents:
        totals.add(extent, extent.sectors)
    return totals


async def without_newest_bset() -> bytes:
    """The crashed image, of which the newest bset of the leaf was erased whole, with all behind it."""
    _, nodes = await structures("crash")
    (leaf,) = [node for node in nodes if node.level == 0]
    begin = leaf.key.pointers[0].sector * 512
    raw = bytearray(image_bytes("crash"))
    last, end = begin + leaf.bsets[-1].offset_bytes, begin + leaf.key.sectors * 512
    raw[last:end] = bytes(end - last)
    return bytes(raw)
