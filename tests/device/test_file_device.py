# SPDX-License-Identifier: GPL-2.0-only
"""What files and block devices do when they are shrunk, full, failing, slow, or shared."""

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from blockbuster import BlockingError

from bcached.device import FileDevice, sysfs
from bcached.errors import DeviceError, FlushFailed
from instruments.devices.loop_device import loop_device, small_tmpfs

KIB = 1024


class SlowWrites:
    """The kernel's pwritev, which waits for leave before it writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.may_go_on = threading.Event()
        self._write = os.pwritev
        monkeypatch.setattr(os, "pwritev", self)

    def __call__(self, descriptor: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        self.begun.set()
        assert self.may_go_on.wait(30)
        return self._write(descriptor, buffers, offset, flags)

    async def have_begun(self) -> None:
        await asyncio.to_thread(self.begun.wait, 30)


@pytest.fixture
def slow_writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowWrites]:
    slow = SlowWrites(monkeypatch)
    yield slow
    slow.may_go_on.set()


async def settle() -> None:
    """Give the loop every chance to run what is ready."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("durable", [False, True])
async def test_a_cancelled_write_ends_only_when_its_thread_has(
    image: Path, slow_writes: SlowWrites, durable: bool
) -> None:
    device = await FileDevice.open(str(image))
    write = asyncio.ensure_future(device.write(4096, b"\x01" * 4096, durable=durable))
    await slow_writes.have_begun()
    for _ in range(3):  # once by a client, once by a deadline, once by the end of the daemon
        write.cancel()
        await settle()
        assert not write.done()
    slow_writes.may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await write
    assert await device.read(4096, 4096) == b"\x01" * 4096
    await device.close()


async def test_a_write_that_waits_for_a_thread_is_never_begun_once_cancelled(
    image: Path, slow_writes: SlowWrites
) -> None:
    device = await FileDevice.open(str(image))
    writes = [asyncio.ensure_future(device.write(n * 4096, b"\x01" * 4096)) for n in range(5)]
    await slow_writes.have_begun()
    writes[4].cancel()  # there are four threads
    with pytest.raises(asyncio.CancelledError):
        await writes[4]
    slow_writes.may_go_on.set()
    await asyncio.gather(*writes[:4])
    assert await device.read(0, 5 * 4096) == b"\x01" * 4 * 4096 + bytes(4096)
    await device.close()


async def test_a_cancelled_close_has_closed_all_the_same(image: Path, slow_writes: SlowWrites) -> None:
    device = await FileDevice.open(str(image))
    write = asyncio.ensure_future(device.write(0, b"\x01" * 512))
    await slow_writes.have_begun()
    close = asyncio.ensure_future(device.close())
    await settle()
    close.cancel()
    await settle()
    assert not close.done()
    slow_writes.may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await close
    await write
    again = await FileDevice.open(str(image))  # the lock is gone
    assert await again.read(0, 512) == b"\x01" * 512
    await again.close()


async def test_reads_and_flushes_do_not_wait_behind_each_other(image: Path, slow_writes: SlowWrites) -> None:
    device = await FileDevice.open(str(image))
    durable = asyncio.ensure_future(device.write(0, bytes(512), durable=True))
    await slow_writes.have_begun()
    await device.read(4096, 4096)
    await device.discard(8192, 4096)
    flush = asyncio.ensure_future(device.flush())
    await settle()
    assert not flush.done()  # what makes durable goes one at a time
    slow_writes.may_go_on.set()
    await asyncio.gather(durable, flush)
    await device.close()


async def test_the_blocking_calls_would_be_caught_on_the_loop(image: Path) -> None:
    device = await FileDevice.open(str(image))
    for call in (device._file.flush, lambda: device._file.read(0, 512), device._file.close):
        with pytest.raises(BlockingError):
            call()
    await device.close()


async def test_an_image_is_used_past_the_page_cache_where_that_can_be(image: Path) -> None:
    drive = image.stat().st_dev
    block_bytes = await asyncio.to_thread(sysfs.attribute, drive, "queue/logical_block_size")
    direct = await FileDevice.open(str(image), exclusive=False)
    buffered = await FileDevice.open(str(image), exclusive=False, direct=False)
    # Any file system on a drive of 512-byte sectors that is worth testing on has direct I/O.
    assert direct.direct == (block_bytes == "512")
    assert not buffered.direct
    await direct.close()
    await buffered.close()


async def test_a_device_opened_for_reading_takes_no_writes(image: Path) -> None:
    device = await FileDevice.open(str(image), writable=False, exclusive=False)
    for call in (device.write(0, bytes(512)), device.discard(0, 512)):
        with pytest.raises(DeviceError, match=r"cannot .* 512 bytes at 0: it is open read-only"):
            await call
    assert not device.discards
    assert await device.read(0, 512) == bytes(512)
    await device.close()


@pytest.mark.parametrize("direct", [True, False])
async def test_a_shrunken_image_gives_errors_and_is_not_grown_again(image: Path, direct: bool) -> None:
    device = await FileDevice.open(str(image), direct=direct)
    os.truncate(image, 1024 * KIB + 512)
    with pytest.raises(DeviceError, match="expected 4096 bytes at 1048576, found 512"):
        await device.read(1024 * KIB, 4096)
    with pytest.raises(DeviceError, match="expected 1048576 bytes at 1048576, found 512"):
        await device.read(0, 2048 * KIB)
    with pytest.raises(DeviceError, match="expected a file of 4194304 bytes, found 1049088"):
        await device.write(2048 * KIB, bytes(4096))
    assert image.stat().st_size == 1024 * KIB + 512
    assert device.errors == 3
    await device.close()


@pytest.mark.root
async def test_a_shrunken_block_device_gives_errors(image: Path) -> None:
    with loop_device(image) as path:
        device = await FileDevice.open(path)
        os.truncate(image, 1024 * KIB)
        assert os.system(f"losetup --set-capacity {path}") == 0
        with pytest.raises(DeviceError, match="cannot read 4096 bytes at 2097152"):
            await device.read(2048 * KIB, 4096)
        with pytest.raises(DeviceError, match="cannot write 4096 bytes at 2097152: No space left on device"):
            await device.write(2048 * KIB, bytes(4096))
        assert await device.read(0, 4096) == bytes(4096)
        await device.close()


@pytest.mark.root
async def test_a_full_file_system_fails_the_write_and_the_device_goes_on(tmp_path: Path) -> None:
    with small_tmpfs(tmp_path, 1024 * KIB) as directory:
        sparse = directory / "image"
        sparse.write_bytes(b"")
        os.truncate(sparse, 4096 * KIB)
        device = await FileDevice.open(str(sparse))
        await device.write(0, b"\x01" * 512 * KIB)
        with pytest.raises(
            DeviceError, match=r"cannot write 1048576 bytes at 1048576: (No space left|expected)"
        ):
            await device.write(1024 * KIB, bytes(1024 * KIB))
        await device.flush()
        assert await device.read(0, 512 * KIB) == b"\x01" * 512 * KIB
        await device.close()


@pytest.mark.root
async def test_a_durable_write_that_fails_is_the_last_one(tmp_path: Path) -> None:
    with small_tmpfs(tmp_path, 1024 * KIB) as directory:
        sparse = directory / "image"
        sparse.write_bytes(b"")
        os.truncate(sparse, 4096 * KIB)
        device = await FileDevice.open(str(sparse))
        with pytest.raises(FlushFailed, match=r"cannot write 2097152 bytes durably at 0: .*nothing more"):
            await device.write(0, bytes(2048 * KIB), durable=True)
        with pytest.raises(FlushFailed):
            await device.write(0, bytes(512))
        await device.close()


@pytest.mark.root
async def test_after_a_failed_flush_nothing_is_written_and_reads_work(tmp_path: Path) -> None:
    """A real failure: what the loop device's page cache took does not fit into the file below it."""
    with small_tmpfs(tmp_path, 1024 * KIB) as directory:
        sparse = directory / "image"
        sparse.write_bytes(b"")
        os.truncate(sparse, 4096 * KIB)
        with loop_device(sparse) as path:
            device = await FileDevice.open(path, direct=False)
            await device.write(0, b"\x01" * 2048 * KIB)
            with pytest.raises(FlushFailed, match=r"cannot flush: .*; nothing more is written"):
                await device.flush()
            for call in (
                device.flush(),
                device.write(0, bytes(512)),
                device.write(0, bytes(512), durable=True),
                device.discard(0, 4096),
            ):
                with pytest.raises(FlushFailed, match="cannot flush"):
                    await call
            assert len(await device.read(4000 * KIB, 4096)) == 4096
            assert device.errors == 1
            await device.close()


async def test_the_flush_behind_a_failing_one_fails_too(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports a lost write once: the second fdatasync would succeed, and must not be asked."""
    answers = [OSError(errno.EIO, os.strerror(errno.EIO)), None]

    def fdatasync(_descriptor: int) -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    device = await FileDevice.open(str(image))
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    outcomes = await asyncio.gather(device.flush(), device.flush(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [FlushFailed, FlushFailed]
    assert answers == [None]
    await device.close()


@pytest.mark.parametrize(("number", "is_error"), [(errno.EOPNOTSUPP, False), (errno.EIO, True)])
async def test_a_device_that_cannot_discard_is_no_error(
    image: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_error: bool
) -> None:
    def fallocate(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    device = await FileDevice.open(str(image))
    monkeypatch.setattr("bcached.device.kernel_calls._fallocate", fallocate)
    await device.write(0, b"\x01" * 512)
    if is_error:
        with pytest.raises(DeviceError, match="cannot discard 4096 bytes at 0: Input/output error"):
            await device.discard(0, 4096)
    else:
        await device.discard(0, 4096)
        await device.discard(0, 4096)
    assert device.discards == is_error
    assert device.errors == is_error
    assert await device.read(0, 512) == b"\x01" * 512
    await device.close()


async def test_a_failed_discard_says_why(image: Path) -> None:
    """A real failure: a hole cannot be punched through a descriptor that is open for reading."""
    device = await FileDevice.open(str(image), writable=False)
    device.writable = device.discards = True
    with pytest.raises(DeviceError, match="cannot discard 4096 bytes at 0: Bad file descriptor"):
        await device.discard(0, 4096)
    with pytest.raises(DeviceError, match="cannot write 512 bytes at 0: Bad file descriptor"):
        await device.write(0, bytes(512))
    await device.close()


def test_a_device_works_the_same_on_uvloop(image: Path) -> None:
    async def scenario() -> None:
        device = await FileDevice.open(str(image))
        await device.write(4096, b"\x01" * 2048 * KIB)
        write = asyncio.ensure_future(device.write(4096, b"\x02" * 2048 * KIB, durable=True))
        await asyncio.sleep(0.0005)
        write.cancel()
        outcome = (await asyncio.gather(write, return_exceptions=True))[0]
        assert outcome is None or isinstance(outcome, asyncio.CancelledError)
        assert await device.read(4096, 2048 * KIB) in (b"\x01" * 2048 * KIB, b"\x02" * 2048 * KIB)
        await asyncio.gather(device.flush(), device.discard(0, 4096), device.close(), return_exceptions=True)
        with pytest.raises(DeviceError, match="closed"):
            await device.read(0, 512)

    uvloop.run(scenario())


async def test_a_discard_gives_the_space_back(image: Path) -> None:
    device = await FileDevice.open(str(image))
    await device.write(0, b"\x01" * 1024 * KIB)
    await device.flush()
    full = image.stat().st_blocks
    await device.discard(0, 1024 * KIB)
    await device.flush()
    assert image.stat().st_blocks < full
    assert image.stat().st_size == device.size_bytes
    await device.close()
