# SPDX-License-Identifier: GPL-2.0-only
"""The superblock and its copy: one is whole at every instant, and neither hides what somebody wrote."""

from dataclasses import replace

import pytest

from bcached.errors import BadChecksum, BadField, BadMagic, FormatError
from bcached.format.superblock import Superblock
from bcached.store.superblock_slot import read_superblock, repair_superblock, write_superblock
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.recording_device import RecordingDevice
from instruments.samples.format_samples import sealed, with_field
from instruments.samples.used_set import COPY_AT, SUPERBLOCK_AT, Image, fresh_devices

MAIN, COPY = slice(SUPERBLOCK_AT, COPY_AT), slice(COPY_AT, COPY_AT + 4096)


async def device_and_superblock() -> tuple[MemoryDevice, Superblock]:
    """A fresh device with a superblock in both places."""
    (device,) = await fresh_devices(530)
    superblock = replace(await read_superblock(device), seq=7)
    await write_superblock(device, superblock)
    return device, superblock


async def test_it_stands_in_its_place_and_in_that_of_its_copy() -> None:
    device, superblock = await device_and_superblock()
    assert device.image()[MAIN] == device.image()[COPY] == superblock.pack()


async def test_the_copy_is_durable_before_the_superblock_is_written_and_that_before_the_end() -> None:
    device, superblock = await device_and_superblock()
    recorder = await RecordingDevice.over(device)
    raw = replace(superblock, seq=8).pack()
    await write_superblock(recorder, replace(superblock, seq=8))
    copy, _, main, _ = recorder.log.entries
    assert (copy.offset, main.offset) == (COPY_AT, SUPERBLOCK_AT)
    assert recorder.log.durable_bytes(COPY_AT, 4096, main.issued) == raw
    assert recorder.log.durable_bytes(SUPERBLOCK_AT, 4096) == raw


async def test_where_the_layout_has_no_room_no_copy_is_written_and_none_is_read() -> None:
    device, superblock = await device_and_superblock()
    tight = replace(superblock, first_bucket=2, journal_buckets=())
    before = device.image()[COPY]
    await write_superblock(device, tight)
    assert device.image()[COPY] == before
    device.disk.contents[COPY] = tight.pack()
    device.disk.contents[SUPERBLOCK_AT + 200] ^= 1
    with pytest.raises(BadChecksum):
        await read_superblock(device)


@pytest.mark.parametrize("at", [0, 8, 16, 60, 206, 207])
async def test_a_damaged_one_is_read_from_its_copy(at: int) -> None:
    device, superblock = await device_and_superblock()
    device.disk.contents[SUPERBLOCK_AT + at] ^= 0xFF
    assert await read_superblock(device) == superblock


async def test_garbage_in_its_place_counts_as_damage() -> None:
    device, superblock = await device_and_superblock()
    device.disk.contents[SUPERBLOCK_AT : SUPERBLOCK_AT + 512] = b"\xa5" * 512
    assert await read_superblock(device) == superblock


async def test_a_wiped_magic_is_no_damage_but_somebody_s_will() -> None:
    device, _ = await device_and_superblock()
    device.disk.contents[SUPERBLOCK_AT + 24 : SUPERBLOCK_AT + 40] = bytes(16)
    with pytest.raises(BadMagic):
        await read_superblock(device)


async def test_what_somebody_else_put_on_the_device_is_not_undone_by_the_copy() -> None:
    device, _ = await device_and_superblock()
    device.disk.contents[MAIN] = b"\xa5" * 4096
    device.disk.contents[1080] = 0x53  # where ext4 has its magic
    with pytest.raises(BadField, match="offset"):
        await read_superblock(device)


async def test_one_that_is_whole_and_refused_is_not_passed_over_for_its_copy() -> None:
    device, _ = await device_and_superblock()
    changed = with_field(device.image()[MAIN], 104, "Q", 5 << 2)
    device.disk.contents[MAIN] = sealed(changed, 208)
    with pytest.raises(BadField, match="replacement 5"):
        await read_superblock(device)


async def test_when_both_are_damaged_the_first_one_s_damage_is_told() -> None:
    device, _ = await device_and_superblock()
    device.disk.contents[SUPERBLOCK_AT + 60] ^= 1
    device.disk.contents[COPY_AT + 8] ^= 1
    with pytest.raises(BadChecksum, match="sector 8:"):
        await read_superblock(device)


async def test_mending_writes_what_is_damaged_durably_and_nothing_else() -> None:
    device, superblock = await device_and_superblock()
    recorder = await RecordingDevice.over(device)
    await repair_superblock(recorder, superblock)
    assert recorder.log.entries == []
    device.disk.contents[SUPERBLOCK_AT] ^= 1
    recorder = await RecordingDevice.over(device)
    await repair_superblock(recorder, superblock)
    assert recorder.log.durable_bytes(SUPERBLOCK_AT, 4096) == superblock.pack()
    assert [entry.kind for entry in recorder.log.entries] == ["write", "flush"]


@pytest.mark.parametrize("size_bytes", [512, 4096, 7680])
async def test_a_device_that_ends_before_it_is_none_of_ours(size_bytes: int) -> None:
    image = await Image.used()
    with pytest.raises(FormatError, match="its end"):
        await read_superblock(MemoryDevice.holding(image.raw[:size_bytes]))
