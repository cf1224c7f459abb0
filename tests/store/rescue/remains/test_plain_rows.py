# SPDX-License-Identifier: GPL-2.0-only
"""What is counted in columns is what is found extent by extent, in sound and in damaged sets."""

from collections.abc import Sequence
from random import Random

import pytest

from bcached.device.block_device import BlockDevice
from bcached.keys import Key, Pointer
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtents, Totals
from bcached.store.rescue.owner_of import Owner
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.lost_keys import bring_back_lost
from bcached.store.rescue.rescue import Rescue
from bcached.store.rescue.unreadable import Unreadable
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import bsets, garble, journal_entries, structures
from instruments.samples.image_builder import ImageBuilder, two_levels
from instruments.samples.kernel_images import image_bytes

SECTOR = 512
BAD = range(40_000, 60_000)  # sectors that a map calls bad


async def both(devices: Sequence[BlockDevice], *, spared: bool = True) -> tuple[Totals, Totals, Totals]:
    """Totals in columns and extent by extent of what can be read; and in columns of what cannot."""
    left = await read_corrected(devices)
    await bring_back_lost(left)
    extents = DirtyExtents.of(left)
    unreadable = Unreadable([device.size_bytes // SECTOR for device in devices])
    if not spared:
        unreadable.add(0, [BAD])
    rescue = Rescue(extents, Owner(0), Confidence.SURE, unreadable)
    rescue.count()
    singly = Totals()
    for extent in extents.of_inode(0):
        readable = sum(part.sectors for part, is_readable in unreadable.split(extent) if is_readable)
        if readable:
            singly.add(extent, readable)
    return rescue.totals, singly, rescue.lost


@pytest.mark.parametrize("spared", [True, False])
async def test_a_sound_set_is_counted_in_columns_as_one_by_one(spared: bool) -> None:
    image = MemoryDevice.holding(image_bytes("crash"))
    columns, singly, lost = await both([image], spared=spared)
    assert columns == singly
    assert (columns.sectors.total() + lost.sectors.total(), bool(lost.extents)) == (48167, not spared)


async def test_damaged_sets_are_counted_in_columns_as_one_by_one() -> None:
    checked, nodes = await structures("crash")
    prios = checked.chains[0][0][0] * checked.censuses[0].geometry.bucket_bytes
    entries = [byte + length // 2 for _, byte, length in journal_entries(checked)]
    of_leaf = [byte + length // 2 for byte, length in bsets(nodes, 0)]
    for places in ([prios], [entries[3]], [of_leaf[0]], [of_leaf[-1]], [of_leaf[1], prios]):
        raw = bytearray(image_bytes("crash"))
        for byte in places:
            garble(byte, Random(byte))(raw)
        columns, singly, _ = await both([MemoryDevice.holding(raw)])
        assert columns == singly, places


async def test_ranges_claims_and_copies_are_looked_at_closely() -> None:
    builder = ImageBuilder()
    root, leaves = two_levels(builder)
    one = builder.extent(0, 3000, 8, dirty=True)
    claimed = Key(0, 3016, 8, True, (Pointer(0, one.pointers[0].sector + 4, 0),))
    stale = builder.extent(0, 3032, 8, dirty=True)
    builder.gens[0][builder.geometry.bucket_of(stale.pointers[0].sector)] = 2
    twice = Key(0, 3048, 8, True, (*builder.extent(0, 0, 8).pointers, *builder.extent(0, 0, 8).pointers))
    builder.finish(root, 1, journal=[[one, claimed, stale, twice]])
    columns, singly, _ = await both(builder.devices())
    assert columns == singly
    assert columns.extents == {Confidence.SURE: 16, Confidence.CONFLICTING: 2, Confidence.NEWEST: 1}
    builder.write(builder.byte_of(leaves[1]) + 40, b"garbled!")
    columns, singly, _ = await both(builder.devices())
    assert columns == singly
