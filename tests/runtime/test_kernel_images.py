# SPDX-License-Identifier: GPL-2.0-only
"""Sets that the real kernel filled, opened and worked on: nothing of what it left is lost or changed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.lookups import LookupRequest
from bcached.runtime.lifetime import running
from bcached.state.buckets.bucket_table import State
from bcached.units import SECTOR_BYTES
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.kernel_images import NAMES, KernelImage, kernel_image, keys_of
from instruments.samples.living_set import extent, set_options
from instruments.time.virtual_time import in_virtual_time

every_image = pytest.mark.parametrize("name", NAMES)
Place = tuple[int, int]  # inode, sector
LISTED = (State.FREE, State.FREE_INC, State.UNUSED, State.OPEN, State.PRIO, State.RESERVED)


@asynccontextmanager
async def opened(
    device: MemoryDevice, folder: Path, *, verify: bool = True, moving_gc: bool = False
) -> AsyncIterator[CacheSet]:
    async with running([device], set_options(folder, verify=verify, moving_gc=moving_gc)) as cache_set:
        yield cache_set


async def live_keys(cache_set: CacheSet) -> list[Key]:
    index = cache_set.index
    return [
        key
        async for leaf in index.nodes.leaves()
        for key in leaf.live
        if all(map(cache_set.sectors.validity.is_current, key.pointers))
    ]


async def dirty_data(cache_set: CacheSet) -> dict[Place, bytes]:
    """Every dirty sector there is, as look-ups find it."""
    found: dict[Place, bytes] = {}
    for volume in cache_set.volumes.all():
        start: int | None = 0
        while start is not None:
            result = await cache_set.lookups.lookup(LookupRequest(volume.inode, start, 1 << 40))
            start = result.next
            for key in filter(lambda key: key.dirty, result.keys):
                (pointer,) = key.pointers
                device = cache_set.members[0].block_device
                raw = bytes(await device.read(pointer.sector * SECTOR_BYTES, key.sectors * SECTOR_BYTES))
                for step in range(key.sectors):
                    data = raw[step * SECTOR_BYTES : (step + 1) * SECTOR_BYTES]
                    found[key.inode, key.offset + step] = data
    return found


def as_the_kernel_has_it(image: KernelImage, cache_set: CacheSet, keys: list[Key]) -> list[Key]:
    """The keys but those whose buckets the kernel gave a new gen when it opened the set itself."""
    gens = image.buckets(image.registered, "gen")
    bucket_of = cache_set.geometry.bucket_of
    return [key for key in keys if gens[bucket_of(key.pointers[0].sector)] == key.pointers[0].gen]


@every_image
@in_virtual_time
async def test_the_set_opens_with_the_kernel_s_keys_and_volumes(tmp_path: Path, name: str) -> None:
    image = kernel_image(name)
    async with opened(image.device(), tmp_path) as cache_set:
        keys, expected = await live_keys(cache_set), keys_of(image.registered)
        assert as_the_kernel_has_it(image, cache_set, keys) == expected
        dirty = sum(key.sectors for key in expected if key.dirty)
        table = cache_set.members[0].buckets.table
        assert table.dirty_sectors_array.sum() == dirty
        assert table.sectors_array.sum() == sum(key.sectors for key in keys)
        assert [(v.inode, v.uuid, v.sectors) for v in cache_set.volumes.all()] == [
            (told["slot"], UUID(told["uuid"]), told["sectors"])
            for told in image.registered["memory"]["uuids"]
        ]
        assert cache_set.verify() == []


@every_image
@in_virtual_time
async def test_dirty_data_is_what_the_workload_wrote(tmp_path: Path, name: str) -> None:
    image = kernel_image(name)
    async with opened(image.device(), tmp_path) as cache_set:
        found = await dirty_data(cache_set)
    compared = 0
    for (_, sector), data in found.items():
        written = image.written(sector)
        assert written is None or data == written
        compared += written is not None
    assert compared >= len(found) * 0.9
    assert len(found) == sum(key.sectors for key in keys_of(image.registered) if key.dirty)


@every_image
@in_virtual_time
async def test_after_a_collection_the_buckets_are_those_of_the_kernel_s(tmp_path: Path, name: str) -> None:
    image = kernel_image(name)
    async with opened(image.device(), tmp_path) as cache_set:
        table = cache_set.members[0].buckets.table
        states, gens = table.states_array.copy(), table.gens_array.copy()
        await cache_set.maintenance.collect_garbage()
        worked, collected = (
            np.array(image.buckets(state, "gen")) for state in (image.worked, image.collected)
        )
        # Not those that either of us took for something, or has ready for it.
        same = (np.array(image.buckets(image.collected, "pin")) == 0) & (worked == collected)
        same &= ~np.isin(states, LISTED) & ~np.isin(table.states_array, LISTED) & (gens == table.gens_array)
        for state in (image.registered, image.collected):
            same[image.uuid_bucket(state)] = False
        assert same.sum() > 980
        marks = np.array([table.mark(bucket) for bucket in range(table.bucket_count)])
        assert np.flatnonzero(same & (table.gens_array != collected)).tolist() == []
        assert np.flatnonzero(same & (marks != image.buckets(image.collected, "mark"))).tolist() == []
        sectors = np.where(
            table.states_array == State.BTREE, cache_set.geometry.bucket_sectors, table.sectors_array
        )
        assert np.flatnonzero(same & (sectors != image.buckets(image.collected, "sectors"))).tolist() == []


@every_image
@in_virtual_time
async def test_dirty_data_outlives_moving_a_stop_and_a_power_cut(tmp_path: Path, name: str) -> None:
    device = kernel_image(name).device()
    async with opened(device, tmp_path, verify=False, moving_gc=True) as cache_set:
        before = await dirty_data(cache_set)
        for _ in range(5):
            await cache_set.maintenance.collect_garbage()
        moved = cache_set.tasks.garbage_collector.mover.moved_sectors
        assert moved > 0
        assert await dirty_data(cache_set) == before
        assert cache_set.verify() == []
        cut_off = device.image()
    async with opened(device.reopen(), tmp_path) as cache_set:
        assert cache_set.index.nodes.tree.leaves.pins.oldest is None  # nothing was left to replay
        assert await dirty_data(cache_set) == before
    async with opened(MemoryDevice.holding(cut_off), tmp_path) as cache_set:
        assert await dirty_data(cache_set) == before
        assert cache_set.verify() == []


@every_image
@in_virtual_time
async def test_work_goes_on_where_the_kernel_left_off(tmp_path: Path, name: str) -> None:
    image = kernel_image(name)
    device = image.device()
    async with opened(device, tmp_path, verify=False) as cache_set:
        expected = await dirty_data(cache_set)
        (volume,) = cache_set.volumes.all()
        block = cache_set.geometry.block_sectors
        holder = cache_set.allocations.new_holder("test")
        for number in range(300):
            offset = image.data_offset + number * 24 * block
            wanted = extent(8 * block, inode=volume.inode, offset=offset, whole=True)
            (keys,) = await cache_set.allocations.allocate(holder, [wanted], 10.0)
            dirty = [Key(key.inode, key.offset, key.sectors, True, key.pointers) for key in keys]
            for key in dirty:
                data = key.sectors * (b"%511d\n" % number)
                await device.write(key.pointers[0].sector * SECTOR_BYTES, data)
                for sector in range(key.offset, key.end):
                    expected[key.inode, sector] = data[:SECTOR_BYTES]
            await cache_set.index.commit(holder, dirty, 10.0)
            if number % 3 == 0:
                gone = range(offset + 8 * block, offset + 24 * block)
                await cache_set.index.invalidate(volume.inode, gone.start, len(gone), 10.0)
                for sector in gone:
                    expected.pop((volume.inode, sector), None)
        await cache_set.maintenance.collect_garbage()
        assert await dirty_data(cache_set) == expected
        assert cache_set.verify() == []
    async with opened(device.reopen(), tmp_path) as cache_set:
        assert await dirty_data(cache_set) == expected
