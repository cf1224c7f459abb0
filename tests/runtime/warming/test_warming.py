# SPDX-License-Identifier: GPL-2.0-only
"""A run that a power cut ends anywhere leaves a sound set, in which what is cached is what is below."""

from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from bcached.errors import DeviceError
from bcached.format.backing_superblock import BackingSuperblock
from bcached.format.volume_owner import EntryOwner
from bcached.runtime.lifetime import running
from bcached.runtime.warming.attachment import BackingAttachment, attach
from bcached.runtime.warming.ranges import Range, cached_ranges, gaps
from bcached.runtime.warming.warming import Warming
from bcached.store.check.checker import check_set
from bcached.store.rescue.owner_of import BackingFound, read_backing
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.passing_device import PassingDevice
from instruments.devices.recording_device import RecordingDevice
from instruments.samples.damaged_kernel_image import backing_bytes
from instruments.samples.live_data import live_data
from instruments.samples.living_set import fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time

HOT = [Range(16, 16 + 2048), Range(4096, 4096 + 512)]


async def backing_device() -> tuple[MemoryDevice, BackingFound]:
    device = MemoryDevice.holding(backing_bytes("clean")[: 8 << 20])
    return device, await read_backing(device)


async def assert_right(cache: MemoryDevice, backing: MemoryDevice, uuid: UUID) -> int:
    """Returns how many sectors are cached, all of them the volume's and with its data."""
    checked = await check_set([cache])
    assert checked.findings.sound, checked.findings.listed
    if checked.is_fresh:
        return 0
    found = await live_data([cache], checked)
    assert not found or [volume.uuid for volume in checked.volumes if volume] == [uuid]
    for (_, place, is_dirty), raw in found.items():
        assert not is_dirty
        assert raw == await backing.read(place * 512, 512)
    return len(found)


@in_virtual_time
async def test_a_cut_anywhere_leaves_only_right_data(tmp_path: Path) -> None:
    (member,) = await fresh_members([600], bucket_bytes=16 << 10)
    backing, found = await backing_device()
    recorded = await RecordingDevice.over(member)
    async with running([recorded], set_options(tmp_path)) as cache_set:
        inode = await attach(cache_set, backing, found, BackingAttachment(None))
        run = Warming(cache_set, inode, backing)
        await run.fill(HOT)
    assert run.warmed_sectors == sum(each.sectors for each in HOT)
    log = recorded.log
    counts = []
    for position in [*range(0, log.position, max(log.position // 25, 1)), log.position]:
        copy = MemoryDevice.holding(log.image_after_cut(Random(position), position))
        counts.append(await assert_right(copy, backing, found.superblock.uuid))
    assert counts[0] == 0
    assert counts[-1] == run.warmed_sectors
    assert len(set(counts)) > 2


class FailingBelow(PassingDevice):
    """A device that cannot be read behind a byte."""

    async def read(self, offset: int, length: int) -> bytes:
        if offset + length > 4096 * 512:
            raise DeviceError(self.path, "cannot read")
        return await super().read(offset, length)


@in_virtual_time
async def test_what_is_left_after_an_error_is_brought_in_later(tmp_path: Path) -> None:
    (member,) = await fresh_members([600], bucket_bytes=16 << 10)
    backing, found = await backing_device()
    async with running([member], set_options(tmp_path)) as cache_set:
        inode = await attach(cache_set, backing, found, BackingAttachment(None))
        run = Warming(cache_set, inode, FailingBelow(backing))
        with pytest.raises(DeviceError):
            await run.fill(HOT)
    again = member.reopen()
    already = await assert_right(again, backing, found.superblock.uuid)
    missing = list(gaps(HOT, cached_ranges(await check_set([again]), inode), 8))
    assert sum(each.sectors for each in missing) == 2560 - already > 0
    async with running([again], set_options(tmp_path)) as cache_set:
        await Warming(cache_set, inode, backing).fill(missing)
    assert await assert_right(again.reopen(), backing, found.superblock.uuid) == 2560


async def test_attaching_makes_the_device_clean_and_of_this_set(tmp_path: Path) -> None:
    (member,) = await fresh_members([600], bucket_bytes=16 << 10)
    backing, found = await backing_device()
    async with running([member], set_options(tmp_path)) as cache_set:
        owner = EntryOwner(1000)
        former = await cache_set.volumes.create("disk", uuid=found.superblock.uuid, owner=owner)
        inode = await attach(cache_set, backing, found, BackingAttachment(None, former))
        assert cache_set.volumes.owners == {inode: owner}
        set_uuid = cache_set.set_uuid
    after: BackingSuperblock = (await read_backing(backing)).superblock
    assert (after.state_name, after.set_uuid, after.uuid) == ("clean", set_uuid, found.superblock.uuid)
