# SPDX-License-Identifier: GPL-2.0-only
"""What the real kernel wrote, read back: it must equal what the kernel said of it."""

from uuid import UUID

import numpy as np
import pytest

from bcached.keys import Key
from bcached.store.check.checker import CheckedSet, check_set
from instruments.samples.kernel_images import NAMES, KernelImage, kernel_image, keys_of

every_image = pytest.mark.parametrize("name", NAMES)


async def checked(image: KernelImage) -> CheckedSet:
    device = image.device()
    try:
        return await check_set([device])
    finally:
        await device.close()


def live_keys(found: CheckedSet) -> list[Key]:
    assert found.tree is not None
    return [key for rows in found.tree.rows.chunks() for key in rows if found.staleness(key.pointers[0]) == 0]


@every_image
async def test_nothing_is_found_wrong(name: str) -> None:
    found = await checked(kernel_image(name))
    assert found.findings.listed == []
    assert found.findings.sound


@every_image
async def test_live_keys_dirty_and_clean_are_those_the_kernel_lists(name: str) -> None:
    image = kernel_image(name)
    found = await checked(image)
    expected = keys_of(image.registered)
    assert live_keys(found) == expected
    assert found.totals.live_keys == len(expected)
    assert found.totals.dirty_sectors == sum(key.sectors for key in expected if key.dirty)
    assert found.totals.clean_sectors == sum(key.sectors for key in expected if not key.dirty)


@every_image
async def test_gens_are_those_of_the_kernel_s_memory(name: str) -> None:
    image = kernel_image(name)
    (census,) = (await checked(image)).censuses
    assert census.gens.tolist() == image.buckets(image.worked, "gen")
    # Registered again, the kernel's last_gc is the oldest gen that a pointer names.
    assert census.oldest.tolist() == image.buckets(image.registered, "last_gc")
    registered = np.array(image.buckets(image.registered, "gen"), np.uint8)
    moved = set(np.flatnonzero(census.gens != registered).tolist())
    assert len(moved) == 12
    assert len(moved - image.taken_at_registration()) == 1  # on its way to become the next prio bucket


@every_image
async def test_marks_and_sectors_are_those_of_the_kernel_s_gc(name: str) -> None:
    image = kernel_image(name)
    (census,) = (await checked(image)).censuses
    # What the kernel did between its registration and its GC: it opened a bucket, and moved its prios.
    kept = np.array(image.buckets(image.collected, "pin")) == 0
    assert (census.sectors == image.buckets(image.collected, "sectors"))[kept].all()
    data = kept & np.isin(image.buckets(image.collected, "mark"), (1, 2))
    assert (census.marks == image.buckets(image.collected, "mark"))[data].all()
    assert data.sum() > 100 or name == "full-lru"
    assert (census.marks[kept & ~data] != 2).all()


@every_image
async def test_volumes_are_the_kernel_s(name: str) -> None:
    image = kernel_image(name)
    found = await checked(image)
    volumes = {slot: volume for slot, volume in enumerate(found.volumes) if volume is not None}
    assert [
        (slot, volume.uuid, volume.flash_only, volume.sectors, volume.first_reg)
        for slot, volume in volumes.items()
    ] == [
        (told["slot"], UUID(told["uuid"]), bool(told["flags"] & 1), told["sectors"], told["first_reg"])
        for told in image.registered["memory"]["uuids"]
    ]


async def test_the_replay_is_the_one_the_kernel_tells_of() -> None:
    for name, keys, entries, seq in (
        ("clean", 42, 9, 393),
        ("crash", 44, 9, 260),
        ("flash", 104, 21, 201),
        ("full-lru", 53, 9, 1270),
    ):
        journal = (await checked(kernel_image(name))).journal
        assert journal is not None
        assert (sum(len(entry.keys) for entry in journal.entries), len(journal.entries)) == (keys, entries)
        assert journal.newest.seq == seq
