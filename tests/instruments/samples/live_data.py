# SPDX-License-Identifier: GPL-2.0-only
"""What the live keys of a set name, sector by sector: the same before and after whatever must keep it."""

from collections.abc import Sequence

from bcached.device.block_device import BlockDevice
from bcached.store.check.checker import CheckedSet, check_set
from bcached.units import SECTOR_BYTES

Sector = tuple[int, int, bool]  # inode, sector of the volume, whether dirty
LiveData = dict[Sector, bytes]


async def live_data(devices: Sequence[BlockDevice], checked: CheckedSet | None = None) -> LiveData:
    """The bytes of every live sector; of several copies that on the first member."""
    checked = checked or await check_set(devices)
    members = [member.block_device for member in checked.members]
    found: LiveData = {}
    assert checked.tree is not None
    for rows in checked.tree.rows.chunks():
        for key in rows:
            (pointer,) = key.pointers
            if checked.staleness(pointer):
                continue
            raw = await members[pointer.device].read(
                pointer.sector * SECTOR_BYTES, key.sectors * SECTOR_BYTES
            )
            for sector in range(key.sectors):
                place = (key.inode, key.offset + sector, key.dirty)
                found.setdefault(place, raw[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES])
    return found


def dirty(data: LiveData) -> LiveData:
    """The dirty sectors."""
    return {place: raw for place, raw in data.items() if place[2]}
