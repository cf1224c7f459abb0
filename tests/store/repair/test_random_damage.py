# SPDX-License-Identifier: GPL-2.0-only
"""Repairs of sets with damage at random: each ends in a sound set that opens, or says why it cannot.

What stays is right, and the undo file brings everything back to the byte.
"""

import asyncio
import os
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest

from bcached.errors import BcachedError
from bcached.runtime.lifetime import running
from bcached.store.check.checker import check_set
from bcached.store.repair.needs import Step
from bcached.store.repair.plan import plan_repair
from bcached.store.repair.repair import Repair
from bcached.store.repair.undo import Undo, UndoLog
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.doubts import Confidence
from fuzz.bases import base
from fuzz.surgery import Surgeon
from fuzz.verdict import case_names
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.living_set import set_options
from instruments.time.virtual_time import run_in_virtual_time

pytestmark = pytest.mark.timeout(3600)
CASES = int(os.environ.get("BCACHED_REPAIRS", "24"))
STEPS = frozenset(Step) - {Step.CLEAR_JOURNAL}


async def repaired(devices: list[MemoryDevice], random: Random, folder: Path) -> Repair | None:
    """Repair the set as far as it goes, undo that, and repair it again; None if it was refused."""
    before = [device.image() for device in devices]
    most = random.choice((Confidence.SURE, Confidence.NEWEST))
    try:
        repair = await plan_repair(devices, Wishes(STEPS, most=most, accepts_loss=True))
    except BcachedError:
        assert [device.image() for device in devices] == before
        return None
    assert [device.image() for device in devices] == before
    if not repair.obstacle:
        path = str(folder / "undo")
        undo = await UndoLog.create(path, devices)
        await repair.write(undo)
        undo.log.close()
        after = [device.image() for device in devices]
        await Undo.read(path).restore(devices)
        assert [device.image() for device in devices] == before
        for device, image in zip(devices, after, strict=True):
            await device.write(0, image)
    return repair


async def opens(devices: list[MemoryDevice], folder: Path) -> list[str]:
    async with running(devices, set_options(folder)) as cache_set:
        return cache_set.verify()


def test_a_repair_ends_in_a_sound_set_or_says_why_not() -> None:
    outcomes = {True: 0, False: 0}
    for name in case_names(300_000, CASES):
        chosen = base(name.partition(":")[0])
        devices = chosen.devices()
        random = Random(name)
        Surgeon(chosen, devices, random).operate()
        with TemporaryDirectory() as text:
            folder = Path(text)
            repair = asyncio.run(repaired(devices, random, folder))
            is_sound = repair is not None and not repair.obstacle and repair.found.findings.sound
            outcomes[is_sound] += 1
            if is_sound:
                assert asyncio.run(check_set(devices)).findings.sound, name
                assert run_in_virtual_time(opens(devices, folder)) == [], name
    assert outcomes[True] > outcomes[False], outcomes
