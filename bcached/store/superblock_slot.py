"""The superblock's place on a device, and the place of its copy.

The copy is ours alone: bcache keeps none, so one torn write there costs the set. It is written first and
flushed, so at every instant one of the two is whole.
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
    """The superblock, from its copy if its own place is damaged; FormatError tells what is wrong with it.

    One that is whole and yet refused was written that way: an older copy must not hide it. Nor does a
    wrong magic alone count as damage: wiping it is how a device is given away.
    """
    try:
        return await _read_at(device, SUPERBLOCK_SECTOR)
    except (BadChecksum, NotWhole):
        copy = await _read_copy(device)
        if copy is None:
            raise
        return copy


async def mend_superblock(device: BlockDevice, superblock: Superblock) -> None:
    """Write a superblock that had to be read from its copy to its own place again.

    The kernel knows no other place; and the next change begins with the copy, which must not be the only
    one that is whole.
    """
    try:
        await _read_at(device, SUPERBLOCK_SECTOR)
    except (BadChecksum, NotWhole):
        await device.write(SUPERBLOCK_SECTOR * SECTOR_BYTES, superblock.pack())
        await device.flush()


async def write_superblock(device: BlockDevice, superblock: Superblock) -> None:
    """Make a superblock durable, the copy first where the layout has room for one."""
    raw = superblock.pack()
    if superblock.has_room_for_copy:
        await device.write(COPY_SECTOR * SECTOR_BYTES, raw)
        await device.flush()
    await device.write(SUPERBLOCK_SECTOR * SECTOR_BYTES, raw)
    await device.flush()


async def _read_copy(device: BlockDevice) -> Superblock | None:
    """The copy, if there is one and the device is still bcache's: others write to the boot block first."""
    try:
        if any(await device.read(0, SUPERBLOCK_SECTOR * SECTOR_BYTES)):
            return None
        copy = await _read_at(device, COPY_SECTOR)
    except FormatError:
        return None
    return copy if copy.has_room_for_copy else None


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
