# SPDX-License-Identifier: GPL-2.0-only
"""Reading the first sector of every bucket, or other small parts of a whole device, at the device's speed.

One call reads many of them, so that a thread is not woken for each, and skips what an image has no data for.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from bcached.device.block_device import BlockDevice
from bcached.errors import DeviceError
from bcached.units import SECTOR_BYTES

EMPTY_SECTOR = bytes(SECTOR_BYTES)


@runtime_checkable
class SampledDevice(Protocol):
    """A device that reads many sectors in one call."""

    async def read_sectors(self, offsets: Sequence[int]) -> list[bytes | None]:
        """Returns the sector at each of these offsets, which ascend; None for one that cannot be read."""


async def read_sectors(device: BlockDevice, offsets: Sequence[int]) -> list[bytes | None]:
    """Returns the sector at each of these offsets, which ascend; None for one that cannot be read."""
    if isinstance(device, SampledDevice):
        return await device.read_sectors(offsets)
    return [await _read_sector(device, offset) for offset in offsets]


async def _read_sector(device: BlockDevice, offset: int) -> bytes | None:
    try:
        return await device.read(offset, SECTOR_BYTES)
    except DeviceError:
        return None
