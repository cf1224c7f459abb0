"""The superblock's place on a device, and the place of its copy.

The copy is ours alone: bcache keeps none, so one torn write there costs the set. It is written first and
flushed, so at every instant one of the two is whole.
"""

from bcached.device.block_device import BlockDevice
from bcached.errors import BadMagic, FormatError
from bcached.format.superblock import COPY_SECTOR, SUPERBLOCK_BYTES, SUPERBLOCK_SECTOR, Superblock
from bcached.units import SECTOR_BYTES


async def read_superblock(device: BlockDevice) -> Superblock:
    """The superblock, from its copy if its own place is damaged; FormatError tells what is wrong with it."""
    try:
        return await _read_at(device, SUPERBLOCK_SECTOR)
    except BadMagic:
        raise  # not bcache, or not any more: wiping the magic is how a device is given away
    except FormatError as error:
        try:
            copy = await _read_at(device, COPY_SECTOR)
        except FormatError:
            raise error from None
        if not copy.has_room_for_copy:
            raise
        return copy


async def write_superblock(device: BlockDevice, superblock: Superblock) -> None:
    """Make a superblock durable, the copy first where the layout has room for one."""
    raw = superblock.pack()
    if superblock.has_room_for_copy:
        await device.write(COPY_SECTOR * SECTOR_BYTES, raw)
        await device.flush()
    await device.write(SUPERBLOCK_SECTOR * SECTOR_BYTES, raw)
    await device.flush()


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
