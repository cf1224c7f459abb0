# SPDX-License-Identifier: GPL-2.0-only
"""The sets that the fuzzer changes: ours, of several shapes, and what the kernel wrote."""

import mmap
import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from bcached.format.bset import BSET_HEADER
from bcached.format.sizes import metadata_bytes
from bcached.format.superblock import COPY_SECTOR, SUPERBLOCK_SECTOR, Superblock
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.lifetime import running
from bcached.store.check.checker import check_set, read_metadata, read_tree
from bcached.store.make.layout import lay_out, plan_set
from bcached.units import SECTOR_BYTES
from instruments.devices.memory_device import MemoryDevice, MemoryDisk
from instruments.samples.kernel_images import NAMES, image_bytes
from instruments.samples.living_set import extent, set_options
from instruments.time.virtual_time import run_in_virtual_time

Life = Callable[[CacheSet, Callable[[], None], Random], Coroutine[Any, Any, None]]
BLOCK_BYTES = 4096  # of superblocks


@dataclass(frozen=True)
class Part:
    """A structure on a device: its kind, member, byte, length, and the node or entry it belongs to."""

    kind: str  # superblock, entry, prio, uuids, bset
    member: int
    byte: int
    length: int
    node: Key | None = None


@dataclass
class Base:
    """A set, images of it from before, and where its structures are."""

    name: str
    memory: list[mmap.mmap]  # of memfds: each case has a private copy of what it changes
    descriptors: list[int]
    history: list[list[bytes]] = field(default_factory=list)
    superblock: Superblock | None = None
    parts: list[Part] = field(default_factory=list)
    data_keys: list[Key] = field(default_factory=list)

    def devices(self) -> list[MemoryDevice]:
        """Devices that hold the set, to be changed at will."""
        devices = []
        for number, descriptor in enumerate(self.descriptors):
            size = os.fstat(descriptor).st_size
            disk = MemoryDisk.__new__(MemoryDisk)
            disk._memory = mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
            disk.contents, disk.is_open = memoryview(disk._memory), False
            devices.append(MemoryDevice(size, path=f"d{number}", disk=disk))
        return devices

    def of(self, *kinds: str) -> list[Part]:
        """The parts of some kinds."""
        return [part for part in self.parts if part.kind in kinds]


async def furnish(cache_set: CacheSet, snap: Callable[[], None], random: Random) -> None:
    """A life with everything in it: volumes, data, overwrites, deletions, collections, prio writes."""
    await cache_set.volumes.create("plain")
    await cache_set.volumes.create("flash", 1 << 20)
    await write(cache_set, random, 80)
    await cache_set.maintenance.collect_garbage()
    snap()
    await cache_set.volumes.create("late")
    await write(cache_set, random, 160)
    await cache_set.maintenance.write_priorities()
    await cache_set.index.invalidate(0, 0, 400, 5)
    snap()
    await write(cache_set, random, 60)
    await cache_set.index.flush()
    snap()


async def write(cache_set: CacheSet, random: Random, count: int) -> None:
    """So many keys somewhere, most of them clean."""
    holder = cache_set.allocations.new_holder("writer")
    for number in range(count):
        inode, offset = random.randrange(2), 8 * random.randrange(1000)
        (keys,) = await cache_set.allocations.allocate(holder, [extent(8, inode=inode, offset=offset)], 5)
        dirty = inode == 1 or random.random() < 0.2
        keys = [Key(key.inode, key.offset, key.sectors, dirty, key.pointers) for key in keys]
        await cache_set.index.commit(holder, keys, 5)
        if number % 8 == 0:
            await cache_set.index.flush()
    cache_set.allocations.drop_holder(holder, None)


async def _live(
    counts: Sequence[int], bucket_bytes: int, block_bytes: int, seed: int, *, is_stopped: bool
) -> list[list[bytes]]:
    """The images of a life, oldest first."""
    devices = [MemoryDevice(count * bucket_bytes, path=f"d{n}") for n, count in enumerate(counts)]
    await lay_out(plan_set(devices, bucket_bytes=bucket_bytes, block_bytes=block_bytes), devices)
    history: list[list[bytes]] = []

    def snap() -> None:
        history.append([bytes(device.disk.contents) for device in devices])

    for device in devices:
        await device.close()
    devices = [device.reopen() for device in devices]
    with TemporaryDirectory() as folder:
        options = set_options(Path(folder), verify=False, restart_grace_s=0)
        async with running(devices, options) as cache_set:
            await furnish(cache_set, snap, Random(seed))
    if is_stopped:
        snap()
    return history


OURS = {
    "one": ((530,), 4096, 512, False),
    "stopped": ((540,), 4096, 512, True),
    "two": ((530, 540), 4096, 512, False),
    "large": ((530,), 16384, 4096, False),
    "chain": ((1500,), 4096, 1024, False),
}
BASES = (*OURS, *NAMES)
TURNS = (*OURS, *OURS, *OURS, *OURS, *NAMES)  # the kernel's images are large, and take their time


@cache
def base(name: str) -> Base:
    """The base of that name."""
    if name in OURS:
        counts, bucket_bytes, block_bytes, is_stopped = OURS[name]
        history = run_in_virtual_time(
            _live(counts, bucket_bytes, block_bytes, list(OURS).index(name), is_stopped=is_stopped)
        )
    else:
        history = [[image_bytes(name)]]
    descriptors = []
    for image in history[-1]:
        descriptor = os.memfd_create(name)
        os.truncate(descriptor, len(image))
        os.pwrite(descriptor, image, 0)
        descriptors.append(descriptor)
    found = Base(name, [], descriptors, history[:-1])
    run_in_virtual_time(_find_parts(found))
    return found


async def _find_parts(found: Base) -> None:
    devices = found.devices()
    checked = await read_metadata(devices)
    assert checked.journal is not None
    found.superblock = superblock = checked.members[0].superblock
    block_bytes, magic_bytes = (
        superblock.block_bytes,
        metadata_bytes(superblock.bucket_sectors),
    )
    bucket_bytes = superblock.bucket_bytes
    parts = found.parts
    for member in range(len(devices)):
        parts.append(Part("superblock", member, SUPERBLOCK_SECTOR * SECTOR_BYTES, BLOCK_BYTES))
        parts.append(Part("superblock", member, COPY_SECTOR * SECTOR_BYTES, BLOCK_BYTES))
        parts += [
            Part("prio", member, bucket * bucket_bytes, magic_bytes) for bucket, _ in checked.chains[member]
        ]
    for bucket, placed in checked.journal.placed():
        byte = bucket.bucket * bucket_bytes + placed.offset_bytes
        parts.append(Part("entry", bucket.member, byte, placed.blocks * block_bytes))
    table = checked.journal.newest.uuid_bucket
    pointer = table.pointers[0]
    parts.append(Part("uuids", pointer.device, pointer.sector * SECTOR_BYTES, table.sectors * SECTOR_BYTES))
    async for node in read_tree(checked):
        begin = node.key.pointers[0].sector * SECTOR_BYTES
        parts += [
            Part(
                "bset",
                node.key.pointers[0].device,
                begin + placed.offset_bytes,
                placed.blocks * block_bytes,
                node.key,
            )
            for placed in node.bsets
        ]
        if node.level == 0:
            found.data_keys += node.all_keys()[:50]
    assert BSET_HEADER.size == 32
    (sound,) = [await check_set(found.devices())]
    assert sound.findings.sound, [str(finding) for finding in sound.findings.listed]
