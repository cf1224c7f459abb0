# SPDX-License-Identifier: GPL-2.0-only
"""A copy of a device of which some sectors were never read: what a copy has there is not the device's."""

from bisect import bisect_right
from collections.abc import Sequence

from bcached.device.block_device import BlockDevice
from bcached.device.sampling import read_sectors
from bcached.errors import DeviceError
from bcached.store.read_only_device import ReadOnlyDevice
from bcached.units import SECTOR_BYTES


class UnreadDevice(ReadOnlyDevice):
    """Reads a copy as the device itself would be read: what the copy lacks fails. It never writes."""

    why = "a copy with a map is only read"

    def __init__(self, inner: BlockDevice, unread: Sequence[range], map_path: str) -> None:
        super().__init__(inner)
        self.unread = unread  # sectors, in order and apart
        self._ends = [sectors.stop for sectors in unread]
        self._map_path = map_path

    async def read(self, offset: int, length: int) -> bytes:
        """Returns exactly length bytes at offset. Raises DeviceError if the copy lacks any of them."""
        if self._lacks(offset, length):
            raise DeviceError(
                self.path, f"cannot read {length} bytes at {offset}: not copied, says {self._map_path}"
            )
        return await self.inner.read(offset, length)

    async def read_sectors(self, offsets: Sequence[int]) -> list[bytes | None]:
        """Returns the sector at each of these offsets; None for one that the copy lacks."""
        copied = [offset for offset in offsets if not self._lacks(offset, SECTOR_BYTES)]
        found = dict(zip(copied, await read_sectors(self.inner, copied), strict=True))
        return [found.get(offset) for offset in offsets]

    def _lacks(self, offset: int, length: int) -> bool:
        number = bisect_right(self._ends, offset // SECTOR_BYTES)
        return number < len(self.unread) and self.unread[number].start * SECTOR_BYTES < offset + length


def unread_of(device: BlockDevice) -> Sequence[range]:
    """Returns the sectors that a device lacks as the copy of another, below patches and the like."""
    while isinstance(device, ReadOnlyDevice):
        if isinstance(device, UnreadDevice):
            return device.unread
        device = device.inner
    return ()
