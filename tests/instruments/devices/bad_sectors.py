# SPDX-License-Identifier: GPL-2.0-only
"""A device with sectors that cannot be read: what a dying SSD is like."""

from collections.abc import Iterable

from bcached.device.block_device import BlockDevice
from bcached.errors import DeviceError
from bcached.units import SECTOR_BYTES
from instruments.devices.passing_device import PassingDevice


class BadSectorsDevice(PassingDevice):
    """A read that touches one of the bad ranges of sectors fails."""

    def __init__(self, inner: BlockDevice, bad: Iterable[range]) -> None:
        super().__init__(inner)
        self.bad = list(bad)

    async def read(self, offset: int, length: int) -> bytes:
        first, end = offset // SECTOR_BYTES, (offset + length) // SECTOR_BYTES
        if any(first < bad.stop and bad.start < end for bad in self.bad):
            raise DeviceError(self.path, f"cannot read {length} bytes at {offset}: Input/output error")
        return await self.inner.read(offset, length)
