# SPDX-License-Identifier: GPL-2.0-only
"""The superblock at sector 8 of a device, and its copy at sector 16.

The copy is bcached's own: bcache keeps none, so one torn write there loses the set. It is written first and
flushed, so at every moment one of the two is sound.
"""

from bcached.device.block_device import BlockDevice
from bcached.errors import BadChecksum, BadMagic, FormatError
from bcached.format.superblock import (
    COPY_SECTOR,
    SUPERBLOCK_BYTES,
    SUPERBLOCK_SECTOR,
    NotWhole,
    Superblock,
)
from bcached.units import SECTOR_BYTES


async def read_superblock(device: BlockDevice) -> Superblock:
    """Returns the superblock, from its copy if it is damaged. Raises FormatError if both are unusable.

    One with a good checksum that is refused was written that way: an older copy must not hide it. Nor does a
    wrong magic alone count as damage: wiping it is how a device is removed from bcache.
    """
    try:
        return await _read_at(device, SUPERBLOCK_SECTOR)
    except (BadChecksum, NotWhole):
        copy = await _read_copy(device)
        if copy is None:
            raise
        return copy


async def repair_superblock(device: BlockDevice, superblock: Superblock) -> None:
    """Rewrite a superblock that had to be read from its copy to sector 8.

    Kernel: reads no other sector. And the next change begins with the copy, which must not be the only sound
    one then.
    """
    try:
        await _read_at(device, SUPERBLOCK_SECTOR)
    except (BadChecksum, NotWhole):
        await device.write(SUPERBLOCK_SECTOR * SECTOR_BYTES, superblock.pack())
        await device.flush()


async def write_superblock(device: BlockDevice, superblock: Superblock) -> None:
    """Make a superblock durable, the copy first if the layout has space for one."""
    raw = superblock.pack()
    if superblock.has_space_for_copy:
        await device.write(COPY_SECTOR * SECTOR_BYTES, raw)
        await device.flush()
    await device.write(SUPERBLOCK_SECTOR * SECTOR_BYTES, raw)
    await device.flush()


async def _read_copy(device: BlockDevice) -> Superblock | None:
    """Returns the copy, if there is one and the boot block is empty: other users of a device write there."""
    try:
        if any(await device.read(0, SUPERBLOCK_SECTOR * SECTOR_BYTES)):
            return None
        copy = await _read_at(device, COPY_SECTOR)
    except FormatError:
        return None
    return copy if copy.has_space_for_copy else None


async def _read_at(device: BlockDevice, sector: int) -> Superblock:
    if device.size_bytes < sector * SECTOR_BYTES + SUPERBLOCK_BYTES:
        raise BadMagic(
            "superblock", f"{device.path} sector {sector}", "a device that reaches that far", "its end"
        )
    raw = await device.read(sector * SECTOR_BYTES, SUPERBLOCK_BYTES)
    return Superblock.parse(
        raw,
        device_bytes=device.size_bytes,
        logical_block_bytes=device.logical_block_bytes,
        where=f"{device.path} sector {sector}",
    )
