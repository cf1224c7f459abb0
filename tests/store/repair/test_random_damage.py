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
from bcached.keys import Key
from bcached.runtime.lifetime import running
from bcached.store.check.checker import check_set
from bcached.store.repair.needs import StepOption
from bcached.store.repair.plan import plan_repair
from bcached.store.repair.repair import Repair
from bcached.store.repair.undo.undo import Undo
from bcached.store.repair.undo.undo_log import UndoLog
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.remains.doubts import Confidence
from bcached.units import SECTOR_BYTES
from fuzz.bases import base
from fuzz.surgery import Surgeon
from fuzz.verdict import case_names
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import (
    bsets,
    flip,
    garble,
    journal_entries,
    structures,
    truth,
)
from instruments.samples.kernel_images import image_bytes
from instruments.samples.living_set import set_options
from instruments.time.virtual_time import run_in_virtual_time

pytestmark = pytest.mark.timeout(3600)
CASES = int(os.environ.get("BCACHED_REPAIRS", "16"))
STEPS = frozenset(StepOption) - {StepOption.CLEAR_JOURNAL, StepOption.DROP_MISSING}


async def repaired(
    devices: list[MemoryDevice], random: Random, folder: Path, most: Confidence | None = None
) -> Repair | None:
    """Repair the set as far as it goes, undo that, and repair it again; None if it was refused."""
    before = [device.image() for device in devices]
    if most is None:
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


async def places(name: str) -> list[tuple[int, int]]:
    """The first byte and the length of each structure of a kernel's image that leaves a trace if damaged."""
    checked, nodes = await structures(name)
    bucket_bytes = checked.censuses[0].geometry.bucket_bytes
    assert checked.journal is not None
    return [
        (4096, 208),
        *((byte, length) for _, byte, length in journal_entries(checked)),
        *bsets(nodes, 0),
        *bsets(nodes, 1),
        (checked.chains[0][0][0] * bucket_bytes, bucket_bytes),
        (checked.journal.newest.uuid_bucket.pointers[0].sector * SECTOR_BYTES, 256),
    ]


async def wrong_in_cache(name: str, device: MemoryDevice) -> list[Key]:
    """The keys of a set, clean ones too, whose data is not what the kernel read from the volume."""
    right, known = truth(name)
    checked = await check_set([device])
    assert checked.tree is not None
    raw, wrong = device.image(), []
    for key in (key for rows in checked.tree.rows.chunks() for key in rows):
        if key.inode or checked.staleness(key.pointers[0]):
            continue
        for number in range(key.sectors):
            sector, here = key.offset + number, (key.pointers[0].sector + number) * SECTOR_BYTES
            there = sector * SECTOR_BYTES
            is_known = sector < len(known) and known[sector]
            if is_known and raw[here : here + SECTOR_BYTES] != right[there : there + SECTOR_BYTES]:
                wrong.append(key)
                break
    return wrong


@pytest.mark.parametrize("name", ["clean", "crash", "flash"])
async def test_what_stays_of_a_kernels_set_is_right(name: str, tmp_path: Path) -> None:
    where = await places(name)
    for seed in range(1 + CASES // 50):
        random = Random(f"{name} {seed}")
        raw = bytearray(image_bytes(name))
        for byte, length in random.sample(where, random.choice((1, 2, 4))):
            at = byte + random.randrange(length)
            (flip(at) if random.random() < 0.3 else garble(at, random))(raw)
        device = MemoryDevice.holding(bytes(raw))
        folder = tmp_path / str(seed)
        folder.mkdir()
        repair = await repaired([device], random, folder, Confidence.SURE)
        if repair is not None and not repair.obstacle:
            assert await wrong_in_cache(name, device) == [], seed
