# SPDX-License-Identifier: GPL-2.0-only
"""A sector of the index where the next journal entry would be."""

from bcached.format.damage.entry_rest import ends_of_rest
from bcached.store.check.checker import check_set
from bcached.store.finding import Severity
from bcached.store.journal.reader import End
from bcached.store.repair.needs import StepOption
from bcached.store.repair.plan import plan_repair
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtents
from bcached.store.rescue.remains.doubts import Confidence
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import image_bytes, journal_entries, structures
from instruments.samples.image_builder import ImageBuilder

SECTOR = 512


async def confidences(device: MemoryDevice) -> set[Confidence]:
    left = await read_corrected([device])
    return {extent.confidence for extent in DirtyExtents.of(left).of_inode(0)}


async def with_index_over_newest_entry() -> tuple[int, list[MemoryDevice]]:
    """The crashed image with a sector of its leaf over the newest entry, and the seq of the one before.

    Once with each sector that could be an entry's.
    """
    checked, nodes = await structures("crash")
    (leaf,) = [node for node in nodes if node.level == 0]
    *_, (before, _, _), (_, byte, _) = journal_entries(checked)
    raw, begin = image_bytes("crash"), leaf.key.pointers[0].sector * SECTOR
    found = []
    for at in range(begin, begin + leaf.key.sectors * SECTOR, SECTOR):
        sector = raw[at : at + SECTOR]
        if any(sector) and ends_of_rest(sector):
            found.append(MemoryDevice.holding(bytearray(raw[:byte] + sector + raw[byte + SECTOR :])))
    return before, found


async def test_it_shows_that_an_entry_may_have_been_there_and_a_repair_ends_the_journal() -> None:
    before, devices = await with_index_over_newest_entry()
    assert devices
    for device in devices:
        assert await confidences(device) == {Confidence.NEWEST}
        checked = await check_set([device])
        assert checked.journal is not None
        assert checked.journal.newest.seq == before
        (finding,) = [one for one in checked.findings.listed if one.severity >= Severity.DAMAGE]
        assert finding.rule == "journal-end"
        assert "what is there is in the index, too: " in finding.problem
        assert f"--clear-journal-behind {before}" in finding.advice
    repair = await plan_repair(devices[:1], Wishes(frozenset({StepOption.CLEAR_JOURNAL}), before))
    assert repair.obstacle == ""
    assert repair.found.findings.worst <= Severity.TORN


async def test_the_rest_of_an_entry_that_was_interrupted_is_not_of_the_index() -> None:
    """A life begins a bucket. What it cannot finish is where the next life begins."""
    builder = ImageBuilder(block_sectors=1)
    interrupted = [builder.extent(0, 5000 + 8 * number, 8, dirty=True) for number in range(40)]
    builder.finish(builder.node([builder.extent(0, 0, 8, dirty=True)]))
    newest, byte = builder.entries[max(builder.entries)]
    rest = builder.entry(newest.seq, newest.last_seq, interrupted).pack(builder.set_magic, SECTOR)[SECTOR:]
    builder.write(byte + SECTOR, rest)
    checked = await check_set(builder.devices())
    assert checked.journal is not None
    assert checked.journal.end is not None
    assert checked.journal.end.keys is not None
    assert checked.journal.end.known == End.PLAUSIBLE
    assert checked.findings.sound
