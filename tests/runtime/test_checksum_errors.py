# SPDX-License-Identifier: GPL-2.0-only
"""What a set reads with a wrong checksum is counted by structure, also when nothing is lost by it."""

from pathlib import Path

from bcached.runtime.lifetime import running
from bcached.units import SECTOR_BYTES
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.living_set import fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time


async def errors_after(folder: Path, device: MemoryDevice) -> dict[str, int]:
    async with running([MemoryDevice.holding(device.image())], set_options(folder)) as cache_set:
        return cache_set.statistics().checksum_errors


async def used_device(folder: Path) -> MemoryDevice:
    (device,) = devices = await fresh_members([600], 4 << 10)
    async with running(devices, set_options(folder)) as cache_set:
        await cache_set.volumes.create("volume")
    return device


@in_virtual_time
async def test_a_sound_set_has_none(tmp_path: Path) -> None:
    assert await errors_after(tmp_path, await used_device(tmp_path)) == {}


@in_virtual_time
async def test_a_superblock_that_its_copy_replaces_counts(tmp_path: Path) -> None:
    device = await used_device(tmp_path)
    image = bytearray(device.image())
    image[8 * SECTOR_BYTES + 64] ^= 1
    damaged = MemoryDevice.holding(bytes(image))
    assert await errors_after(tmp_path, damaged) == {"superblock": 1}
