# SPDX-License-Identifier: GPL-2.0-only
"""What a round of the collector does, in which order, and what it reports."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from bcached.errors import DeviceFailed
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.lifetime import running
from bcached.set_state import Replacement
from bcached.state.buckets.replacement import Candidates
from instruments.samples.living_set import extent, fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time

KEYS = 400


@asynccontextmanager
async def a_filled_set(folder: Path, **options: object) -> AsyncIterator[tuple[CacheSet, list[Key]]]:
    """A set with one volume and KEYS keys of 8 sectors, every second one dirty, all durable."""
    async with running(await fresh_members([1024], 4 << 10), set_options(folder, **options)) as cache_set:
        inode = await cache_set.volumes.create("volume")
        holder, keys = cache_set.allocations.new_holder("client"), []
        for number in range(KEYS):
            wanted = extent(8, inode=inode, offset=16 * number)
            ((key,),) = await cache_set.allocations.allocate(holder, [wanted], 5.0)
            keys.append(Key(key.inode, key.offset, key.sectors, number % 2 == 0, key.pointers))
            await cache_set.index.commit(holder, keys[-1:], 5.0)
        await cache_set.index.flush()
        yield cache_set, keys


@in_virtual_time
async def test_a_round_counts_what_it_found_and_did(tmp_path: Path) -> None:
    async with a_filled_set(tmp_path) as (cache_set, _):
        await cache_set.maintenance.collect_garbage()
        found = cache_set.statistics().gc_found
        assert found["pointers"] == KEYS
        assert found["stale_pointers"] == 0
        assert found["leaves"] >= 1
        assert {"leaves_rewritten", "nodes_saved", "sectors_moved", "milliseconds"} <= found.keys()


@in_virtual_time
async def test_dirty_sectors_by_volume_follow_every_change(tmp_path: Path) -> None:
    async with a_filled_set(tmp_path) as (cache_set, keys):
        assert cache_set.statistics().dirty_sectors == {"0": 8 * KEYS // 2}
        await cache_set.index.mark_clean(keys[:20], 5.0)
        assert cache_set.statistics().dirty_sectors == {"0": 8 * KEYS // 2 - 8 * 10}
        await cache_set.maintenance.collect_garbage()
        assert cache_set.statistics().dirty_sectors == {"0": 8 * KEYS // 2 - 8 * 10}


@in_virtual_time
async def test_a_collection_counts_out_what_was_evicted_of_a_volume(tmp_path: Path) -> None:
    async with a_filled_set(tmp_path) as (cache_set, keys):
        (member,) = cache_set.sectors.members
        (pointer,) = keys[1].pointers
        bucket = member.geometry.bucket_of(pointer.sector)
        assert cache_set.statistics().volumes["0"].live_sectors == 8 * KEYS
        for _ in member.invalidate(Replacement.LRU, Candidates(np.array([bucket]), 0)):
            pass
        counted = cache_set.statistics()
        assert counted.members[0].live_sectors == 8 * (KEYS - 1)
        assert counted.volumes["0"].live_sectors == 8 * KEYS, "nothing says whose bucket that was"
        assert sum(counted.evicted_idle.counts) == 1
        await cache_set.maintenance.collect_garbage()
        counted = cache_set.statistics()
        assert counted.volumes["0"].live_sectors == 8 * (KEYS - 1)
        assert (counted.volumes["0"].keys, counted.gc_stale_pointers) == (KEYS, 1)


@in_virtual_time
async def test_requests_during_a_round_get_one_that_begins_later(tmp_path: Path) -> None:
    async with a_filled_set(tmp_path) as (cache_set, _):
        rounds = cache_set.shared.collections.rounds
        first = asyncio.ensure_future(cache_set.maintenance.collect_garbage())
        await asyncio.sleep(0)
        while not cache_set.shared.collections.is_marking:
            await asyncio.sleep(0)
        await asyncio.gather(*(cache_set.maintenance.collect_garbage() for _ in range(3)))
        assert first.done()
        assert cache_set.shared.collections.rounds == rounds + 2


@in_virtual_time
async def test_gens_may_rise_as_far_as_no_key_holds_them_back(tmp_path: Path) -> None:
    async with a_filled_set(tmp_path, moving_gc=False) as (cache_set, keys):
        await cache_set.index.invalidate(0, 0, 16 * KEYS, 5.0)
        await cache_set.index.write_out()
        await cache_set.maintenance.collect_garbage()
        table = cache_set.members[0].buckets.table
        buckets = np.unique([key.pointers[0].sector // 8 for key in keys])
        assert (table.last_gc_array[buckets] == table.gens_array[buckets]).all()


@in_virtual_time
async def test_a_refusal_ends_a_marking_and_the_task(tmp_path: Path) -> None:
    async with a_filled_set(tmp_path) as (cache_set, _):
        collections = cache_set.shared.collections
        before = collections.markings
        collections.request("asked")
        while not collections.is_marking:
            await asyncio.sleep(0)
        cache_set.shared.stop.refuse(DeviceFailed("a test"))
        await asyncio.sleep(1)
        assert (collections.markings, collections.wanted) == (before, None)
        with pytest.raises(DeviceFailed):
            await cache_set.maintenance.collect_garbage()
