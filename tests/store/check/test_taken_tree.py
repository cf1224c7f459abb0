# SPDX-License-Identifier: GPL-2.0-only
"""A tree that a check has read is taken by the next reader, if what that begins with is the same."""

from random import Random

import pytest

from bcached.store.check.checker import check_set
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtents
from bcached.store.rescue.remains.lost_keys import bring_back_lost
from bcached.store.rescue.remains.set_left import SetLeft
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import (
    bsets,
    garble,
    journal_entries,
    structures,
    totals_of,
)
from instruments.samples.kernel_images import image_bytes


async def facts(left: SetLeft) -> dict[str, object]:
    """What a repair or a rescue goes by."""
    found = left.checked.findings
    await bring_back_lost(left)
    return {
        "findings": sorted(map(str, found.listed)),
        "counts": found.counts,
        "damaged": [(node.where, str(node.damage), node.is_torn, node.bsets) for node in left.damaged_nodes],
        "lost": left.lost_branches,
        "leaves": left.sound_leaves,
        "whole": (left.whole_nodes, left.doubts.index_is_whole, left.doubts.nothing_is_sure),
        "doubtful": [(one.low, one.high, list(one.newer)) for one in left.doubts.leaves],
        "dirty": totals_of(DirtyExtents.of(left).of_inode(0)),
    }


@pytest.mark.parametrize("damage", ["none", "prios", "first bset", "last bset", "entry"])
async def test_with_it_the_same_is_found_as_by_reading(damage: str) -> None:
    checked, nodes = await structures("crash")
    of_leaf = list(bsets(nodes, 0))
    _, entry, length = list(journal_entries(checked))[3]
    places = {
        "prios": checked.chains[0][0][0] * checked.censuses[0].geometry.bucket_bytes + 4000,
        "first bset": of_leaf[0][0] + of_leaf[0][1] // 2,
        "last bset": of_leaf[-1][0] + of_leaf[-1][1] // 2,
        "entry": entry + length // 2,
    }
    raw = bytearray(image_bytes("crash"))
    if damage in places:
        garble(places[damage], Random(1))(raw)
    devices = [MemoryDevice.holding(raw)]
    known = await check_set(devices)
    tree = known.tree
    taken = await read_corrected(devices, known=known)
    assert taken.checked.tree is tree or taken.corrected  # then it was read again
    assert known.tree is None
    assert await facts(taken) == await facts(await read_corrected(devices))


async def test_it_is_not_taken_if_the_journal_has_changed_since() -> None:
    checked, _ = await structures("crash")
    _, byte, length = list(journal_entries(checked))[-1]
    device = MemoryDevice.holding(image_bytes("crash"))
    known = await check_set([device])
    tree = known.tree
    raw = bytearray(device.image())
    garble(byte + length // 2, Random(1))(raw)
    left = await read_corrected([MemoryDevice.holding(raw)], known=known)
    assert left.checked.tree is not tree
    assert known.tree is None  # its memory is needed
    assert await facts(left) == await facts(await read_corrected([MemoryDevice.holding(raw)]))
