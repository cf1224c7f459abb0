# SPDX-License-Identifier: GPL-2.0-only
"""The bcache data on a device that is about to be laid out again, which its owner may want to keep."""

from collections.abc import Sequence
from uuid import UUID

import numpy as np

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError, FormatError
from bcached.format.magic import SUPERBLOCK_MAGIC
from bcached.format.superblock import SUPERBLOCK_BYTES, SUPERBLOCK_SECTOR, Superblock
from bcached.format.superblock_fields import BackingDevice
from bcached.store.check.checker import CheckedSet, check_set
from bcached.store.finding import Severity
from bcached.store.superblock_slot import read_superblock
from bcached.units import SECTOR_BYTES, format_size

MAGIC_BYTES = slice(24, 40)


async def losses(devices: Sequence[BlockDevice]) -> dict[str, str]:
    """Returns by path, as text, what an owner may want to keep of a device; most have no entry."""
    lost: dict[str, str] = {}
    sets: dict[UUID, list[BlockDevice]] = {}
    for device in devices:
        try:
            superblock = await _superblock_of(device)
        except BackingDevice as error:
            lost[device.path] = f"it is {error.what}, and all its data is behind that superblock"
        except BcachedError as error:
            lost[device.path] = f"its bcache superblock cannot be read ({error}), so its contents are unknown"
        else:
            if superblock is not None and superblock.synchronous:
                sets.setdefault(superblock.set_uuid, []).append(device)
    for set_uuid, members in sets.items():
        if words := await _dirty_data(members):
            lost |= {device.path: f"cache set {set_uuid} {words}" for device in members}
    return lost


async def _superblock_of(device: BlockDevice) -> Superblock | None:
    """Returns the superblock; None if the device is not bcache's."""
    offset = SUPERBLOCK_SECTOR * SECTOR_BYTES
    if device.size_bytes < offset + SUPERBLOCK_BYTES:
        return None
    try:
        return await read_superblock(device)
    except BackingDevice:
        raise
    except FormatError:
        if (await device.read(offset, SUPERBLOCK_BYTES))[MAGIC_BYTES] == SUPERBLOCK_MAGIC:
            raise
        return None


async def _dirty_data(members: Sequence[BlockDevice]) -> str:
    """Returns, as text, which data of a set may exist nowhere else; empty if none."""
    try:
        checked = await check_set(members)
    except BcachedError as error:
        return f"may hold dirty data, which cannot be counted: {error}"
    keys, sectors = _dirty_keys(checked)
    if keys:
        noun = "dirty key" if keys == 1 else "dirty keys"
        return f"holds {keys:,} {noun} of {format_size(sectors * SECTOR_BYTES)}, which may exist nowhere else"
    fatal = [finding for finding in checked.findings.listed if finding.severity == Severity.FATAL]
    return f"may hold dirty data, which cannot be counted: {fatal[0]}" if fatal else ""


def _dirty_keys(checked: CheckedSet) -> tuple[int, int]:
    """Returns the number of dirty keys and their sectors, stale ones included."""
    keys = sectors = 0
    for rows in checked.tree.rows.chunks() if checked.tree is not None else ():
        dirty = rows.where(rows.dirty)
        _, firsts = np.unique(dirty.keys, return_index=True)
        keys += len(firsts)
        sectors += int(dirty.sectors[firsts].sum())
    return keys, sectors
