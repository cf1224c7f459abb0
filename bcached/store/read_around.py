# SPDX-License-Identifier: GPL-2.0-only
"""A device read around its bad sectors: what cannot be read is zeros, and remembered."""

from dataclasses import replace

from bcached.device.block_device import BlockDevice, BytesLike
from bcached.errors import DeviceError
from bcached.store.membership import MemberFound
from bcached.units import SECTOR_BYTES

Hole = tuple[int, int]  # first byte, end
HOLES_MAX = 1024  # then nothing is read in smaller parts: each failing read takes a dying device seconds


class ReadAround:
    """Reads a device in ever smaller parts where it fails, down to a block; never writes."""

    def __init__(self, inner: BlockDevice, block_bytes: int) -> None:
        self.inner, self.block_bytes = inner, block_bytes
        self.path, self.data_path = inner.path, inner.data_path
        self.size_bytes, self.logical_block_bytes = inner.size_bytes, inner.logical_block_bytes
        self.discards = False
        self.holes: list[Hole] = []

    @property
    def errors(self) -> int:
        """How many operations on the device have failed."""
        return self.inner.errors

    async def read(self, offset: int, length: int) -> bytes:
        """Returns length bytes at offset, zeros where the device cannot read them."""
        try:
            return await self.inner.read(offset, length)
        except DeviceError:
            return b"".join(await self.halves(offset, length))

    async def halves(self, offset: int, length: int) -> list[bytes]:
        """Returns the parts of what cannot be read as one."""
        if length <= self.block_bytes or len(self.holes) >= HOLES_MAX:
            self.holes.append((offset, offset + length))
            return [bytes(length)]
        first = -(-length // 2 // self.block_bytes) * self.block_bytes
        return [await self.read(offset, first), await self.read(offset + first, length - first)]

    def is_hole(self, begin: int, end: int) -> bool:
        """Whether any byte of [begin, end) could not be read."""
        return any(hole_begin < end and begin < hole_end for hole_begin, hole_end in self.holes)

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        """Raises DeviceError: read-only."""
        raise DeviceError(self.path, "cannot write: it is read around bad sectors")

    async def flush(self) -> None:
        """Nothing was written."""

    async def discard(self, offset: int, length: int) -> None:
        """Raises DeviceError: read-only."""
        raise DeviceError(self.path, "cannot discard: it is read around bad sectors")

    async def close(self) -> None:
        """Leave the device open: its opener closes it."""


def around_bad_sectors(member: MemberFound) -> MemberFound:
    """Returns a member whose device is read around its bad sectors."""
    return replace(member, block_device=ReadAround(member.block_device, _block_bytes(member)))


def _block_bytes(member: MemberFound) -> int:
    return member.superblock.block_sectors * SECTOR_BYTES
