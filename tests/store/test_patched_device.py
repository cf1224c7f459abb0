# SPDX-License-Identifier: GPL-2.0-only
"""A device as a repair would leave it: patches are in what is read, and nothing is written."""

from random import Random

import pytest

from bcached.errors import DeviceError
from bcached.store.patched_device import Patch, PatchedDevice
from instruments.devices.memory_device import MemoryDevice


async def test_whatever_is_read_it_is_what_the_patches_would_leave() -> None:
    random = Random(1)
    image = random.randbytes(16 * 512)
    for _ in range(50):
        patches, patched = [], bytearray(image)
        for _ in range(3):
            byte, data = random.randrange(15 * 512), random.randbytes(random.randint(1, 512))
            patches.append(Patch(0, byte, data))
            patched[byte : byte + len(data)] = data
        device = PatchedDevice(MemoryDevice.holding(image), patches)
        begin = random.randrange(15) * 512
        length = random.randint(1, 16 - begin // 512) * 512
        assert await device.read(begin, length) == patched[begin : begin + length]


async def test_it_is_read_only() -> None:
    inner = MemoryDevice(4096)
    device = PatchedDevice(inner, [])
    for call in (device.write(0, bytes(512)), device.discard(0, 512)):
        with pytest.raises(DeviceError, match="read-only preview"):
            await call
    await device.flush()
    await device.close()
    assert (await inner.read(0, 512), inner.writes) == (bytes(512), 0)


def test_the_data_of_a_patch_is_not_in_its_text() -> None:
    # asyncio.run formats the result of its task: a repair's, with patches of hundreds of megabytes.
    assert len(repr(Patch(0, 4096, bytes(1 << 20)))) < 100
