# SPDX-License-Identifier: GPL-2.0-only
"""What a power cut interrupted has a wrong checksum, and costs nothing; what was damaged leaves doubts."""

from dataclasses import replace
from random import Random

import pytest

from bcached.keys import Key, Pointer
from bcached.store.finding import Severity
from bcached.store.repair.needs import StepOption
from bcached.store.repair.plan import plan_repair
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtents
from bcached.store.rescue.remains.doubts import Confidence
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import structures
from instruments.samples.image_builder import ImageBuilder
from instruments.samples.kernel_images import image_bytes

DIRTY = 27129


async def with_another_entry(name: str, cut: int | None, damage: int | None = None) -> MemoryDevice:
    """A kernel's image with one more entry of three sectors, written up to a byte, or with a word garbled."""
    checked, _ = await structures(name)
    superblock, journal = checked.members[0].superblock, checked.journal
    assert journal is not None
    bucket, placed = max(journal.placed(), key=lambda one: one[1].entry.seq)
    keys = tuple(Key(0, 100 * n, 8, True, (Pointer(0, 4096, 3),)) for n in range(50))
    newer = replace(journal.newest, seq=journal.newest.seq + 1, keys=keys)
    raw = bytearray(newer.pack(superblock.set_magic, 512))
    assert len(raw) == 3 * 512
    if damage is not None:
        raw[damage : damage + 8] = Random(damage).randbytes(8)
    raw[len(raw) if cut is None else cut :] = b""
    at = bucket.bucket * superblock.bucket_sectors * 512 + placed.offset_bytes + 512 * placed.blocks
    image = bytearray(image_bytes(name))
    image[at : at + len(raw)] = raw
    return MemoryDevice.holding(image)


async def sure_sectors(device: MemoryDevice) -> tuple[int, dict[str, Severity]]:
    left = await read_corrected([device])
    sure = sum(
        extent.sectors for extent in DirtyExtents.of(left).of_inode(0) if extent.confidence == Confidence.SURE
    )
    return sure, {finding.rule: finding.severity for finding in left.checked.findings.listed}


@pytest.mark.parametrize("cut", [512, 700])
async def test_an_entry_that_a_power_cut_interrupted_costs_nothing(cut: int) -> None:
    sure, found = await sure_sectors(await with_another_entry("clean", cut))
    assert (sure, found) == (DIRTY, {"journal-torn": Severity.TORN})


@pytest.mark.parametrize("damage", [200, 1400])
async def test_one_that_was_written_and_damaged_leaves_all_in_doubt(damage: int) -> None:
    sure, found = await sure_sectors(await with_another_entry("clean", None, damage))
    assert (sure, found) == (0, {"journal-newer": Severity.DAMAGE})


async def test_a_repair_of_something_else_gives_nothing_up_for_it() -> None:
    device = await with_another_entry("clean", 512)
    checked, _ = await structures("clean")
    ((prio, _),) = checked.chains[0]
    bucket_bytes = checked.censuses[0].geometry.bucket_bytes
    await device.write(prio * bucket_bytes, bytes(bucket_bytes))
    repair = await plan_repair(
        [device], Wishes(frozenset({StepOption.REBUILD_PRIOS}), most=Confidence.NEWEST)
    )
    assert repair.obstacle == ""
    assert repair.steps[0].loses_dirty is False
    assert repair.found.findings.sound


async def confidences(old: bytes | None, *, journaled: int = 40, garbled: int = 0) -> set[Confidence]:
    """Of a leaf whose last bset of two sectors was written up to the second: there is something old."""
    builder = ImageBuilder(block_sectors=1)
    first = [builder.extent(0, 0, 8, dirty=True)]
    data = builder.geometry.sector_of(builder.bucket())
    second = [Key(0, 100 + 8 * n, 1, True, (Pointer(0, data + n, 0),)) for n in range(40)]
    leaf = builder.node(first, second)
    builder.finish(leaf, journal=[second[:journaled], []])
    start = builder.byte_of(leaf) + 512
    if old is not None:
        builder.write(start + 512, old.ljust(512, b"\0"))
    if garbled:
        builder.write(start + garbled, Random(garbled).randbytes(8))
    left = await read_corrected(builder.devices())
    return {extent.confidence for extent in DirtyExtents.of(left).of_inode(0)}


@pytest.mark.parametrize("old", [b"", b"data of a client", Random(1).randbytes(512)])
async def test_a_leaf_whose_last_write_was_interrupted_lacks_nothing(old: bytes) -> None:
    assert await confidences(old) == {Confidence.SURE}


async def test_it_may_lack_something_if_its_keys_are_not_all_in_the_journal_or_it_ends_elsewhere() -> None:
    assert await confidences(None) == {Confidence.SURE}
    for damage in (
        {"old": b"", "journaled": 10},
        {"old": None, "garbled": 200},
        {"old": None, "garbled": 520},
    ):
        assert Confidence.NEWEST in await confidences(**damage)


async def test_a_leaf_with_keys_where_its_bsets_end_is_in_doubt() -> None:
    builder = ImageBuilder(block_sectors=1)
    keys = [Key(0, 100 + 8 * n, 1, True, builder.extent(0, 0, 1).pointers) for n in range(40)]
    leaf = builder.node([builder.extent(0, 0, 8, dirty=True)], keys)
    builder.finish(leaf)
    start = builder.byte_of(leaf) + 512
    builder.write(start, bytes(512))
    left = await read_corrected(builder.devices())
    (extent,) = DirtyExtents.of(left).of_inode(0)
    assert extent.confidence == Confidence.NEWEST
    assert left.checked.findings.counts["node-erased"] == 1
    builder.write(start + 512, bytes(1024))  # nothing of it is left: it is as if it had not been written
    left = await read_corrected(builder.devices())
    (extent,) = DirtyExtents.of(left).of_inode(0)
    assert extent.confidence == Confidence.SURE


async def test_so_are_keys_between_damage_and_such_a_bset() -> None:
    """What is behind damage is the newest of its leaf only if nothing behind it was erased."""
    builder = ImageBuilder(block_sectors=1)
    data = builder.geometry.sector_of(builder.bucket())
    first, second, newer = (
        [Key(0, begin + 8 * n, 1, True, (Pointer(0, data + begin // 8 + n, 0),)) for n in range(count)]
        for begin, count in ((80, 3), (160, 3), (240, 40))
    )
    leaf = builder.node([builder.extent(0, 0, 8, dirty=True)], first, second, newer)
    builder.finish(leaf)
    start = builder.byte_of(leaf)
    builder.write(start + 512 + 40, b"\x55" * 8)
    left = await read_corrected(builder.devices())
    assert Confidence.SURE in {extent.confidence for extent in DirtyExtents.of(left).of_inode(0)}
    builder.write(start + 3 * 512, bytes(512))
    left = await read_corrected(builder.devices())
    assert Confidence.SURE not in {extent.confidence for extent in DirtyExtents.of(left).of_inode(0)}
