# SPDX-License-Identifier: GPL-2.0-only
"""A clone: the same set, or no set at all as long as it is not whole."""

from random import Random

import pytest

from bcached.device.block_device import BlockDevice, BytesLike
from bcached.errors import DeviceError, DeviceRefused, FormatError
from bcached.store.check.checker import check_set
from bcached.store.clone.clone import Clone, Copied, bytes_needed, refuse_unfit
from bcached.store.clone.live_areas import live_areas
from bcached.store.superblock_slot import read_superblock
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.passing_device import PassingDevice
from instruments.devices.recording_device import RecordingDevice
from instruments.samples.image_builder import ImageBuilder, two_levels
from instruments.samples.kernel_images import kernel_image
from instruments.samples.live_data import live_data

SMALL = {"bucket_sectors": 16, "block_sectors": 8}


async def cloned(devices: list[MemoryDevice], target: BlockDevice, *, member: int = 0) -> Copied:
    checked = await check_set(devices)
    source = checked.members[member]
    return await Clone(source, live_areas(checked, member), target).run(verify=True)


@pytest.mark.parametrize("name", ["clean", "full-lru"])
async def test_a_clone_of_a_kernels_set_holds_the_same(name: str) -> None:
    device = kernel_image(name).device()
    before = device.image()
    target = MemoryDevice(device.size_bytes + (1 << 20))
    target.disk.contents[:] = Random(1).randbytes(target.size_bytes)
    done = await cloned([device], target)
    assert device.image() == before, "the source was written to"
    assert done.verified_sectors == done.copied_sectors > done.equal_sectors
    checked, original = await check_set([target]), await check_set([device])
    assert checked.findings.sound
    assert (checked.censuses[0].gens_on_disk == original.censuses[0].gens_on_disk).all()
    assert await live_data([target], checked) == await live_data([device], original)
    assert await read_superblock(target) == await read_superblock(device)


@pytest.mark.parametrize("member", [0, 1])
async def test_a_clone_takes_the_place_of_one_of_several_members(member: int) -> None:
    builder = ImageBuilder(members=2, **SMALL)
    root, _ = two_levels(builder)
    builder.finish(root, 1, [[builder.extent(1, 0, 8, dirty=True, member=1)]])
    devices = builder.devices()
    target = MemoryDevice(devices[0].size_bytes)
    await cloned(devices, target, member=member)
    replaced = [target if number == member else device for number, device in enumerate(devices)]
    checked = await check_set(replaced)
    assert checked.findings.sound
    assert await live_data(replaced, checked) == await live_data(devices)


async def test_a_cut_leaves_no_cache_device_or_a_whole_one() -> None:
    builder = ImageBuilder(**SMALL)
    root, _ = two_levels(builder)
    (device,) = builder.finish(root, 1).devices()
    whole = await live_data([device])
    target = await RecordingDevice.over(MemoryDevice(device.size_bytes))
    await cloned([device], target)
    log, seen = target.log, set()
    for position in range(log.position + 1):
        copy = MemoryDevice.holding(log.image_after_cut(Random(position), position))
        try:
            await read_superblock(copy)
        except FormatError:
            seen.add("none")
            continue
        seen.add("whole")
        checked = await check_set([copy])
        assert checked.findings.sound, position
        assert await live_data([copy], checked) == whole
    assert seen == {"none", "whole"}


async def test_an_interrupted_clone_continues() -> None:
    builder = ImageBuilder(**SMALL)
    root, _ = two_levels(builder)
    (device,) = builder.finish(root, 1).devices()
    first = await RecordingDevice.over(MemoryDevice(device.size_bytes))
    await cloned([device], first)
    half = MemoryDevice.holding(first.log.image_after_cut(Random(0), first.log.position // 2))
    done = await cloned([device], half)
    assert done.equal_sectors > 0
    assert await live_data([half]) == await live_data([device])


class Forgetful(PassingDevice):
    """A device that loses one write in the middle."""

    count = 0

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        self.count += 1
        if self.count != 2:
            await super().write(offset, data, durable=durable)


async def test_what_reads_back_otherwise_is_an_error_and_no_cache_device() -> None:
    builder = ImageBuilder(**SMALL)
    root, _ = two_levels(builder)
    (device,) = builder.finish(root, 1).devices()
    target = Forgetful(MemoryDevice(device.size_bytes))
    with pytest.raises(DeviceError, match="not those that were written"):
        await cloned([device], target)
    with pytest.raises(FormatError):
        await read_superblock(target)


async def test_a_target_that_does_not_fit_is_refused() -> None:
    (device,) = ImageBuilder(block_sectors=1).finish().devices()
    source = (await check_set([device])).members[0]
    needed = bytes_needed(source)
    refuse_unfit(source, MemoryDevice(needed))
    with pytest.raises(DeviceRefused, match="640 buckets"):
        refuse_unfit(source, MemoryDevice(needed - 512))
    with pytest.raises(DeviceRefused, match="logical blocks are of 4k"):
        refuse_unfit(source, MemoryDevice(needed, 4096))
