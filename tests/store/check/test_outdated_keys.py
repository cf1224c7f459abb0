# SPDX-License-Identifier: GPL-2.0-only
"""Leaves that lack newer keys, as journal entries show that are not needed any more: for check and rescue."""

from collections.abc import Sequence

import pytest

from bcached.keys import Key
from bcached.store.check.checker import check_set
from bcached.store.finding import Severity
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtents
from bcached.store.rescue.remains.doubts import Confidence
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import without_newest_bset
from instruments.samples.image_builder import ImageBuilder

SURE, NEWEST, REPLACED = Confidence.SURE, Confidence.NEWEST, Confidence.CONFLICTING
BOUNDARY = 500  # of the leaves
BLOCK_BYTES = 4096


async def confidence(
    builder: ImageBuilder,
    bsets: Sequence[Sequence[Key]],
    former: Sequence[Sequence[Key]],
    needed: Sequence[Key],
    damaged: int | None = None,
) -> dict[int, Confidence]:
    """Of each dirty extent by its first sector, in a set with two leaves; the second has one key.

    damaged: the number of a bset of the first.
    """
    first = builder.write_node(builder.node_key((0, BOUNDARY)), *bsets)
    if damaged is not None:
        begin = builder.byte_of(first) + damaged * BLOCK_BYTES
        builder.images[0][begin + 32 : begin + 40] = b"damaged!"  # more than a bit, which would be corrected
    second = builder.node([builder.extent(0, BOUNDARY + 8, 8, dirty=True)])
    builder.finish(builder.node([first, second]), 1, [*former, ()])
    newest, byte = builder.entries[len(former) + 1]
    builder.write_entry(builder.entry(newest.seq, newest.seq, needed), byte)
    checked = await check_set(builder.devices())
    left = await read_corrected(builder.devices())
    damages = [one.rule for one in left.checked.findings.listed if one.severity >= Severity.DAMAGE]
    found = {one.offset: one.confidence for one in DirtyExtents.of(left).of_inode(0)}
    if damaged is None:
        assert damages == (["node-erased"] if REPLACED in found.values() else [])
        assert checked.findings.counts["node-erased"] == len(damages), "a check finds the same"
    assert found.pop(BOUNDARY + 8) == SURE, "the other leaf lacks nothing"
    return found


def keys(builder: ImageBuilder, *offsets: int) -> list[Key]:
    return [builder.extent(0, offset, 8, dirty=True) for offset in offsets]


async def test_a_key_that_an_entry_replaced_leaves_its_leaf_in_doubt_but_for_the_journals_keys() -> None:
    builder = ImageBuilder()
    old, new, needed = keys(builder, 0, 40), keys(builder, 0), keys(builder, 80)
    found = await confidence(builder, [old], [old, new], needed)
    assert found == {0: REPLACED, 40: NEWEST, 80: SURE}


async def test_a_part_that_was_replaced_or_dropped_is_enough() -> None:
    builder = ImageBuilder()
    (old,) = keys(builder, 0)
    part, deletion = builder.extent(0, 2, 3, dirty=True), Key(0, 6, 2, False, ())
    for newer in (part, deletion):
        builder = ImageBuilder()
        (old,) = keys(builder, 0)
        found = await confidence(builder, [[old]], [[old], [newer]], ())
        assert found[newer.offset] == REPLACED
        assert {confidence for offset, confidence in found.items() if offset != newer.offset} == {NEWEST}


@pytest.mark.parametrize("number", range(4))
async def test_what_a_leaf_may_have_instead_contradicts_nothing(number: int) -> None:
    """The newer key; what a collection moved it to; one from before all entries; one that is there again."""
    builder = ImageBuilder()
    (old,), (new,), (other,) = (keys(builder, 0) for _ in range(3))
    bsets, former = [
        ([[old], [new]], [[old], [new]]),
        ([[old], [other]], [[old], [new]]),
        ([[old]], [[new]]),
        ([[old]], [[old], [new], [old]]),
    ][number]
    assert await confidence(builder, bsets, former, ()) == {0: SURE}


async def test_what_the_journal_itself_replaces_is_not_outdated() -> None:
    builder = ImageBuilder()
    old, new = keys(builder, 0), keys(builder, 0)
    assert await confidence(builder, [old], [old], new) == {0: SURE}


@pytest.mark.parametrize("is_erased", [False, True])
async def test_a_damaged_leaf_may_lack_its_newest_bset_too(is_erased: bool) -> None:
    """What is behind the damage is sure, unless an entry replaced it; what is in front was replaced."""
    builder = ImageBuilder()
    front, damaged, behind, newest = keys(builder, 0), keys(builder, 0), keys(builder, 40), keys(builder, 40)
    bsets = [front, damaged, behind] if is_erased else [front, damaged, behind, newest]
    found = await confidence(builder, bsets, [front, damaged, behind, newest], (), damaged=1)
    assert found == {0: REPLACED, 40: REPLACED if is_erased else SURE}


async def test_a_kernels_newest_bset_that_was_erased_whole_shows() -> None:
    left = await read_corrected([MemoryDevice.holding(await without_newest_bset())])
    assert left.checked.findings.counts["node-erased"] == 1
    assert not left.doubts.index_is_whole
