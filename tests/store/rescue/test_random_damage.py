# SPDX-License-Identifier: GPL-2.0-only
"""Rescues of sets with damage in several places at once: none ends in a bug, and what is sure is right."""

import asyncio
import os
from collections.abc import Sequence
from random import Random

import pytest

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtents
from bcached.store.rescue.remains.lost_keys import bring_back_lost
from fuzz.bases import base
from fuzz.surgery import Surgeon
from fuzz.verdict import case_names
from instruments.samples.damaged_kernel_image import (
    Damage,
    backing_bytes,
    bsets,
    flip,
    garble,
    journal_entries,
    rescued,
    structures,
    wrong_sectors,
)

pytestmark = pytest.mark.timeout(600)
CASES = int(os.environ.get("BCACHED_RESCUES", "8"))


async def places(name: str) -> list[tuple[int, int]]:
    """The first byte and the length of what can be damaged so that it leaves a trace."""
    checked, nodes = await structures(name)
    bucket_bytes = checked.censuses[0].geometry.bucket_bytes
    assert checked.journal is not None
    return [
        (4096, 208),
        *((byte, length) for _, byte, length in journal_entries(checked)),
        *bsets(nodes, 0),
        *bsets(nodes, 1),
        (checked.chains[0][0][0] * bucket_bytes, bucket_bytes),
        (checked.journal.newest.uuid_bucket.pointers[0].sector * 512, 256),
    ]


@pytest.mark.parametrize("name", ["clean", "crash", "flash"])
async def test_what_is_sure_is_right_whatever_is_damaged(name: str) -> None:
    where = await places(name)
    for seed in range(CASES):
        random = Random(f"{name} {seed}")
        damages: list[Damage] = []
        for byte, length in random.sample(where, random.choice((2, 3, 5))):
            at = byte + random.randrange(length)
            damages.append(flip(at) if random.random() < 0.3 else garble(at, random))

        def damage(raw: bytearray, damages: list[Damage] = damages) -> None:
            for one in damages:
                one(raw)

        found = await rescued(name, damage)
        wrong = wrong_sectors(name, found.contents)
        assert wrong & found.sectors == set(), seed
        assert wrong <= wrong_sectors(name, backing_bytes(name)), seed


async def everything(devices: Sequence[BlockDevice]) -> DirtyExtents:
    left = await read_corrected(devices)
    await bring_back_lost(left)
    return DirtyExtents.of(left)


def test_no_field_of_any_structure_can_end_a_rescue_in_a_bug() -> None:
    refused = 0
    for name in case_names(200_000, 10 * CASES):
        chosen = base(name.partition(":")[0])
        devices = chosen.devices()
        Surgeon(chosen, devices, Random(name)).operate()
        try:
            extents = asyncio.run(everything(devices))
        except BcachedError:
            refused += 1
            continue
        for inode in extents.inodes():
            assert all(extent.sectors and extent.copies for extent in extents.of_inode(inode)), name
    assert refused < CASES, "most sets can be read"
