# SPDX-License-Identifier: GPL-2.0-only
"""A check merges sound leaves in columns; reading key by key, as a dump does, finds the same.

tests/fuzz compares them on sets that were changed at random.
"""

from random import Random

import pytest

from bcached.store.check.checker import CheckedSet, check_set, read_metadata, read_tree
from fuzz.verdict import outcome_of
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import bsets, garble, structures
from instruments.samples.kernel_images import NAMES, image_bytes


async def key_by_key(device: MemoryDevice) -> CheckedSet:
    checked = await read_metadata([device])
    assert not [node async for node in read_tree(checked) if node.merged is not None]
    return checked


@pytest.mark.parametrize("name", NAMES)
async def test_of_the_kernels_images(name: str) -> None:
    raw = image_bytes(name)
    assert outcome_of(await check_set([MemoryDevice.holding(raw)])) == outcome_of(
        await key_by_key(MemoryDevice.holding(raw))
    )


async def test_of_a_damaged_leaf() -> None:
    _, nodes = await structures("crash")
    for byte, length in list(bsets(nodes, 0))[::6]:
        raw = bytearray(image_bytes("crash"))
        garble(byte + length // 2, Random(byte))(raw)
        columns = outcome_of(await check_set([MemoryDevice.holding(raw)]))
        assert columns == outcome_of(await key_by_key(MemoryDevice.holding(raw)))
        assert columns[0], "it is found"
