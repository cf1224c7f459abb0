# SPDX-License-Identifier: GPL-2.0-only
"""What requests may rely on: all or nothing, nothing lost when a connection or a volume goes, every member's
allocator awake, and one reason for all once the set refuses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bcached.errors import (
    DeviceFailed,
    LimitExceeded,
    NoFreeBuckets,
    NoSuchVolume,
    NotReserved,
    ShuttingDown,
)
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.lifetime import running
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.reservations import Holder
from instruments.samples.living_set import extent, fresh_members, set_options, take_buckets
from instruments.time.virtual_time import in_virtual_time

BUCKET_BYTES = 4 << 10


@asynccontextmanager
async def a_set(folder: Path, *counts: int, **options: Any) -> AsyncIterator[CacheSet]:
    devices = await fresh_members(counts or (513,), BUCKET_BYTES)
    async with running(devices, set_options(folder, **{"verify": False} | options)) as cache_set:
        yield cache_set
        assert cache_set.verify() == []


async def fill(cache_set: CacheSet, but: int = 0) -> tuple[Holder, list[Key]]:
    """Have all buckets held, but for some that are given back."""
    holder = cache_set.allocations.new_holder("greedy")
    keys = await take_buckets(cache_set, holder, patience_s=0.05)
    for _ in range(but):
        cache_set.allocations.free_bucket(holder, keys.pop())
    return holder, keys


def gathered(cache_set: CacheSet) -> int:
    """Pieces that waiting requests have gathered so far."""
    return sum(holder.total for holder in cache_set.sectors.pending_holders)


async def reserve(cache_set: CacheSet, holder: Holder, inode: int, sectors: int = 8) -> Key:
    """One key, as soon as there is a bucket."""
    ((key,),) = await cache_set.allocations.allocate(
        holder, [extent(sectors, inode=inode, write_point=inode)], 5
    )
    return key


@in_virtual_time
async def test_many_extents_are_given_all_or_none(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        inode = await cache_set.volumes.create("volume")
        greedy, keys = await fill(cache_set, but=2)
        holder = cache_set.allocations.new_holder("client")
        requests = [extent(8, inode=inode, offset=8 * at) for at in range(3)]
        before = cache_set.statistics().reserved_sectors
        with pytest.raises(NoFreeBuckets):
            await cache_set.allocations.allocate(holder, requests, 0.5)
        assert cache_set.statistics().reserved_sectors == before
        assert holder.total == 0
        cache_set.allocations.free_bucket(greedy, keys.pop())
        found = await cache_set.allocations.allocate(holder, requests, 5)
        assert [sum(key.sectors for key in keys) for keys in found] == [8, 8, 8]


@in_virtual_time
async def test_the_ready_path_does_not_overtake_who_waits_for_a_bucket(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        inode = await cache_set.volumes.create("volume")
        greedy, keys = await fill(cache_set)
        holder, hasty = cache_set.allocations.new_holder("client"), cache_set.allocations.new_holder("hasty")
        waiting = cache_set.allocations.allocate(holder, [extent(24, inode=inode, whole=True)], 50)
        for _ in range(2):
            cache_set.allocations.free_bucket(greedy, keys.pop())
            await asyncio.sleep(0.01)
            assert cache_set.allocations.carve(hasty, inode, 1 << 20, 8, 99) is None
        cache_set.allocations.free_bucket(greedy, keys.pop())
        assert sum(key.sectors for key in (await waiting)[0]) == 24


@in_virtual_time
async def test_not_even_where_there_is_one_that_who_waits_cannot_use(tmp_path: Path) -> None:
    """It waits for a second copy's bucket, and keeps its turn until it has both."""
    async with a_set(tmp_path, 513, 600) as cache_set:
        inode = await cache_set.volumes.create("volume")
        greedy, keys = await fill(cache_set)
        mirror = cache_set.allocations.allocate_bucket(cache_set.allocations.new_holder("mirror"), 2, 50)
        second = [key for key in keys if key.pointers[0].device == 1]
        for key in second[:3]:
            cache_set.allocations.free_bucket(greedy, key)
        await asyncio.sleep(0.01)
        assert cache_set.members[1].buckets.reserves.has(Reserve.NONE)
        hasty = cache_set.allocations.new_holder("hasty")
        assert cache_set.allocations.carve(hasty, inode, 0, 8, 1) is None
        with pytest.raises(NoFreeBuckets):
            cache_set.allocations.allocate_bucket(hasty, 1, 0)
        mirror.cancel()
        await asyncio.sleep(0.01)
        assert cache_set.allocations.carve(hasty, inode, 0, 8, 1) is not None


@in_virtual_time
async def test_a_connection_that_goes_while_it_gathers_leaves_nothing_behind(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        inode = await cache_set.volumes.create("volume")
        greedy, keys = await fill(cache_set)
        holder = cache_set.allocations.new_holder("client")
        cache_set.allocations.free_bucket(greedy, keys.pop())
        key = await reserve(cache_set, holder, inode)
        gathering = cache_set.allocations.allocate(holder, [extent(24, inode=inode, whole=True)], 50)
        cache_set.allocations.free_bucket(greedy, keys.pop())
        await asyncio.sleep(0.01)
        assert gathered(cache_set) == 1
        other = cache_set.allocations.allocate_bucket(cache_set.allocations.new_holder("other"), 1, 50)
        gathering.cancel()
        cache_set.allocations.drop_holder(holder, None)  # as a connection does: in the same turn of the loop
        await other  # what it gathered was not written to by anybody, and needs no quarantine
        assert asyncio.get_running_loop().time() < 10
        table = cache_set.members[0].buckets.table
        bucket = cache_set.geometry.bucket_of(key.pointers[0].sector)
        assert table.states[bucket] == State.QUARANTINE
        await asyncio.sleep(1)
        assert len(cache_set.allocations.quarantine) == 0
        assert table.counts[State.QUARANTINE] == 0
        # The bucket's next owner has nothing to do with that quarantine.
        (again,) = await take_buckets(cache_set, greedy, 1)
        assert table.states[cache_set.geometry.bucket_of(again.pointers[0].sector)] == State.HELD


@in_virtual_time
async def test_who_waits_when_his_holder_goes_gets_nothing_later(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        greedy, keys = await fill(cache_set)
        holder = cache_set.allocations.new_holder("client")
        waiting = cache_set.allocations.allocate_bucket(holder, 1, 50)  # not cancelled by anybody
        cache_set.allocations.drop_holder(holder, None)
        cache_set.allocations.free_bucket(greedy, keys.pop())
        await asyncio.sleep(0.1)
        assert waiting.cancelled()
        assert holder.total == 0


@in_virtual_time
async def test_a_volume_that_goes_takes_its_waiters_along(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        going, staying = await cache_set.volumes.create("going"), await cache_set.volumes.create("staying")
        greedy, keys = await fill(cache_set)
        holder = cache_set.allocations.new_holder("client")
        # A head that has gathered a bucket for either volume.
        requests = [extent(8, inode=staying), extent(8, inode=going), extent(8, inode=going)]
        waiting = cache_set.allocations.allocate(holder, requests, 50)
        for _ in range(2):
            cache_set.allocations.free_bucket(greedy, keys.pop())
        await asyncio.sleep(0.01)
        assert gathered(cache_set) == 2
        await cache_set.volumes.delete(going)
        with pytest.raises(NoSuchVolume):
            await waiting
        assert gathered(cache_set) == holder.total == 0
        assert len(await take_buckets(cache_set, greedy, 2)) == 2
        with pytest.raises(NoSuchVolume):
            cache_set.allocations.carve(holder, going, 0, 8, 1)


@in_virtual_time
async def test_who_waits_behind_others_for_a_volume_that_goes_is_told_at_once(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        going, staying = await cache_set.volumes.create("going"), await cache_set.volumes.create("staying")
        await fill(cache_set)
        holder = cache_set.allocations.new_holder("client")
        head = cache_set.allocations.allocate(holder, [extent(80, inode=staying, whole=True)], 50)
        behind = cache_set.allocations.allocate(holder, [extent(8, inode=going)], 50)
        await cache_set.volumes.delete(going)
        assert isinstance(behind.exception(), NoSuchVolume)
        assert not head.done()


@in_virtual_time
async def test_a_volumes_reservations_end_with_it_after_the_grace(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        going, staying = await cache_set.volumes.create("going"), await cache_set.volumes.create("staying")
        holder = cache_set.allocations.new_holder("client")
        keys = [await reserve(cache_set, holder, inode) for inode in (going, staying)]
        await cache_set.volumes.delete(going)
        assert cache_set.statistics().reserved_sectors == 16, "its owner may be writing to it"
        with pytest.raises(NotReserved):
            cache_set.allocations.release(holder, [keys[0]])
        await asyncio.sleep(1)
        assert cache_set.statistics().reserved_sectors == 8
        cache_set.allocations.release(holder, [keys[1]])


@in_virtual_time
async def test_a_volume_that_could_not_go_keeps_its_reservations(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        inode = await cache_set.volumes.create("stays")
        holder = cache_set.allocations.new_holder("client")
        key = await reserve(cache_set, holder, inode)
        await fill(cache_set)
        metadata = cache_set.members[0].buckets.reserves.lists
        kept = [list(buckets) for buckets in metadata]
        for buckets in metadata:
            buckets.clear()
        with pytest.raises(NoFreeBuckets):
            await cache_set.volumes.delete(inode)
        for buckets, before in zip(metadata, kept, strict=True):
            buckets.extend(before)
        assert cache_set.allocations.carve(holder, inode, 8, 8, 1) is None, "known again"
        cache_set.allocations.release(holder, [key])


@in_virtual_time
async def test_whoever_takes_from_a_member_wakes_its_allocator(tmp_path: Path) -> None:
    """A request for two copies, served when one member has a bucket, takes one of the other as well."""
    async with a_set(tmp_path, 513, 600) as cache_set:
        greedy, keys = await fill(cache_set)
        first = [key for key in keys if key.pointers[0].device == 0]
        second = [key for key in keys if key.pointers[0].device == 1]
        holder = cache_set.allocations.new_holder("client")
        for key in second[:20]:
            cache_set.allocations.free_bucket(greedy, key)
        await asyncio.sleep(0.01)
        waiting = [cache_set.allocations.allocate_bucket(holder, 2, 50)]
        waiting += [cache_set.allocations.allocate_bucket(holder, 1, 50) for _ in range(19)]
        await asyncio.sleep(1)
        assert not any(future.done() for future in waiting)
        cache_set.allocations.free_bucket(greedy, first[0])
        await asyncio.sleep(1)
        assert all(future.done() for future in waiting)


@in_virtual_time
async def test_what_could_never_be_had_is_refused_at_once(tmp_path: Path) -> None:
    async with a_set(tmp_path, 513, 513) as cache_set:
        inode = await cache_set.volumes.create("volume")
        holder = cache_set.allocations.new_holder("client")
        too_much = [extent(cache_set.allocations.data_sectors + 8, inode=inode, whole=True)]
        with pytest.raises(LimitExceeded):
            cache_set.allocations.allocate(holder, too_much, 5)
        for replicas in (3, 7):
            with pytest.raises(LimitExceeded):
                cache_set.allocations.allocate(holder, [extent(8, inode=inode, replicas=replicas)], 5)
            with pytest.raises(LimitExceeded):
                cache_set.allocations.allocate_bucket(holder, replicas, 5)
        assert holder.total == 0


@in_virtual_time
async def test_all_that_is_said_to_be_possible_is(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        inode = await cache_set.volumes.create("volume")
        holder = cache_set.allocations.new_holder("client")
        (keys,) = await cache_set.allocations.allocate(
            holder, [extent(cache_set.allocations.data_sectors, inode=inode, whole=True)], 50
        )
        assert sum(key.sectors for key in keys) == cache_set.allocations.data_sectors


@in_virtual_time
async def test_traffic_of_those_who_waited_counts_too(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        greedy, keys = await fill(cache_set)
        holder = cache_set.allocations.new_holder("client")
        before = cache_set.statistics()
        waiting = [cache_set.allocations.allocate_bucket(holder, 1, 50) for _ in range(40)]
        for key in keys[:40]:
            cache_set.allocations.free_bucket(greedy, key)
        await asyncio.gather(*waiting)
        await asyncio.sleep(0.1)
        after = cache_set.statistics()
        assert after.gc_runs["traffic"] > before.gc_runs["traffic"], "a sixteenth of the volume went by"


@in_virtual_time
async def test_a_set_that_refuses_says_the_first_reason_to_everybody(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        inode = await cache_set.volumes.create("volume")
        greedy, keys = await fill(cache_set)
        waiting = cache_set.allocations.allocate_bucket(greedy, 1, 50)
        collecting = asyncio.ensure_future(cache_set.maintenance.collect_garbage())
        cache_set.shared.stop.refuse(DeviceFailed("flush failed"))
        cache_set.shared.stop.refuse(ShuttingDown())
        for attempt in (
            lambda: cache_set.allocations.carve(greedy, inode, 0, 8, 1),
            lambda: cache_set.allocations.allocate(greedy, [extent(8, inode=inode)], 5),
            lambda: cache_set.allocations.allocate_bucket(greedy, 1, 5),
            lambda: cache_set.allocations.release(greedy, keys[:1]),
            lambda: cache_set.allocations.free_bucket(greedy, keys[0]),
        ):
            with pytest.raises(DeviceFailed, match="flush failed"):
                attempt()
        for changing in (
            waiting,
            collecting,
            cache_set.maintenance.write_priorities(),
            cache_set.volumes.create("another"),
            cache_set.volumes.delete(inode),
            cache_set.maintenance.set_discard(True),
            cache_set.maintenance.set_replacement(cache_set.members[0].superblock.replacement),
            cache_set.maintenance.collect_garbage(),
        ):
            with pytest.raises(DeviceFailed, match="flush failed"):
                await changing
        assert "flush failed" in str(cache_set.statistics().failed)
        assert cache_set.explain()[0].startswith("the set accepts no changes")
