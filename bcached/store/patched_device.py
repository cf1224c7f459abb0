# SPDX-License-Identifier: GPL-2.0-only
"""A device as it would be with some blocks changed, to be checked before they are."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from bcached.device.block_device import BlockDevice
from bcached.device.sampling import read_sectors
from bcached.store.read_only_device import ReadOnlyDevice
from bcached.units import SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes to be written on a member."""

    member: int
    byte: int
    data: bytes = field(repr=False)  # asyncio.run formats what its task returns


_BYTE = attrgetter("byte")


class PatchedDevice(ReadOnlyDevice):
    """Reads a device with patches applied in memory; never writes."""

    why = "this is a read-only preview"

    def __init__(self, inner: BlockDevice, patches: Iterable[Patch]) -> None:
        patches = list(patches)
        super().__init__(inner)
        # In the order of their bytes, those of the same byte in the order in which they are written.
        self._patches = sorted(patches, key=_BYTE)
        self._bytes = [patch.byte for patch in self._patches]
        self._longest = max((len(patch.data) for patch in self._patches), default=0)
        self._ranks = {id(patch): rank for rank, patch in enumerate(patches)}

    async def read(self, offset: int, length: int) -> bytes:
        """Returns exactly length bytes at offset, as they would be."""
        patches = self._overlapping(offset, offset + length)
        if not patches:
            return await self.inner.read(offset, length)
        found = bytearray(await self.inner.read(offset, length))
        for patch in patches:
            begin, end = max(offset, patch.byte), min(offset + length, patch.byte + len(patch.data))
            if begin < end:
                found[begin - offset : end - offset] = patch.data[begin - patch.byte : end - patch.byte]
        return bytes(found)

    async def read_sectors(self, offsets: Sequence[int]) -> list[bytes | None]:
        """Returns the sector at each of these offsets, as it would be; None for one that cannot be read."""
        found = await read_sectors(self.inner, offsets)
        for number, offset in enumerate(offsets):
            if found[number] is not None and self._overlapping(offset, offset + SECTOR_BYTES):
                found[number] = await self.read(offset, SECTOR_BYTES)
        return found

    def _overlapping(self, begin: int, end: int) -> list[Patch]:
        """Returns the patches that may change bytes of [begin, end), in the order of their writes."""
        first = bisect_left(self._bytes, begin - self._longest)
        found = self._patches[first : bisect_left(self._bytes, end)]
        return sorted(found, key=self._rank)

    def _rank(self, patch: Patch) -> int:
        return self._ranks[id(patch)]


def patched_devices(devices: Sequence[BlockDevice], patches: Iterable[Patch]) -> list[PatchedDevice]:
    """Returns the devices as they will be with patches of these devices."""
    patches = list(patches)
    return [
        PatchedDevice(device, [patch for patch in patches if patch.member == number])
        for number, device in enumerate(devices)
    ]
