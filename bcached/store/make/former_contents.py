# SPDX-License-Identifier: GPL-2.0-only
"""The bcache data on a device that is about to be laid out again, which its owner may want to keep."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

import numpy as np

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError, FormatError
from bcached.format.damage.correction import corrected_superblock
from bcached.format.label import printable_label
from bcached.format.magic import SUPERBLOCK_MAGIC
from bcached.format.superblock import SUPERBLOCK_BYTES, SUPERBLOCK_SECTOR, Superblock
from bcached.format.superblock_fields import BackingDevice
from bcached.store.check.checker import CheckedSet, check_set
from bcached.store.finding import Severity
from bcached.store.make.journal_traces import has_journal
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
            elif words := await _without_use(device, superblock):
                lost[device.path] = words
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


async def _without_use(device: BlockDevice, superblock: Superblock | None) -> str:
    """Returns, as text, what a device may hold of a cache set that its superblock does not name."""
    if superblock is None:
        return await _without_superblock(device)
    if await has_journal(device):
        return (
            "it was formatted again and not used since, and the journal and the index of the cache set that "
            "was on it before are there: it may hold dirty data"
        )
    return ""


async def _without_superblock(device: BlockDevice) -> str:
    """Returns, as text, what a device without a superblock may hold of a cache set; empty if nothing.

    1. The superblock was erased in part: its magic, or one bit. 2. It is gone, and the set is there.
    """
    offset = SUPERBLOCK_SECTOR * SECTOR_BYTES
    if device.size_bytes < offset + SUPERBLOCK_BYTES:
        return ""
    raw = await device.read(offset, SUPERBLOCK_BYTES)
    if corrected_superblock(raw) is not None:
        return "its bcache superblock was erased in part, and the rest is right: it may hold dirty data"
    if await has_journal(device):
        return (
            "its bcache superblock is gone, but a journal and an index of a cache set are there: it may hold "
            "dirty data"
        )
    return ""


async def _dirty_data(members: Sequence[BlockDevice]) -> str:
    """Returns, as text, which data of a set may exist nowhere else; empty if none."""
    try:
        checked = await check_set(members)
    except BcachedError as error:
        return f"may hold dirty data, which cannot be counted: {error}"
    keys, sectors = _dirty_keys(checked)
    if keys:
        noun = "dirty key" if keys == 1 else "dirty keys"
        size = format_size(sum(sectors.values()) * SECTOR_BYTES)
        volumes = "; ".join(_volume(checked, inode, count) for inode, count in sorted(sectors.items()))
        return f"holds {keys:,} {noun} of {size}, which may exist nowhere else ({volumes})"
    fatal = [finding for finding in checked.findings.listed if finding.severity == Severity.FATAL]
    return f"may hold dirty data, which cannot be counted: {fatal[0]}" if fatal else ""


def _volume(checked: CheckedSet, inode: int, sectors: int) -> str:
    entry = checked.volumes[inode] if inode < len(checked.volumes) else None
    if entry is None or entry.is_burnt:
        name = "which is given up" if entry is not None else "which has no name"
    else:
        name = printable_label(entry.label) or str(entry.uuid)
    return f"volume {inode}, {name}: {sectors} dirty sectors"


def _dirty_keys(checked: CheckedSet) -> tuple[int, Counter[int]]:
    """Returns the number of dirty keys, and their sectors by inode, stale ones included."""
    keys = 0
    sectors: Counter[int] = Counter()
    for rows in checked.tree.rows.chunks() if checked.tree is not None else ():
        dirty = rows.where(rows.dirty)
        _, firsts = np.unique(dirty.keys, return_index=True)
        keys += len(firsts)
        inodes, numbers = np.unique(dirty.inodes[firsts], return_inverse=True)
        counts = np.bincount(numbers, dirty.sectors[firsts], len(inodes)).astype(np.int64)
        sectors.update(dict(zip(inodes.tolist(), counts.tolist(), strict=True)))
    return keys, sectors
