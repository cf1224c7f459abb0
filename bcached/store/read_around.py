# SPDX-License-Identifier: GPL-2.0-only
"""A device read around its bad sectors: what cannot be read is zeros, and remembered."""

from dataclasses import replace

from bcached.device.block_device import BlockDevice
from bcached.errors import DeviceError
from bcached.store.membership import MemberFound
from bcached.store.read_only_device import ReadOnlyDevice

Hole = tuple[int, int]  # first byte, end
HOLES_MAX = 1024  # then nothing is read in smaller parts: each failing read takes a dying device seconds


class ReadAround(ReadOnlyDevice):
    """Reads a device in ever smaller parts where it fails, down to a block; never writes."""

    why = "it is read around bad sectors"

    def __init__(self, inner: BlockDevice, block_bytes: int) -> None:
        super().__init__(inner)
        self.block_bytes = block_bytes
        self.holes: list[Hole] = []

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


def around_bad_sectors(member: MemberFound) -> MemberFound:
    """Returns a member whose device is read around its bad sectors."""
    return replace(member, block_device=ReadAround(member.block_device, member.superblock.block_bytes))
