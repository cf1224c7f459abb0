# SPDX-License-Identifier: GPL-2.0-only
"""What only memory can do: be closed and opened again, and be terabytes large for nothing."""

import pytest

from bcached.errors import DeviceRefused
from instruments.devices.memory_device import MemoryDevice


async def test_the_bytes_outlive_the_device() -> None:
    device = MemoryDevice(8192)
    await device.write(4096, b"\x07" * 512)
    await device.close()
    again = device.reopen()
    assert await again.read(4096, 512) == b"\x07" * 512
    assert again.writes == 0
    assert again.image() == bytes(4096) + b"\x07" * 512 + bytes(3584)


async def test_two_opens_at_once_are_refused() -> None:
    device = MemoryDevice(8192)
    with pytest.raises(DeviceRefused, match="in use"):
        device.reopen()
    await device.write(0, bytes(512))  # the first one goes on
    await device.close()
    device.reopen()
    with pytest.raises(DeviceRefused):
        device.reopen()


async def test_it_can_begin_with_an_image() -> None:
    image = bytearray(b"\x09" * 4096)
    device = MemoryDevice.holding(image, 4096)
    image[:] = bytes(4096)
    assert await device.read(512, 512) == b"\x09" * 512
    assert device.size_bytes == device.logical_block_bytes == 4096


async def test_untouched_terabytes_cost_nothing() -> None:
    device = MemoryDevice(8 << 40)
    await device.write((8 << 40) - 512, b"\x01" * 512)
    assert await device.read((8 << 40) - 1024, 1024) == bytes(512) + b"\x01" * 512
