# SPDX-License-Identifier: GPL-2.0-only
"""A set of whose journal nothing is left: what its leaves have stays if the owner says so, and only then."""

from pathlib import Path
from random import Random

import pytest

from bcached.errors import SetRefused
from bcached.store.check.checker import check_set
from bcached.store.repair.needs import StepOption, needed_steps
from bcached.store.repair.plan import plan_repair
from bcached.store.repair.undo.undo import Undo
from bcached.store.repair.undo.undo_log import UndoLog
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtents
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.lost_keys import bring_back_lost
from bcached.units import SECTOR_BYTES
from instruments.devices.bad_sectors import BadSectorsDevice
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import totals_of
from instruments.samples.kernel_images import image_bytes

ALL = frozenset({StepOption.REBUILD_PRIOS, StepOption.REBUILD_VOLUMES, StepOption.DROP_DAMAGED})
IN_LEAVES = 47152  # dirty sectors


async def journal_sectors() -> range:
    (member,) = (await check_set([MemoryDevice.holding(image_bytes("crash"))])).members
    journal, size = member.superblock.journal_buckets, member.superblock.bucket_sectors
    return range(journal[0] * size, (journal[-1] + 1) * size)


async def without_journal(what: bytes) -> MemoryDevice:
    raw, lost = bytearray(image_bytes("crash")), await journal_sectors()
    raw[lost.start * SECTOR_BYTES : lost.stop * SECTOR_BYTES] = what * (len(lost) * SECTOR_BYTES // len(what))
    return MemoryDevice.holding(raw)


@pytest.mark.parametrize("what", [b"\0", Random(1).randbytes(SECTOR_BYTES)], ids=["zeros", "rubbish"])
async def test_it_is_rebuilt_of_the_leaves_that_are_found(what: bytes, tmp_path: Path) -> None:
    device = await without_journal(what)
    before = device.image()
    assert needed_steps((await check_set([device])).findings) == ALL
    repair = await plan_repair([device], Wishes(ALL, most=Confidence.NEWEST))
    assert repair.obstacle.startswith("dirty data would be lost, or may be")  # as none knows what is missing
    repair = await plan_repair([device], Wishes(ALL, most=Confidence.NEWEST, accepts_loss=True))
    assert (repair.obstacle, device.image()) == ("", before)
    undo = await UndoLog.create(str(tmp_path / "undo"), [device])
    await repair.write(undo)
    undo.log.close()
    assert repair.found.findings.sound
    assert repair.found.totals.dirty_sectors == IN_LEAVES
    await Undo.read(str(tmp_path / "undo")).restore([device])
    assert device.image() == before


async def test_what_is_not_sure_does_not_stay_unasked() -> None:
    device = await without_journal(b"\0")
    repair = await plan_repair([device], Wishes(ALL, accepts_loss=True))
    (step,) = repair.steps
    assert step.loses_dirty
    assert step.keeps[0] == "0 dirty sectors, 0 clean ones"
    assert f"{IN_LEAVES} dirty sectors that may not be the newest; --newest keeps them" in step.gives_up


async def test_with_bad_sectors_it_is_refused_and_a_rescue_finds_as_much() -> None:
    device = BadSectorsDevice(MemoryDevice.holding(image_bytes("crash")), [await journal_sectors()])
    assert needed_steps((await check_set([device])).findings) == ALL
    with pytest.raises(SetRefused, match=r"`bcachectl rescue` reads around what is bad"):
        await plan_repair([device], Wishes(ALL, most=Confidence.NEWEST, accepts_loss=True))
    left = await read_corrected([device])
    await bring_back_lost(left)
    totals = totals_of(DirtyExtents.of(left).of_inode(0))
    assert totals.sectors == {Confidence.NEWEST: IN_LEAVES}
