# SPDX-License-Identifier: GPL-2.0-only
"""Sets of which the newest bset of a leaf, or the newest journal entry, was erased: what only keys show."""

from pathlib import Path

import pytest

from bcached.runtime.lifetime import running
from bcached.store.check.checker import check_set
from bcached.store.repair.needs import StepOption, commands_for
from bcached.store.repair.plan import plan_repair
from bcached.store.repair.undo.undo import Undo
from bcached.store.repair.undo.undo_log import UndoLog
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.remains.doubts import Confidence
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import (
    erase,
    image_bytes,
    journal_entries,
    structures,
    without_newest_bset,
)
from instruments.samples.living_set import set_options

DROP = frozenset({StepOption.DROP_DAMAGED})


async def without_newest_entry() -> bytes:
    checked, _ = await structures("flash")
    *_, (_, byte, _) = journal_entries(checked)
    raw = bytearray(image_bytes("flash"))
    erase(byte, 512)(raw)
    return bytes(raw)


@pytest.mark.parametrize("most", [Confidence.SURE, Confidence.NEWEST])
@pytest.mark.parametrize(
    ("damaged", "rule"), [(without_newest_bset, "node-erased"), (without_newest_entry, "journal-end")]
)
async def test_a_check_names_the_step_that_leaves_a_sound_set(
    damaged: object, rule: str, most: Confidence, tmp_path: Path
) -> None:
    assert callable(damaged)
    device = MemoryDevice.holding(await damaged())
    before = device.image()
    found = (await check_set([device])).findings
    assert found.counts == {rule: 1}
    assert commands_for(found, ["cache"]) == ["bcachectl repair -n --drop-damaged cache"]
    repair = await plan_repair([device], Wishes(DROP, most=most))
    assert repair.obstacle.startswith("dirty data would be lost, or may be")
    repair = await plan_repair([device], Wishes(DROP, most=most, accepts_loss=True))
    assert (repair.obstacle, device.image()) == ("", before)
    undo = await UndoLog.create(str(tmp_path / "undo"), [device])
    await repair.write(undo)
    undo.log.close()
    assert repair.found.findings.sound
    kept = repair.found.totals.dirty_sectors
    assert kept if most == Confidence.NEWEST or rule == "node-erased" else not kept
    copy = MemoryDevice.holding(device.image())
    async with running([copy], set_options(tmp_path)) as cache_set:
        assert cache_set.verify() == []
    await Undo.read(str(tmp_path / "undo")).restore([device])
    assert device.image() == before
