# SPDX-License-Identifier: GPL-2.0-only
"""A journal whose newest entries were erased: nothing is sure, and a repair ends it where it ends now."""

from pathlib import Path

import pytest

from bcached.runtime.lifetime import running
from bcached.store.check.checker import check_set
from bcached.store.finding import Severity
from bcached.store.journal.reader import End
from bcached.store.repair.needs import StepOption
from bcached.store.repair.plan import plan_repair
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.corrections import read_corrected
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import image_bytes, structures
from instruments.samples.living_set import set_options

NAME = "flash-lapped"
NEWEST = 10_201


async def erased(count: int) -> MemoryDevice:
    """An image of a later lap without its newest entries."""
    checked, _ = await structures(NAME)
    assert checked.journal is not None
    superblock = checked.members[0].superblock
    raw = bytearray(image_bytes(NAME))
    for bucket, placed in checked.journal.placed():
        if NEWEST - count < placed.entry.seq <= NEWEST:
            byte = bucket.bucket * superblock.bucket_sectors * 512 + placed.offset_bytes
            raw[byte : byte + 512] = bytes(512)
    return MemoryDevice.holding(raw)


async def state_of(device: MemoryDevice) -> tuple[int, End | None, bool, Severity]:
    """The newest entry, how the end is known, whether keys are sure, and the worst that a check finds."""
    left = await read_corrected([device])
    journal = left.journal.found
    known = journal.end.known if journal.end else None
    checked = await check_set([device])
    return journal.newest.seq, known, left.journal.is_whole, checked.findings.worst


@pytest.mark.parametrize("kind", ["older", "keys"])
async def test_another_sector_over_the_newest_entry_leaves_all_in_doubt_too(kind: str) -> None:
    """An older entry of the ring, or keys of a leaf."""
    checked, nodes = await structures(NAME)
    assert checked.journal is not None
    bucket_bytes = checked.members[0].superblock.bucket_sectors * 512
    raw = bytearray(image_bytes(NAME))
    at = {
        placed.entry.seq: bucket.bucket * bucket_bytes + placed.offset_bytes
        for bucket, placed in checked.journal.placed()
    }
    leaf = nodes[-1].key.pointers[0].sector * 512
    sectors = {
        "older": raw[at[NEWEST - 20] : at[NEWEST - 20] + 512],
        "keys": raw[leaf + 512 : leaf + 1024],
    }
    raw[at[NEWEST] : at[NEWEST] + 512] = sectors[kind]
    device = MemoryDevice.holding(raw)
    assert (await state_of(device))[:3] == (NEWEST - 1, End.SUSPECT, False)
    repair = await plan_repair([device], Wishes(frozenset({StepOption.CLEAR_JOURNAL}), seq=NEWEST - 1))
    await repair.write()
    newest, known, is_whole, worst = await state_of(device)
    assert (newest, is_whole, worst) == (NEWEST - 1, True, Severity.NOTE)
    assert known != End.SUSPECT


@pytest.mark.parametrize("count", [1, 12])
async def test_erased_entries_leave_all_in_doubt_until_the_owner_goes_on_without(
    count: int, tmp_path: Path
) -> None:
    device, seq = await erased(count), NEWEST - count
    assert await state_of(device) == (seq, End.SUSPECT, False, Severity.DAMAGE)
    repair = await plan_repair([device], Wishes(frozenset({StepOption.CLEAR_JOURNAL}), seq=seq))
    assert repair.obstacle == ""
    await repair.write()
    newest, known, is_whole, worst = await state_of(device)
    assert (newest, is_whole, worst) == (seq, True, Severity.NOTE)
    assert known != End.SUSPECT
    again = await plan_repair([device], Wishes(frozenset({StepOption.CLEAR_JOURNAL}), seq=seq))
    assert not again.is_needed
    for _ in range(2):
        await device.close()
        device = device.reopen()
        async with running([device], set_options(tmp_path)) as cache_set:
            for _ in range(5):
                await cache_set.maintenance.write_priorities()
        device = device.reopen()
        _, known, is_whole, worst = await state_of(device)
        assert (known, is_whole, worst) == (End.PROVEN, True, Severity.NOTE)


async def test_going_back_leaves_nothing_that_looks_erased() -> None:
    device, seq = MemoryDevice.holding(image_bytes(NAME)), NEWEST - 20
    repair = await plan_repair([device], Wishes(frozenset({StepOption.CLEAR_JOURNAL}), seq=seq))
    await repair.write()
    assert await state_of(device) == (seq, End.PLAUSIBLE, True, Severity.NOTE)
