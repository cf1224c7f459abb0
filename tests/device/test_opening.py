# SPDX-License-Identifier: GPL-2.0-only
"""Who may open what: kinds of file, links, locks, and other users of the same bytes."""

import asyncio
import fcntl
import os
import re
import socket
import stat
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bcached.device import FileDevice
from bcached.device.claims.claim import OPEN_HERE
from bcached.device.claims.patience import Patience
from bcached.errors import DeviceError, DeviceRefused
from instruments.clients.stranger import NOBODY, stranger
from instruments.devices.loop_device import loop_device, mounted

SHORT = Patience(0.05)


@asynccontextmanager
async def opened(path: object, **how: Any) -> AsyncIterator[FileDevice]:
    device = await FileDevice.open(str(path), **how)
    try:
        yield device
    finally:
        await device.close()


def open_descriptors() -> set[str]:
    directory = "/proc/self/fd"
    names = {f"{directory}/{name}" for name in os.listdir(directory)}
    return {f"{name} {os.readlink(name)}" for name in names if os.path.lexists(name)}


async def refusal(path: object, **how: Any) -> str:
    """Why it is refused; an open that fails leaves no descriptor behind."""
    before = open_descriptors()
    with pytest.raises(DeviceRefused) as refused:
        await FileDevice.open(str(path), **how)
    assert open_descriptors() - before == set()  # what other tests left may be collected meanwhile
    assert str(refused.value).startswith(f"{path}: ")
    return refused.value.reason


def is_locked(reason: str) -> bool:
    return re.fullmatch(r"in use: process \d+ \(\w+, user \w+\) has locked it", reason) is not None


async def test_an_image_is_as_large_as_its_whole_sectors(image: Path) -> None:
    os.truncate(image, 10 * 512 + 100)
    async with opened(image) as device:
        assert (device.size_bytes, device.logical_block_bytes) == (5120, 512)
        assert await device.read(4608, 512) == bytes(512)


async def test_what_is_not_there_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot open it: No such file or directory"):
        await FileDevice.open(str(tmp_path / "absent"))
    assert not (tmp_path / "absent").exists()


async def test_an_empty_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"\x00" * 511)
    with pytest.raises(DeviceError, match="expected at least one block of 512 bytes, found 511 bytes"):
        await FileDevice.open(str(tmp_path / "empty"))


async def test_other_kinds_of_file_are_refused_and_not_even_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        found = {
            path: await refusal(path)  # opening the fifo for reading would hang
            for path in (tmp_path, tmp_path / "fifo", tmp_path / "socket", "/dev/null")
        }
    expected = ["directory", "fifo", "socket", "character device"]
    kinds = [f"expected a block device or an image file, found a {kind}" for kind in expected]
    assert list(found.values()) == kinds


async def test_a_symbolic_link_is_refused_outside_dev(image: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(image)
    assert "symbolic link" in await refusal(link)
    assert "symbolic link" in await refusal(link, writable=False, exclusive=False)
    async with opened(image):
        pass


async def test_a_link_in_a_place_under_dev_where_all_may_write_is_refused(image: Path) -> None:
    link = Path("/dev/shm") / f"bcached-link-{os.getpid()}"
    link.symlink_to("/dev/null")
    try:
        assert "symbolic link" in await refusal(link)
    finally:
        link.unlink()


@pytest.mark.root
async def test_a_link_under_dev_is_followed_to_a_device_and_not_out_of_dev(image: Path) -> None:
    with loop_device(image) as path:
        link = Path("/dev") / f"bcached-by-id-{os.getpid()}"
        link.symlink_to(path)
        try:
            async with opened(link) as device:
                assert (device.path, device.data_path) == (str(link), path)
                assert stat.S_ISBLK(os.stat(path).st_mode)
                assert "in use" in await refusal(path)
            link.unlink()
            link.symlink_to(image)
            assert f"followed only under /dev: name {image}" in await refusal(link)
        finally:
            link.unlink()


async def test_a_second_open_is_refused_until_the_first_is_closed(image: Path) -> None:
    async with opened(image):
        assert await refusal(image) == OPEN_HERE
    async with opened(image):
        pass


async def test_a_lock_of_another_program_of_ours_counts(image: Path) -> None:
    with stranger(image, "LOCK_SH", user=os.geteuid()):
        assert is_locked(await refusal(image, patience=SHORT))


async def test_a_device_can_be_looked_at_while_another_has_it(image: Path) -> None:
    async with opened(image) as owner, opened(image, writable=False, exclusive=False) as onlooker:
        await owner.write(4096, b"\x01" * 512)
        assert await onlooker.read(4096, 512) == b"\x01" * 512


async def test_an_onlooker_keeps_nobody_out(image: Path) -> None:
    async with opened(image, writable=False, exclusive=False), opened(image):
        pass


async def test_a_cancelled_open_leaves_nothing_open(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_go_on = threading.Event(), threading.Event()
    flock = fcntl.flock

    def slow_flock(descriptor: int, operation: int) -> None:
        begun.set()
        assert may_go_on.wait(30)
        flock(descriptor, operation)

    before = open_descriptors()
    monkeypatch.setattr(fcntl, "flock", slow_flock)
    opening = asyncio.ensure_future(FileDevice.open(str(image)))
    await asyncio.to_thread(begun.wait, 30)
    opening.cancel()
    await asyncio.sleep(0)
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert open_descriptors() - before == set()  # what other tests left may be collected meanwhile


@pytest.mark.root
@pytest.mark.parametrize("sector_bytes", [512, 4096])
async def test_a_block_device_tells_its_size_and_block(image: Path, sector_bytes: int) -> None:
    with loop_device(image, sector_bytes) as path:
        async with opened(path) as device:
            assert (device.size_bytes, device.logical_block_bytes) == (image.stat().st_size, sector_bytes)
            assert device.direct


@pytest.mark.root
async def test_a_block_device_is_opened_once(image: Path) -> None:
    with loop_device(image) as path:
        async with opened(path):
            assert await refusal(path) == OPEN_HERE
            async with opened(path, writable=False, exclusive=False):
                pass
        async with opened(path):
            pass


@pytest.mark.root
async def test_an_image_and_the_loop_device_on_it_are_one(image: Path) -> None:
    with loop_device(image) as path:
        assert await refusal(image) == f"in use through {path}"
        async with opened(path), opened(image, writable=False, exclusive=False):
            assert await refusal(image) == OPEN_HERE
    async with opened(image):
        with loop_device(image) as path:
            assert await refusal(path) == f"its backing file {image} is {OPEN_HERE}"
    async with opened(image):
        pass


@pytest.mark.root
async def test_an_image_and_its_bind_mount_are_one(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.touch()
    subprocess.run(["mount", "--bind", str(image), str(other)], check=True)
    try:
        async with opened(image):
            assert await refusal(other) == OPEN_HERE
    finally:
        subprocess.run(["umount", str(other)], check=True)


@pytest.mark.root
async def test_two_loop_devices_on_one_image_are_one(image: Path) -> None:
    with loop_device(image) as first, loop_device(image) as second:
        async with opened(first):
            assert await refusal(second) == f"its backing file {image} is {OPEN_HERE}"
        async with opened(second):
            pass


@pytest.mark.root
async def test_a_mounted_device_is_refused_with_its_mount_point(tmp_path: Path) -> None:
    image, mount_point = tmp_path / "image", tmp_path / "mount"
    mount_point.mkdir()
    image.write_bytes(b"")
    os.truncate(image, 16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    with loop_device(image) as path:
        subprocess.run(["mount", path, str(mount_point)], check=True)
        try:
            assert await refusal(path) == f"in use: mounted on {mount_point}"
        finally:
            subprocess.run(["umount", str(mount_point)], check=True)


@pytest.mark.root
async def test_an_image_on_a_drive_of_4096_byte_sectors_may_have_smaller_blocks(tmp_path: Path) -> None:
    drive, mount_point = tmp_path / "drive", tmp_path / "mount"
    mount_point.mkdir()
    drive.write_bytes(b"")
    os.truncate(drive, 32 << 20)
    with loop_device(drive, 4096) as path:
        subprocess.run(["mkfs.ext4", "-q", path], check=True)
        subprocess.run(["mount", path, str(mount_point)], check=True)
        try:
            image = mount_point / "image"
            image.write_bytes(b"")
            os.truncate(image, 1 << 20)
            async with opened(image) as device:
                assert not device.direct  # direct I/O would refuse the next line
                await device.write(512, b"\x01" * 512, durable=True)
                assert await device.read(0, 1536) == bytes(512) + b"\x01" * 512 + bytes(512)
        finally:
            subprocess.run(["umount", str(mount_point)], check=True)


@pytest.mark.root
async def test_a_file_system_without_direct_io_is_used_all_the_same(tmp_path: Path) -> None:
    with mounted("ramfs", tmp_path) as directory:
        image = directory / "image"
        image.write_bytes(bytes(8192))
        with pytest.raises(OSError, match="Invalid argument"):
            os.close(os.open(image, os.O_RDWR | os.O_DIRECT))
        async with opened(image) as device:
            assert not device.direct
            await device.write(4096, b"\x01" * 512, durable=True)
            assert await device.read(4096, 1024) == b"\x01" * 512 + bytes(512)


@pytest.mark.root
async def test_a_glance_of_udev_is_waited_out_and_a_lasting_lock_is_not(image: Path) -> None:
    with loop_device(image) as path, open(path, "rb") as onlooker:
        fcntl.flock(onlooker, fcntl.LOCK_SH)
        opening = asyncio.ensure_future(FileDevice.open(path))
        await asyncio.sleep(0.05)
        assert not opening.done()
        fcntl.flock(onlooker, fcntl.LOCK_UN)
        await (await opening).close()
        fcntl.flock(onlooker, fcntl.LOCK_SH)
        assert is_locked(await refusal(path, patience=SHORT))


@pytest.mark.root
async def test_a_loop_device_whose_file_is_gone_can_be_used(image: Path) -> None:
    with loop_device(image) as path:
        image.unlink()
        async with opened(path) as device:
            assert await device.read(0, 512) == bytes(512)


@pytest.mark.parametrize(
    ("replacement", "reason"),
    [
        ("file", "it was replaced while it was being opened"),
        ("link", "it became a symbolic link while it was being opened"),
    ],
)
async def test_a_path_that_changes_while_it_is_opened_is_refused(
    image: Path, monkeypatch: pytest.MonkeyPatch, replacement: str, reason: str
) -> None:
    other = image.with_name("other")
    other.write_bytes(bytes(8192))
    system_open = os.open

    def open_late(path: str, flags: int) -> int:
        image.unlink()
        if replacement == "file":
            image.hardlink_to(other)
        else:
            image.symlink_to(other)
        return system_open(path, flags)

    monkeypatch.setattr(os, "open", open_late)
    assert await refusal(image) == reason


READ_BY = "`bcachectl check`, `dump` and `show` can read it as it is"


async def is_read(path: object) -> None:
    async with opened(path, writable=False, exclusive=False) as device:
        assert len(await device.read(0, 512)) == 512


@pytest.mark.root
async def test_a_read_only_block_device_is_refused_before_anything_is_written_and_can_be_read(
    image: Path,
) -> None:
    with loop_device(image) as path:
        subprocess.run(["blockdev", "--setro", path], check=True)
        reason = await refusal(path)
        assert reason.startswith(
            "cannot open it for writing: the block device is read-only; `blockdev --setrw`"
        )
        assert reason.endswith(READ_BY)
        await is_read(path)
        subprocess.run(["blockdev", "--setrw", path], check=True)
        async with opened(path) as device:
            await device.write(0, bytes(512))


@pytest.mark.root
async def test_a_loop_device_made_read_only_is_refused(image: Path) -> None:
    with loop_device(image, read_only=True) as path:
        assert (await refusal(path)).startswith("cannot open it for writing: ")
        await is_read(path)


@pytest.mark.root
async def test_an_image_on_a_read_only_file_system_is_refused_and_can_be_read(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path) as folder:
        image = folder / "image"
        image.write_bytes(bytes(4096))
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        reason = await refusal(image)
        assert "Read-only file system; its file system is mounted read-only: mount it read-write" in reason
        assert reason.endswith(READ_BY)
        await is_read(image)


@pytest.mark.root
async def test_an_immutable_image_is_refused_and_can_be_read(image: Path) -> None:
    if subprocess.run(["chattr", "+i", image], capture_output=True).returncode:
        pytest.skip("no immutable files here: nothing is said about them")
    try:
        reason = await refusal(image)
        assert "Operation not permitted; it may be immutable or append-only" in reason
        await is_read(image)
    finally:
        subprocess.run(["chattr", "-i", image], check=True)


async def test_an_image_that_may_only_be_read_is_refused_and_can_be_read(image: Path) -> None:
    image.chmod(0o444)
    user = os.geteuid()
    if user == 0:  # who may write everything
        for folder in (image.parent, image.parent.parent):
            folder.chmod(0o755)
        os.seteuid(NOBODY)
    try:
        reason = await refusal(image)
        assert f"Permission denied; the user with id {os.geteuid()} needs permission" in reason
    finally:
        os.seteuid(user)
    await is_read(image)
