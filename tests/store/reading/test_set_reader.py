# SPDX-License-Identifier: GPL-2.0-only
"""Reading a set: when it is fresh, when it is in use, and that reading leaves no trace but a flush."""

import pytest

from bcached.errors import SetRefused
from bcached.format.superblock import Superblock
from bcached.keys import Key, Pointer
from bcached.store.reading.set_reader import read_set
from bcached.store.superblock_slot import read_superblock
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.recording_device import RecordingDevice
from instruments.samples.format_samples import sealed, with_field
from instruments.samples.used_set import COPY_AT, SUPERBLOCK_AT, Image, fresh_devices, used_devices


def spoil(device: MemoryDevice, offset: int, layout: str, value: int) -> None:
    """Another value in the superblock."""
    raw = with_field(bytes(device.disk.contents[SUPERBLOCK_AT:COPY_AT]), offset, layout, value)
    count = int.from_bytes(raw[206:208], "little")
    device.disk.contents[SUPERBLOCK_AT:COPY_AT] = sealed(raw, 208 + 8 * count)


async def test_a_set_just_made_is_fresh_and_one_after_its_first_run_is_not() -> None:
    assert (await read_set(await fresh_devices(530, 560))).contents is None
    found = await read_set(await used_devices(530, 560, entries=4))
    assert found.contents is not None
    assert found.contents.newest.seq == 4
    assert [len(chain.gens) for chain in found.contents.chains] == [530, 560]
    assert found.contents.uuids == [None] * 32


async def test_members_may_be_given_in_any_order() -> None:
    first, second = await used_devices(530, 560)
    found = await read_set([second, first])
    assert [member.superblock.member for member in found.members] == [0, 1]
    assert [member.path for member in found.members] == ["d0", "d1"]


async def test_reading_writes_nothing_and_flushes_every_member_before_it_trusts_what_it_read() -> None:
    devices = await used_devices(530, 560)
    recorders = [await RecordingDevice.over(device) for device in devices]
    await read_set(recorders)
    assert [[entry.kind for entry in recorder.log.entries] for recorder in recorders] == [["flush"]] * 2
    fresh = [await RecordingDevice.over(device) for device in await fresh_devices(530, 530)]
    await read_set(fresh)
    assert [recorder.log.entries for recorder in fresh] == [[], []]


async def test_a_first_run_that_reached_only_some_members_is_done_again() -> None:
    devices = await used_devices(530, 530, 530, entries=1)
    spoil(devices[1], 104, "Q", 0)
    assert (await read_set(devices)).contents is None


async def test_a_set_in_use_is_not_made_fresh_by_one_member_that_is() -> None:
    devices = await used_devices(530, 530, entries=2)
    spoil(devices[1], 104, "Q", 0)
    with pytest.raises(SetRefused, match=r"d1: is freshly made, .* are in use \(journal entry 2\)"):
        await read_set(devices)


async def test_a_table_of_the_old_form_is_read() -> None:
    image = await Image.used()
    at = image.newest.uuid_bucket.pointers[0].sector * 512
    image.put(at, b"u" * 16 + b"old".ljust(32, b"\0") + bytes(16))
    image.write_entry(version=0)
    found = await read_set([image.device()])
    assert found.contents is not None
    assert [entry.label for entry in found.contents.uuids if entry] == ["old"]


async def test_a_kernel_s_superblock_versions_are_read() -> None:
    image = await Image.used()
    for version in (0, 3, 5):
        image.spoil_superblock(16, "Q", version)
        superblock: Superblock = await read_superblock(image.device())
        assert superblock.version == version
        assert (await read_set([image.device()])).contents is not None


async def test_the_newest_entry_decides_where_everything_is() -> None:
    image = await Image.used()
    there = image.newest.uuid_bucket.pointers[0]
    copy = Pointer(0, 400 * 8, 1)
    image.put(400 * 4096, bytes(image.raw[there.sector * 512 :][:4096]))
    image.put(400 * 4096, b"u" * 16)
    key = image.newest.uuid_bucket
    image.write_entry(uuid_bucket=Key(key.inode, key.offset, key.sectors, False, (copy,)))
    found = await read_set([image.device()])
    assert found.contents is not None
    assert found.contents.uuids[0] is not None
