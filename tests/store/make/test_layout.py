# SPDX-License-Identifier: GPL-2.0-only
"""Planning and writing layouts, in memory; what the tools and the file system say is in test_make_request."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from bcached.device.signatures import Signature
from bcached.errors import DeviceError, DeviceRefused, FormatError, GeometryRefused
from bcached.format.superblock import FEATURE_INCOMPAT_BCACHED_SET, Superblock
from bcached.set_state import Replacement
from bcached.store.make.layout import (
    Layout,
    erase_signatures,
    lay_out,
    plan_set,
    refuse_duplicates,
    refuse_signatures,
)
from bcached.store.superblock_slot import read_superblock
from instruments.devices.failing_device import FailingDevice, Fault
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.recording_device import RecordingDevice

BUCKET = 4096
MIB = 1 << 20
SET_UUID = UUID(int=0xFEED)
GOLDEN = Path(__file__).parents[2] / "format" / "golden"


def device(size_bytes: int = 4 * MIB, path: str = "memory", logical_block_bytes: int = 512) -> MemoryDevice:
    return MemoryDevice(size_bytes, logical_block_bytes, path=path)


def dirty(device: MemoryDevice) -> MemoryDevice:
    """The device, full of what was there before."""
    device.disk.contents[:] = b"\xa5" * device.size_bytes
    return device


def plan_one(device: MemoryDevice) -> Layout:
    return plan_set([device], bucket_bytes=BUCKET, block_bytes=512, set_uuid=SET_UUID)


def as_golden(superblock: Superblock, name: str) -> bool:
    """Whether the superblock is the golden one, its uuids apart."""
    golden = (GOLDEN / f"superblock-make-bcache-{name}.bin").read_bytes()
    alike = replace(superblock, uuid=UUID(bytes=golden[40:56]), set_uuid=UUID(bytes=golden[56:72]))
    return alike.pack() == golden.ljust(4096, b"\0")


@pytest.mark.parametrize(
    ("name", "bucket_bytes", "block_bytes", "size_bytes"),
    [
        ("4k-512", 4096, 512, 600 * 4096),
        ("4k-4k", 4096, 4096, 3 * MIB),
        ("8k-1k", 8192, 1024, 5 * MIB),
        ("16k-4k", 16384, 4096, 9 * MIB),
        ("64k-2k", 65536, 2048, 64 * MIB),
        ("512k-4k", 512 << 10, 4096, 300 * MIB),
        ("1M-512", MIB, 512, 1024 * MIB + 777 * 512),
        ("4M-4k", 4 * MIB, 4096, 3072 * MIB),
        ("16M-4k", 16 * MIB, 4096, 10240 * MIB),
    ],
)
def test_one_device_is_laid_out_as_make_bcache_does(
    name: str, bucket_bytes: int, block_bytes: int, size_bytes: int
) -> None:
    layout = plan_set([device(size_bytes)], bucket_bytes=bucket_bytes, block_bytes=block_bytes)
    assert as_golden(layout.members[0].superblock, name)


def test_the_default_bucket_is_make_bcache_s_and_the_block_is_the_largest_there_is() -> None:
    devices = [device(600 * MIB, "a"), device(600 * MIB, "b", 2048), device(600 * MIB, "c", 1024)]
    layout = plan_set(devices)
    assert {member.superblock.bucket_sectors for member in layout.members} == {1024}
    assert {member.superblock.block_sectors for member in layout.members} == {4}


def test_policy_and_discard_are_in_the_superblock() -> None:
    layout = plan_set([device()], bucket_bytes=BUCKET, replacement=Replacement.RANDOM, discard=True)
    assert layout.members[0].superblock.replacement is Replacement.RANDOM
    assert layout.members[0].superblock.discard


def test_members_of_a_set_are_kept_from_the_kernel() -> None:
    devices = [device(4 * MIB, "a"), device(8 * MIB, "b"), device(5 * MIB, "c")]
    members = plan_set(devices, bucket_bytes=BUCKET, set_uuid=SET_UUID).members
    superblocks = [member.superblock for member in members]
    assert [(s.version, s.feature_incompat) for s in superblocks] == [(5, FEATURE_INCOMPAT_BCACHED_SET)] * 3
    assert [(s.member, s.members) for s in superblocks] == [(0, 3), (1, 3), (2, 3)]
    assert [s.bucket_count for s in superblocks] == [1024, 2048, 1280]
    assert {s.set_uuid for s in superblocks} == {SET_UUID}
    assert len({s.uuid for s in superblocks}) == 3


def test_a_set_has_at_most_eight_devices() -> None:
    devices = [device(4 * MIB, f"d{number}") for number in range(9)]
    assert len(plan_set(devices[:8], bucket_bytes=BUCKET).members) == 8
    with pytest.raises(DeviceRefused, match="d8: a set has at most 8 devices, this one would be number 9"):
        plan_set(devices, bucket_bytes=BUCKET)


def test_one_device_that_does_not_fit_refuses_the_set() -> None:
    with pytest.raises(GeometryRefused, match="b: 2M has 512 buckets of 4k, and at least 513 are needed"):
        plan_set([device(4 * MIB, "a"), device(2 * MIB, "b")], bucket_bytes=BUCKET)
    with pytest.raises(GeometryRefused, match="b: a block of 512 is smaller"):
        plan_set([device(4 * MIB, "a"), device(4 * MIB, "b", 4096)], bucket_bytes=BUCKET, block_bytes=512)


async def test_only_head_and_journal_are_written() -> None:
    target = dirty(device())
    layout = plan_one(target)
    await lay_out(layout, [target])
    contents = target.image()
    assert contents[:4096] == bytes(4096)
    assert contents[4096:8192] == layout.members[0].superblock.pack()
    assert contents[8192 : (3 + 8) * BUCKET] == bytes((3 + 8) * BUCKET - 8192)
    assert set(contents[(3 + 8) * BUCKET :]) == {0xA5}


async def test_what_was_laid_out_is_read_again() -> None:
    devices = [dirty(device(4 * MIB, "a")), dirty(device(6 * MIB, "b"))]
    layout = plan_set(devices, bucket_bytes=BUCKET, block_bytes=512)
    await lay_out(layout, devices)
    found = [await read_superblock(one) for one in devices]
    assert found == [member.superblock for member in layout.members]


async def test_a_superblock_is_written_only_when_all_journals_are_durably_zero() -> None:
    recorders = [await RecordingDevice.over(dirty(device(4 * MIB, name))) for name in "ab"]
    layout = plan_set(recorders, bucket_bytes=BUCKET, block_bytes=512)
    await lay_out(layout, recorders)
    for recorder, member in zip(recorders, layout.members, strict=True):
        raw = member.superblock.pack()
        written = next(e for e in recorder.log.entries if e.kind == "write" and e.data == raw)
        buckets = member.geometry.journal_buckets
        begin, length = buckets.start * BUCKET, len(buckets) * BUCKET
        assert recorder.log.durable_bytes(begin, length, written.issued) == bytes(length)
        assert recorder.log.durable_bytes(0, 12288, written.issued) == bytes(12288)
        assert recorder.log.durable_bytes(4096, 4096) == raw


async def test_power_cut_at_any_moment_leaves_no_half_made_member() -> None:
    before = device()
    old = plan_one(before)
    await lay_out(old, [before])
    recorder = await RecordingDevice.over(before)
    new = plan_one(before)
    await lay_out(new, [recorder])
    whole = {old.members[0].superblock, new.members[0].superblock}
    for position in range(recorder.log.position + 1):
        for choices in recorder.log.possible_bytes(4096, 512, position):
            for content in choices:
                assert content is not None
                image = MemoryDevice.holding(bytes(4096) + content.ljust(4 * MIB - 4096, b"\0"))
                try:
                    assert await read_superblock(image) in whole
                except FormatError:
                    assert content == bytes(512)


async def test_a_device_that_fails_gets_no_superblock() -> None:
    for fault in (Fault("write", 2), Fault("flush", 1), Fault("flush", 2)):
        inner = dirty(device())
        failing = FailingDevice(inner, fault)
        with pytest.raises(DeviceError):
            await lay_out(plan_one(inner), [failing])
        with pytest.raises(FormatError):
            await read_superblock(inner)


async def test_erasing_takes_the_blocks_of_the_magic_bytes_and_no_more() -> None:
    target = dirty(device(logical_block_bytes=4096))
    found = (Signature("ext4", 1080, 2), Signature("zfs_member", 8190, 4), Signature("told by name alone"))
    await erase_signatures(target, found)
    contents = target.image()
    assert contents[:12288] == bytes(12288)
    assert set(contents[12288:]) == {0xA5}


def test_signatures_are_refused_by_name_and_place() -> None:
    refuse_signatures("here", ())
    with pytest.raises(DeviceRefused, match="here: has a signature already: ext4 at byte 1080, gpt; --force"):
        refuse_signatures("here", (Signature("ext4", 1080, 2), Signature("gpt")))


def test_a_device_given_twice_is_refused_whatever_it_is_called(tmp_path: Path) -> None:
    image, other = tmp_path / "image", tmp_path / "other"
    image.write_bytes(b"")
    other.write_bytes(b"")
    (tmp_path / "link").symlink_to(image)
    (tmp_path / "hard").hardlink_to(image)
    refuse_duplicates([str(image), str(other), str(tmp_path / "missing")])
    for again in (image, tmp_path / "link", tmp_path / "hard", f"{tmp_path}/./image"):
        with pytest.raises(DeviceRefused, match="given twice, the first time as"):
            refuse_duplicates([str(image), str(other), str(again)])
    with pytest.raises(DeviceRefused, match="given twice"):
        refuse_duplicates([str(tmp_path / "missing"), str(tmp_path / "missing")])
