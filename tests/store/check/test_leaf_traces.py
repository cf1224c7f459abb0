# SPDX-License-Identifier: GPL-2.0-only
"""Keys of a leaf that only a journal entry newer than all that were found can have named."""

from collections.abc import Sequence

import pytest

from bcached.keys import Key, Pointer
from bcached.store.check.checker import check_set, read_metadata, read_tree
from bcached.store.finding import Severity
from bcached.store.journal.reader import End
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtents
from bcached.store.rescue.remains.doubts import Confidence
from bcached.units import SECTOR_BYTES
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import erase, image_bytes, journal_entries, structures
from instruments.samples.image_builder import ImageBuilder

PAGE_OF_KEYS = 170


def dirty(builder: ImageBuilder, first: int, count: int = 3) -> list[Key]:
    """So many dirty keys of 8 sectors, in a bucket each few."""
    return [builder.extent(0, first + 8 * number, 8, dirty=True) for number in range(count)]


async def read(
    builder: ImageBuilder, bsets: Sequence[Sequence[Key]], *entries: Sequence[Key]
) -> tuple[End, set[Confidence]]:
    """How the end is known of a set with one leaf and these entries, and how its dirty data is called."""
    leaf = builder.write_node(builder.node_key(), *bsets)
    builder.finish(leaf, 0, list(entries))
    checked = await check_set(builder.devices())
    left = await read_corrected(builder.devices())
    end = left.journal.found.end
    assert end is not None
    damages = [one.rule for one in left.checked.findings.listed if one.severity >= Severity.DAMAGE]
    assert damages == (["journal-end"] if end.known == End.SUSPECT else [])
    assert [one.rule for one in checked.findings.listed if one.severity >= Severity.DAMAGE] == damages
    found = {extent.confidence for extent in DirtyExtents.of(left).of_inode(0)}
    return end.known, found


async def test_dirty_keys_of_a_small_append_that_no_entry_has_leave_nothing_sure() -> None:
    builder = ImageBuilder()
    old, new, erased = (dirty(builder, 100 * number) for number in range(3))
    assert await read(builder, [old, new + erased], old, new) == (End.SUSPECT, {Confidence.NEWEST})


@pytest.mark.parametrize(("erased", "end"), [(0, End.PLAUSIBLE), (3, End.SUSPECT)])
async def test_so_do_those_behind_a_damaged_bset(erased: int, end: End) -> None:
    builder = ImageBuilder()
    bsets = [dirty(builder, 100 * number) for number in range(3)]
    last = dirty(builder, 300) + dirty(builder, 400, erased)
    leaf = builder.write_node(builder.node_key(), *bsets, last)
    builder.finish(leaf, 0, [*bsets, last[:3]])
    builder.write(builder.byte_of(leaf) + builder.geometry.block_sectors * SECTOR_BYTES + 40, b"\x55" * 8)
    left = await read_corrected(builder.devices())
    assert left.checked.findings.counts["node-damaged"] == 1
    assert left.journal.found.end is not None
    assert left.journal.found.end.known == end
    found = {extent.confidence for extent in DirtyExtents.of(left).of_inode(0)}
    assert (Confidence.SURE in found) == (end == End.PLAUSIBLE)


async def test_keys_that_the_journal_has_contradict_nothing() -> None:
    builder = ImageBuilder()
    old, new = dirty(builder, 0), dirty(builder, 100)
    whole, *others = new
    part = Key(0, whole.offset + 2, 6, True, (Pointer(0, whole.pointers[0].sector + 2, 0),))
    assert await read(builder, [old, [part, *others]], old, new) == (End.PLAUSIBLE, {Confidence.SURE})


async def test_clean_keys_are_in_no_entry() -> None:
    """The kernel does not journal that data was written back, nor what it reads into the cache."""
    builder = ImageBuilder()
    old = dirty(builder, 0)
    clean = [Key(0, old[0].offset, 8, False, old[0].pointers), builder.extent(0, 900, 8)]
    assert await read(builder, [old, clean], old, ()) == (End.PLAUSIBLE, {Confidence.SURE})


async def test_nor_are_dirty_sectors_that_were_moved() -> None:
    builder = ImageBuilder()
    old = dirty(builder, 0)
    moved = builder.extent(0, old[0].offset, 8, dirty=True)
    assert await read(builder, [old, [moved]], old, ()) == (End.PLAUSIBLE, {Confidence.SURE})


async def test_a_bset_that_filled_a_page_may_be_written_before_the_journal() -> None:
    builder = ImageBuilder()
    old, many = dirty(builder, 0, 60), dirty(builder, 1000, PAGE_OF_KEYS)
    assert await read(builder, [old, many], old) == (End.PLAUSIBLE, {Confidence.SURE})
    builder = ImageBuilder()
    old, few = dirty(builder, 0, 60), dirty(builder, 1000, PAGE_OF_KEYS - 3)
    assert await read(builder, [old, few], old) == (End.SUSPECT, {Confidence.NEWEST})


async def test_a_journal_that_never_had_all_keys_says_nothing() -> None:
    """A repair or a clone begins a journal with an entry without keys."""
    builder = ImageBuilder()
    old, new, newest = (dirty(builder, 100 * number) for number in range(3))
    assert await read(builder, [old, new, newest], new) == (End.PLAUSIBLE, {Confidence.SURE})
    builder = ImageBuilder()
    old, new = dirty(builder, 0), dirty(builder, 100)
    assert await read(builder, [old, new], ()) == (End.PLAUSIBLE, {Confidence.SURE})


async def test_a_kernels_newest_entry_that_was_erased_after_a_stop_leaves_nothing_sure() -> None:
    """Its keys are in a leaf, but what older entries say of the same sectors counts more."""
    checked, _ = await structures("flash")
    *_, (seq, byte, _) = journal_entries(checked)
    raw = bytearray(image_bytes("flash"))
    erase(byte, 512)(raw)
    left = await read_corrected([MemoryDevice.holding(raw)])
    assert left.journal.found.newest.seq == seq - 1
    (finding,) = [one for one in left.checked.findings.listed if one.rule == "journal-end"]
    assert "a power cut can hardly cause this" in finding.problem
    assert {one.confidence for one in DirtyExtents.of(left).of_inode(0)} == {Confidence.NEWEST}


async def test_an_entry_that_is_written_during_the_check_was_not_erased() -> None:
    checked, _ = await structures("flash")
    *_, (seq, byte, _) = journal_entries(checked)
    raw = bytearray(image_bytes("flash"))
    erase(byte, 512)(raw)
    device = MemoryDevice.holding(raw)
    found = await read_metadata([device])
    assert found.journal is not None
    assert found.journal.newest.seq == seq - 1
    await device.write(byte, image_bytes("flash")[byte : byte + 512])
    async for _ in read_tree(found):
        pass
    assert "journal-end" not in found.findings.counts
