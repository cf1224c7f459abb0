# SPDX-License-Identifier: GPL-2.0-only
"""Laying out real files and loop devices, checked with the usual tools where they are installed."""

import fcntl
import shutil
import struct
import subprocess
from pathlib import Path
from uuid import UUID
from zlib import crc32

import pytest

from bcached.device import FileDevice
from bcached.device.signatures import Signature, find_signatures
from bcached.errors import DeviceError, DeviceRefused, GeometryRefused
from bcached.format.superblock import Superblock
from bcached.set_state import Replacement
from bcached.store.make.request import MakeRequest, make_set
from bcached.store.superblock_slot import read_superblock
from instruments.devices.loop_device import loop_device

MIB = 1 << 20
TOOLS = "/usr/sbin:/sbin:/usr/bin:/bin"
PARTITION_TABLE = bytes(446) + bytes.fromhex("00000000830000000008000000100000") + bytes(48) + b"\x55\xaa"


def request(*paths: Path | str, **fields: object) -> MakeRequest:
    return MakeRequest(paths=tuple(map(str, paths)), **{"bucket_bytes": 4096, **fields})  # type: ignore[arg-type]


def image(path: Path, size_bytes: int = 4 * MIB, head: bytes = b"") -> Path:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size_bytes)
    return path


def tool(name: str, *arguments: str | Path) -> str:
    program = shutil.which(name, path=TOOLS)
    if program is None:
        pytest.skip(f"{name} is not installed")
    return subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout


async def superblock_of(path: Path | str) -> Superblock:
    device = await FileDevice.open(str(path), writable=False)
    try:
        return await read_superblock(device)
    finally:
        await device.close()


async def test_an_image_is_made_and_laid_out(tmp_path: Path) -> None:
    path = tmp_path / "image"
    outcome = await make_set(request(path, image_bytes=4 * MIB, set_uuid=UUID(int=7)))
    found = await superblock_of(path)
    assert found == outcome.layout.members[0].superblock
    assert (found.set_uuid, found.bucket_count, found.block_sectors) == (UUID(int=7), 1024, 8)
    assert path.stat().st_size == 4 * MIB


async def test_an_image_that_is_there_is_laid_out_with_blocks_of_a_page(tmp_path: Path) -> None:
    path = image(tmp_path / "image")
    await make_set(request(path, replacement=Replacement.FIFO, discard=True))
    found = await superblock_of(path)
    assert (found.block_sectors, found.replacement, found.discard) == (8, Replacement.FIFO, True)


async def test_bcache_super_show_and_blkid_agree(tmp_path: Path) -> None:
    path = tmp_path / "image"
    outcome = await make_set(request(path, image_bytes=4 * MIB))
    superblock = outcome.layout.members[0].superblock
    shown = tool("bcache-super-show", path)
    assert "sb.magic\t\tok" in shown
    assert shown.count("[match]") == 2
    assert f"cset.uuid\t\t{superblock.set_uuid}" in shown
    assert f'UUID="{superblock.uuid}" TYPE="bcache"' in tool("blkid", "-p", path)


async def test_make_bcache_and_we_write_the_same_but_for_uuids(tmp_path: Path) -> None:
    theirs, ours = image(tmp_path / "theirs", 300 * MIB), tmp_path / "ours"
    tool("make-bcache", "-C", "--discard", theirs)
    await make_set(request(ours, image_bytes=300 * MIB, bucket_bytes=512 << 10, discard=True))
    raw = [path.read_bytes()[: 2 * MIB] for path in (theirs, ours)]
    blank = [bytes(40) + head[4096 + 72 :] for head in raw]
    assert raw[0][:4096] == raw[1][:4096]
    assert blank[0] == blank[1]
    assert raw[0][4104:4136] == raw[1][4104:4136]


async def test_several_images_make_one_set(tmp_path: Path) -> None:
    paths = [image(tmp_path / "a", 4 * MIB), image(tmp_path / "b", 6 * MIB)]
    await make_set(request(*paths))
    found = [await superblock_of(path) for path in paths]
    assert [(s.member, s.members, s.version) for s in found] == [(0, 2, 5), (1, 2, 5)]
    assert "5 [unknown]" in tool("bcache-super-show", paths[1])


@pytest.mark.parametrize("size_bytes", [None, 4 * MIB])
async def test_a_dry_run_changes_nothing(tmp_path: Path, size_bytes: int | None) -> None:
    path = tmp_path / "image"
    if size_bytes is None:
        image(path)
    await make_set(request(path, image_bytes=size_bytes, dry_run=True))
    assert not path.exists() if size_bytes else path.read_bytes() == bytes(4 * MIB)


# Refusals. Each leaves everything as it was.


async def test_a_signature_is_refused_on_any_device_before_anything_is_written_on_one(tmp_path: Path) -> None:
    clean, taken = image(tmp_path / "clean"), image(tmp_path / "taken", head=PARTITION_TABLE)
    with pytest.raises(
        DeviceRefused, match="taken: has a signature already: dos at byte 510; --force erases it"
    ):
        await make_set(request(clean, taken))
    assert clean.read_bytes() == bytes(4 * MIB)
    assert taken.read_bytes()[:512] == PARTITION_TABLE


async def test_a_bcache_device_is_refused_too_unless_it_may_be_wiped(tmp_path: Path) -> None:
    path = tmp_path / "image"
    await make_set(request(path, image_bytes=4 * MIB))
    before = await superblock_of(path)
    with pytest.raises(DeviceRefused, match="has a signature already: bcache at byte 4120"):
        await make_set(request(path))
    assert await superblock_of(path) == before
    await make_set(request(path, wipe_bcache=True))
    assert (await superblock_of(path)).set_uuid != before.set_uuid


async def test_permission_to_wipe_bcache_covers_nothing_else(tmp_path: Path) -> None:
    path = image(tmp_path / "image", head=PARTITION_TABLE)
    with pytest.raises(DeviceRefused, match="dos at byte 510"):
        await make_set(request(path, wipe_bcache=True))


async def test_force_erases_what_is_there(tmp_path: Path) -> None:
    path = image(tmp_path / "image", head=PARTITION_TABLE)
    outcome = await make_set(request(path, force=True))
    assert outcome.erased == {str(path): (Signature("dos", 510, 2),)}
    assert [signature.name for signature in find_signatures(str(path))] == ["bcache"]


def gpt_header(here: int, other: int, entries: int, last: int) -> bytes:
    """A header of an empty GUID partition table, in block here; its entries begin at block entries."""
    head = struct.pack("<QII", 0x5452415020494645, 0x10000, 92)
    body = struct.pack("<IQQQQ16sQII", 0, here, other, 34, last - 33, bytes(range(16)), entries, 128, 128)
    body += crc32(bytes(128 * 128)).to_bytes(4, "little")
    return head + crc32(head + bytes(4) + body).to_bytes(4, "little") + body


async def test_force_erases_the_backup_at_the_end_too(tmp_path: Path) -> None:
    last = 64 * MIB // 512 - 1
    path = image(tmp_path / "image", 64 * MIB, bytes(512) + gpt_header(1, last, 2, last))
    with path.open("r+b") as file:
        file.seek(last * 512)
        file.write(gpt_header(last, 1, last - 32, last))
    assert find_signatures(str(path)) == (Signature("gpt", 512, 8),)
    await make_set(request(path, bucket_bytes=65536, force=True))
    assert [signature.name for signature in find_signatures(str(path))] == ["bcache"]
    with path.open("rb") as file:
        file.seek(last * 512)
        assert file.read(512) == bytes(512)


@pytest.mark.parametrize("force", [False, True])
async def test_a_device_in_use_is_refused_even_by_force(tmp_path: Path, force: bool) -> None:
    path = image(tmp_path / "image")
    with path.open("rb") as user:
        fcntl.flock(user, fcntl.LOCK_SH)
        with pytest.raises(DeviceRefused, match=r"in use: .*process.* has locked it"):
            await make_set(request(path, force=force))
        with pytest.raises(DeviceRefused, match=r"in use|exists already"):
            await make_set(request(path, force=force, image_bytes=8 * MIB))
    assert path.read_bytes() == bytes(4 * MIB)


async def test_an_image_is_replaced_by_force_alone(tmp_path: Path) -> None:
    path = image(tmp_path / "image", 100, b"precious")
    with pytest.raises(DeviceRefused, match="exists already; --force replaces it, and what it holds is lost"):
        await make_set(request(path, image_bytes=4 * MIB))
    assert path.read_bytes() == b"precious".ljust(100, b"\0")
    await make_set(request(path, image_bytes=4 * MIB, force=True))
    assert (await superblock_of(path)).bucket_count == 1024


async def test_only_images_are_made_by_size(tmp_path: Path) -> None:
    with pytest.raises(DeviceRefused, match="exists and is no image file; --size is for making one"):
        await make_set(request(tmp_path, image_bytes=4 * MIB, force=True))


async def test_what_is_missing_is_told_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DeviceRefused, match="no such file or device; --size SIZE makes an image file"):
        await make_set(request(tmp_path / "missing"))


async def test_a_size_that_does_not_do_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(GeometryRefused, match="256 buckets of 4k, and at least 513 are needed"):
        await make_set(request(tmp_path / "image", image_bytes=MIB))
    assert list(tmp_path.iterdir()) == []


async def test_when_one_image_cannot_be_made_the_others_go(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot create it: No such file or directory"):
        await make_set(request(tmp_path / "a", tmp_path / "nowhere" / "b", image_bytes=4 * MIB))
    assert list(tmp_path.iterdir()) == []


async def test_a_device_given_twice_is_refused(tmp_path: Path) -> None:
    path = image(tmp_path / "image")
    with pytest.raises(DeviceRefused, match="given twice"):
        await make_set(request(path, path))


# Block devices.


@pytest.mark.root
@pytest.mark.parametrize("sector_bytes", [512, 4096])
async def test_a_block_device_has_blocks_of_its_logical_size(tmp_path: Path, sector_bytes: int) -> None:
    with loop_device(image(tmp_path / "image"), sector_bytes) as path:
        await make_set(request(path))
        found = await superblock_of(path)
        assert found.block_sectors == sector_bytes // 512
        assert [signature.name for signature in find_signatures(path)] == ["bcache"]


@pytest.mark.root
async def test_a_block_smaller_than_the_device_s_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(GeometryRefused, match=r"a block of 512 is smaller than .*: use 4k")
    with loop_device(image(tmp_path / "image"), 4096) as path, refused:
        await make_set(request(path, block_bytes=512))


@pytest.mark.root
async def test_a_mounted_device_is_refused_even_by_force(tmp_path: Path) -> None:
    backing = image(tmp_path / "image", 16 * MIB)
    tool("mke2fs", "-q", "-t", "ext2", backing)
    mountpoint = tmp_path / "mounted"
    mountpoint.mkdir()
    with loop_device(backing) as path:
        mounted = subprocess.run(["mount", path, mountpoint], check=False, capture_output=True, text=True)
        if mounted.returncode != 0:
            pytest.skip(f"cannot mount ext2: {mounted.stderr.strip()}")
        try:
            with pytest.raises(DeviceRefused, match="in use: mounted on"):
                await make_set(request(path, force=True))
        finally:
            subprocess.run(["umount", mountpoint], check=True)
        assert [signature.name for signature in find_signatures(path)] == ["ext2"]


@pytest.mark.root
async def test_size_is_not_for_block_devices(tmp_path: Path) -> None:
    refused = pytest.raises(DeviceRefused, match="exists and is no image file")
    with loop_device(image(tmp_path / "image")) as path, refused:
        await make_set(request(path, image_bytes=4 * MIB, force=True))
