# SPDX-License-Identifier: GPL-2.0-only
"""Which volume of a set is a backing device's: by its uuid in the uuid table, or in an earlier one."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from bcached.device.block_device import BlockDevice
from bcached.errors import SetRefused
from bcached.format.backing_superblock import BackingSuperblock
from bcached.format.superblock import SUPERBLOCK_BYTES, SUPERBLOCK_SECTOR, Superblock
from bcached.format.superblock_fields import BackingDevice
from bcached.format.uuid_entry import UuidEntry
from bcached.store.rescue.remains.set_left import SetLeft
from bcached.units import SECTOR_BYTES

DIRTY, DETACHED = "dirty", "detached"


@dataclass(frozen=True, slots=True)
class BackingFound:
    """A backing device's superblock as it is on the device."""

    superblock: BackingSuperblock
    raw: bytes


@dataclass(frozen=True, slots=True)
class Owner:
    """The volume that dirty data is taken from, and why its data may not be the newest; empty if it is."""

    inode: int
    doubt: str = ""


# What keeps a part of an index from being read, the one that explains most first.
LOSING = ("member-missing", "btree-root", "node-damaged")


async def read_backing(device: BlockDevice) -> BackingFound:
    """Returns the superblock of a backing device. Raises SetRefused if it is none, FormatError if damaged."""
    where = f"{device.path} sector {SUPERBLOCK_SECTOR}"
    raw = await device.read(SUPERBLOCK_SECTOR * SECTOR_BYTES, SUPERBLOCK_BYTES)
    try:
        Superblock.parse(
            raw, device_bytes=device.size_bytes, logical_block_bytes=device.logical_block_bytes, where=where
        )
    except BackingDevice as error:
        return BackingFound(BackingSuperblock.of(error.raw), raw)
    raise SetRefused(f"{device.path}: is a cache device: expected the backing device")


def owner_of(
    left: SetLeft, backing: BackingSuperblock, path: str, dirty_inodes: Sequence[int], named: int | None
) -> Owner:
    """Returns the volume of a backing device. Raises SetRefused if none can be it, and says what there is.

    1. The one named. 2. In the uuid table. 3. In an earlier table, when the newest is damaged or
    has given the volume up.
    """
    if named is not None:
        is_other = _slot_of(left.checked.volumes, backing.uuid) != named
        return Owner(named, _doubt(left, backing, named, dirty_inodes, is_former=is_other))
    tables = [left.checked.volumes, *left.former_tables]
    for number, table in enumerate(tables):
        inode = _slot_of(table, backing.uuid)
        if inode is not None:
            return Owner(inode, _doubt(left, backing, inode, dirty_inodes, is_former=number > 0))
    held = "; ".join(_held(left, inode) for inode in dirty_inodes) or "no volume has dirty data"
    is_foreign = backing.set_uuid.int and backing.set_uuid != left.members[0].superblock.set_uuid
    advice = ". --volume N takes the data of that volume"
    if is_foreign:
        advice = f"; it is attached to another set, {backing.set_uuid}: is it the right device?"
    raise SetRefused(f"{path}: no volume of the set has its uuid {backing.uuid}: {held}{advice}")


def _slot_of(table: Sequence[UuidEntry | None], uuid: UUID) -> int | None:
    for inode, entry in enumerate(table):
        if entry is not None and entry.uuid == uuid:
            return inode
    return None


def _doubt(
    left: SetLeft, backing: BackingSuperblock, inode: int, dirty_inodes: Sequence[int], *, is_former: bool
) -> str:
    """Returns why the volume's data may not be newer than the backing device's; empty if it is."""
    if is_former and set(dirty_inodes) - {inode}:
        doubt = f"the uuid table is lost, and other volumes than {inode} have dirty data, too"
    else:
        doubt = ""
    return _doubt_of_slot(left, backing, inode) or doubt or _doubt_of_device(left, backing)


def _doubt_of_slot(left: SetLeft, backing: BackingSuperblock, inode: int) -> str:
    newest = left.checked.volumes
    entry = newest[inode] if inode < len(newest) else None
    if entry is not None and entry.is_burnt:
        return f"volume {inode} was given up, and the device may have been used without it since"
    if entry is not None and entry.uuid != backing.uuid:
        return f"volume {inode} is that of the device {entry.uuid}, and this one is {backing.uuid}"
    return ""


def _doubt_of_device(left: SetLeft, backing: BackingSuperblock) -> str:
    """Returns why the device may have been used without its cache. Kernel: its state says so."""
    if backing.state_name == DETACHED:
        return "the backing device is detached: it may have been used without its cache"
    if backing.set_uuid != left.members[0].superblock.set_uuid:
        return f"the backing device is attached to another set ({backing.set_uuid})"
    if backing.state_name != DIRTY:
        return f"the backing device's state is {backing.state_name}: it may have been used without its cache"
    return ""


def _held(left: SetLeft, inode: int) -> str:
    volumes = left.checked.volumes
    entry = volumes[inode] if inode < len(volumes) else None
    if entry is None:
        return f"volume {inode} (without an entry in the uuid table) has dirty data"
    if entry.is_burnt:
        return f"volume {inode} (given up) has dirty data"
    return f"volume {inode} ({entry.uuid}) has dirty data"


def refuse_empty(left: SetLeft, inode: int, dirty_inodes: Sequence[int]) -> None:
    """Raises SetRefused for a volume without dirty data. Says which ones have some, and what was not read."""
    held = ", ".join(map(str, dirty_inodes))
    others = f"; volumes that have some: {held}" if held else ""
    damage = next((one for one in left.checked.findings.listed if one.rule in LOSING), None)
    if damage is None and left.doubts.index_is_whole:
        raise SetRefused(f"volume {inode} has no dirty data{others}")
    why = f" ({damage.text})" if damage is not None else ""
    raise SetRefused(f"volume {inode}: no dirty data was found, but parts of the index are lost{why}{others}")


def volume_sectors(left: SetLeft, inode: int) -> int:
    """Returns the size of a flash-only volume; 0 for others."""
    volumes = left.checked.volumes
    entry = volumes[inode] if inode < len(volumes) else None
    return entry.sectors if entry is not None and entry.flash_only else 0
