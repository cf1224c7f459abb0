# SPDX-License-Identifier: GPL-2.0-only
"""A transfer that the kernel cuts short goes on, until all is done or the kernel says why it cannot be."""

import fcntl
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from bcached.client.data.data_paths import DataPaths
from bcached.device import FileDevice
from bcached.device.aligned_io import BUFFER_BYTES
from bcached.errors import DeviceError, FlushFailed
from bcached.keys import Key, Pointer
from bcached.wire.messages import Device
from instruments.devices.loop_device import small_tmpfs

DATA = Random(1).randbytes(BUFFER_BYTES * 2 + 12 * 4096)


@pytest.fixture
def cut_short(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has the kernel transfer what it likes of each call; gives how many calls were cut short."""
    random, cut = Random(2), list[int]()

    def shortened(call: Callable[..., int]) -> Callable[..., int]:
        def transfer(descriptor: int, buffers: Sequence[memoryview], *where: int) -> int:
            (buffer,) = buffers
            most = random.choice([512, 700, 4096, 100_000, len(buffer), len(buffer)])
            if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
                most = max(most // 4096, 1) * 4096  # of direct I/O the kernel does whole blocks
            if most < len(buffer):
                cut.append(most)
            with buffer[:most] as part:
                return call(descriptor, [part], *where)

        return transfer

    for name in ("preadv", "pwritev"):
        monkeypatch.setattr(os, name, shortened(getattr(os, name)))
    return cut


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("direct", [False, True])
async def test_all_is_read_and_written_in_as_many_calls_as_it_takes(
    image: Path, cut_short: list[int], durable: bool, direct: bool
) -> None:
    device = await FileDevice.open(str(image), direct=direct)
    await device.write(4096, DATA, durable=durable)
    assert await device.read(4096, len(DATA)) == DATA
    await device.close()
    assert image.read_bytes()[4096 : 4096 + len(DATA)] == DATA
    assert len(cut_short) >= 5


def test_a_client_s_transfers_go_on_too(image: Path, cut_short: list[int]) -> None:
    device = Device(0, str(image), "", 1024, 8, 8, 1, str(image))
    paths, data = DataPaths([device]), DATA[: 1024 * 512]
    key = Key(0, 0, 1024, False, (Pointer(0, 8, 0),))
    paths.write(key, data)
    assert paths.read(key.pointers[0], 1024) == data
    paths.close()
    assert cut_short


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Files of this process grow no further."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("durable", [False, True])
async def test_the_reason_is_told_for_which_the_rest_is_not_written(image: Path, durable: bool) -> None:
    device = await FileDevice.open(str(image))
    with (
        file_size_limit(1 << 20),
        pytest.raises(DeviceError, match=r"cannot write .*: File too large") as told,
    ):
        await device.write((1 << 20) - 4096, bytes(65536), durable=durable)
    assert isinstance(told.value, FlushFailed) == durable
    await device.close()


@pytest.mark.root
async def test_a_full_file_system_is_called_that(tmp_path: Path) -> None:
    with small_tmpfs(tmp_path, 1 << 20) as folder:
        image = folder / "image"
        image.touch()
        os.truncate(image, 4 << 20)
        device = await FileDevice.open(str(image))
        with pytest.raises(DeviceError, match=r"cannot write .*: No space left on device"):
            await device.write(0, bytes(2 << 20))
        await device.close()


async def test_a_file_that_was_cut_short_ends_where_it_does(image: Path) -> None:
    device = await FileDevice.open(str(image))
    os.truncate(image, 3 * 4096 + 100)
    with pytest.raises(
        DeviceError, match=r"expected 65536 bytes at 0, found 12288: the device ends at 12288 now"
    ):
        await device.read(0, 65536)
    await device.close()
