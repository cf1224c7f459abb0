# SPDX-License-Identifier: GPL-2.0-only
"""What a rescue and a repair make of a damaged image, judged by what the kernel read from it."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError
from bcached.store.finding import Severity
from bcached.store.repair.needs import StepOption
from bcached.store.repair.new_metadata.volume_slots import NamedBacking
from bcached.store.repair.plan import plan_repair
from bcached.store.repair.undo.undo import Undo
from bcached.store.repair.undo.undo_log import UndoLog
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtent, DirtyExtents
from bcached.store.rescue.owner_of import read_backing
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.lost_keys import bring_back_lost
from bcached.store.rescue.remains.superblock_left import KnownLayout
from bcached.store.rescue.unreadable import Unreadable
from bcached.store.rescue.write_back import DirtyDataWriter
from damages.excuse import excused_sectors
from damages.kinds import SECTOR, Kind, damaged
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import WITH_BACKING, backing_bytes, structures, wrong_sectors

STEPS = frozenset(StepOption) - {StepOption.CLEAR_JOURNAL, StepOption.DROP_MISSING}


@dataclass(frozen=True)
class Outcome:
    """Shares of the sectors that only the cache had, and what a repair came to."""

    sure: float
    newest: float  # right, with all that is the newest found
    harm: int  # sectors of those sure that are wrong, or were right before
    repair: str  # "sound", or why not
    unnoticed: int = 0  # sectors as those, but of an entry whose erasure no reader can notice (excuse.py)


async def outcome(name: str, kinds: list[Kind], folder: Path | None) -> Outcome:
    """Damage an image, rescue it and repair it; only the former without a folder for the undo file."""
    lacking = wrong_sectors(name, backing_bytes(name))
    device, readable = damaged(name, kinds)
    layout = await _layout(name)
    try:
        left = await read_corrected([readable], layout)
        await bring_back_lost(left)
    except BcachedError as error:
        return Outcome(0.0, 0.0, 0, await repaired(name, device, readable, layout, folder) or str(error))
    extents, target = DirtyExtents.of(left), MemoryDevice.holding(backing_bytes(name))
    found = list(extents.of_inode(0))
    unreadable = Unreadable([readable.size_bytes // SECTOR])
    shares, harm = [], set[int]()
    for confidence in (Confidence.SURE, Confidence.NEWEST):
        chosen = [extent for extent in found if extent.confidence == confidence]
        await DirtyDataWriter([readable], unreadable, target).run(chosen)
        wrong = wrong_sectors(name, target.image())
        shares.append(1 - len(wrong & lacking) / len(lacking))
        if confidence == Confidence.SURE:
            harm = (wrong - lacking) | (wrong & _readable(chosen, kinds, readable.size_bytes // SECTOR))
    excused = harm and await excused_sectors(name, _as_read(device, kinds), left)
    repair = await repaired(name, device, readable, layout, folder)
    return Outcome(shares[0], shares[1], len(harm - excused), repair, len(harm & excused))


def _readable(chosen: list[DirtyExtent], kinds: list[Kind], end: int) -> set[int]:
    """Returns the sectors of these extents whose first copy can be read."""
    bad = {sector for kind in kinds for sector in kind.bad}
    return {
        one.offset + number
        for one in chosen
        for number in range(one.sectors)
        if (sector := one.copies[0].sector + number) < end and sector not in bad
    }


def _as_read(device: MemoryDevice, kinds: list[Kind]) -> bytes:
    """Returns the bytes of a device, with others where it cannot be read: nothing there shows anything."""
    raw = bytearray(device.image())
    for kind in kinds:
        begin, end = (min(sector * SECTOR, len(raw)) for sector in (kind.bad.start, kind.bad.stop))
        raw[begin:end] = b"\xff" * (end - begin)
    return bytes(raw)


async def _layout(name: str) -> KnownLayout:
    superblock = (await structures(name))[0].members[0].superblock
    return KnownLayout(superblock.bucket_sectors, superblock.block_sectors, superblock.set_uuid)


async def repaired(
    name: str, device: MemoryDevice, readable: BlockDevice, layout: KnownLayout, folder: Path | None
) -> str:
    """Returns "sound" if a repair by all steps ends so, or opening will; undone, the device is as it was."""
    if folder is None:
        return ""
    before = device.image()
    backings = []
    if name in WITH_BACKING:
        backing = (await read_backing(MemoryDevice.holding(backing_bytes(name)))).superblock
        backings = [NamedBacking("backing", backing)]
    wishes = Wishes(
        STEPS, most=Confidence.SURE, accepts_loss=True, set_uuid=layout.set_uuid, backings=backings
    )
    try:
        repair = await plan_repair([readable], wishes)
        if repair.obstacle:
            return repair.obstacle
        path = folder / "undo"
        path.unlink(missing_ok=True)
        undo = await UndoLog.create(str(path), [readable])
        try:
            await repair.write(undo)
        finally:
            undo.log.close()
    except BcachedError as error:
        assert device.image() == before, "a repair that was refused has written"
        return f"refused: {error}"
    worst = repair.found.findings.worst
    await Undo.read(str(path)).restore([readable])
    assert device.image() == before, "undo did not bring all back"
    return "sound" if worst <= Severity.TORN else "not sound"


def outcome_of(name: str, kinds: list[Kind], folder: Path | None) -> Outcome:
    """The same for a process of its own."""
    return asyncio.run(outcome(name, kinds, folder))
