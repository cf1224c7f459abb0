# SPDX-License-Identifier: GPL-2.0-only
"""An opening goes on without a newest journal entry that is damaged, as the kernel does, but says so."""

from pathlib import Path

from bcached.runtime.lifetime import running
from bcached.store.check.checker import check_set
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.image_builder import ImageBuilder
from instruments.samples.living_set import set_options
from instruments.time.virtual_time import in_virtual_time


async def warnings_of(device: MemoryDevice, folder: Path) -> list[str]:
    warned: list[str] = []
    async with running([device], set_options(folder), warn=warned.append) as cache_set:
        assert cache_set.verify() == []
    return warned


@in_virtual_time
async def test_an_opening_warns_once_of_a_damaged_newest_entry(tmp_path: Path) -> None:
    builder = ImageBuilder().finish(journal=[[], []])
    builder.write(builder.entries[2][1] + 32, b"\x55" * 8)
    (device,) = builder.devices()
    (warning,) = await warnings_of(device, tmp_path)
    assert "entry 2 is damaged, so entry 1 counts as the newest" in warning
    assert warning.endswith("lost: the changes in it")
    assert (await check_set([MemoryDevice.holding(device.image())])).findings.sound
    assert await warnings_of(device.reopen(), tmp_path) == []


@in_virtual_time
async def test_an_interrupted_entry_is_no_reason_for_a_warning(tmp_path: Path) -> None:
    builder = ImageBuilder()
    builder.finish(journal=[[], [builder.extent(0, 8 * n, 8) for n in range(30)]])
    builder.tear_entry(2)
    assert await warnings_of(builder.devices()[0], tmp_path) == []
