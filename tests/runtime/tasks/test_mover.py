# SPDX-License-Identifier: GPL-2.0-only
"""One key moved: its copy replaces it, unless it changed meanwhile or cannot be read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bcached.errors import DeviceError
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.lifetime import running
from bcached.runtime.tasks.mover import Mover, MoveResult
from bcached.units import SECTOR_BYTES
from instruments.devices.passing_device import PassingDevice
from instruments.samples.living_set import extent, fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time

DATA = bytes(range(256)) * 16
SECTORS = len(DATA) // SECTOR_BYTES


class WatchedDevice(PassingDevice):
    """Calls what is set before a read returns."""

    before_read = staticmethod(lambda: None)

    async def read(self, offset: int, size: int) -> bytes:
        self.before_read()
        return await super().read(offset, size)


@asynccontextmanager
async def a_key(folder: Path) -> AsyncIterator[tuple[CacheSet, WatchedDevice, Key]]:
    """A set that holds one dirty key with data, and its device."""
    (memory,) = await fresh_members([600], 16 << 10)
    device = WatchedDevice(memory)
    async with running([device], set_options(folder, moving_gc=False)) as cache_set:
        await cache_set.volumes.create("volume")
        holder = cache_set.allocations.new_holder("client")
        ((found,),) = await cache_set.allocations.allocate(holder, [extent(SECTORS)], 5.0)
        key = Key(found.inode, found.offset, found.sectors, True, found.pointers)
        await device.write(key.pointers[0].sector * SECTOR_BYTES, DATA)
        await cache_set.index.commit(holder, [key], 5.0)
        yield cache_set, device, key


async def move(cache_set: CacheSet, key: Key) -> tuple[MoveResult, Mover]:
    mover = cache_set.tasks.garbage_collector.mover
    with mover.at_work():
        return await mover.move([key], set()), mover


def key_of(cache_set: CacheSet) -> Key:
    (leaf,) = cache_set.index.nodes.tree.leaves
    (key,) = leaf.live.lookup(0, 0, SECTORS)
    return key


@in_virtual_time
async def test_the_copy_replaces_the_key_and_stays_dirty(tmp_path: Path) -> None:
    async with a_key(tmp_path) as (cache_set, device, key):
        result, mover = await move(cache_set, key)
        moved = key_of(cache_set)
        assert (result, mover.moved_sectors) == (MoveResult.MOVED, SECTORS)
        assert moved.dirty
        assert moved.pointers != key.pointers
        assert await device.read(moved.pointers[0].sector * SECTOR_BYTES, len(DATA)) == DATA
        assert not mover.holder.pieces
        assert not mover.holder.reads


@pytest.mark.parametrize("undivided", [True, False])
@in_virtual_time
async def test_a_key_is_cut_at_a_buckets_end_only_if_it_may_be(tmp_path: Path, undivided: bool) -> None:
    async with running(
        await fresh_members([4000], 16 << 10), set_options(tmp_path, moving_gc=False)
    ) as cache_set:
        await cache_set.volumes.create("volume")
        holder = cache_set.allocations.new_holder("client")
        wanted = [extent(20, offset=100 * number, write_point=number) for number in range(3)]
        keys = [key for (key,) in await cache_set.allocations.allocate(holder, wanted, 5.0)]
        await cache_set.index.commit(holder, keys, 5.0)
        assert [key.sectors for key in keys] == [20, 20, 20]
        await asyncio.sleep(1)  # the reserve is filled
        mover = cache_set.tasks.garbage_collector.mover
        with mover.at_work():
            assert await mover.move(keys, set(), undivided=undivided) is MoveResult.MOVED
        (leaf,) = cache_set.index.nodes.tree.leaves
        found = leaf.live.lookup(0, 0, 1000)
        assert [key.sectors for key in found] == ([20, 20, 20] if undivided else [20, 12, 8, 20])
        assert not {key.pointers for key in keys} & {key.pointers for key in found}


@in_virtual_time
async def test_a_key_that_is_dropped_while_it_is_copied_stays_dropped(tmp_path: Path) -> None:
    async with a_key(tmp_path) as (cache_set, device, key):
        deletion = Key(key.inode, key.offset, key.sectors, False, ())
        device.before_read = lambda: cache_set.index.changes.change([deletion])  # type: ignore[assignment]
        result, mover = await move(cache_set, key)
        (leaf,) = cache_set.index.nodes.tree.leaves
        assert leaf.live.lookup(0, 0, SECTORS) == []
        assert (result, mover.moved_sectors) == (MoveResult.MOVED, 0)
        assert not mover.holder.pieces


@in_virtual_time
async def test_data_that_cannot_be_read_stays_where_it_is(tmp_path: Path) -> None:
    async with a_key(tmp_path) as (cache_set, device, key):

        def fail() -> None:
            raise DeviceError(device.path, "cannot read")

        device.before_read = fail
        _, mover = await move(cache_set, key)
        assert key_of(cache_set).pointers == key.pointers
        assert mover.moved_sectors == 0
        assert not mover.holder.pieces


@in_virtual_time
async def test_a_key_of_a_deleted_volume_is_not_moved(tmp_path: Path) -> None:
    async with a_key(tmp_path) as (cache_set, _, key):
        cache_set.sectors.inodes.pop(0)
        _, mover = await move(cache_set, key)
        assert key_of(cache_set).pointers == key.pointers
        assert mover.moved_sectors == 0
