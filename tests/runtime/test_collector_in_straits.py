# SPDX-License-Identifier: GPL-2.0-only
"""A collection while there is hardly a bucket: what it waits for, and what it must not wait for."""

import asyncio
from pathlib import Path

from bcached.errors import DeviceError
from bcached.keys import Key, Pointer
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.lookups import LookupRequest
from bcached.runtime.lifetime import running
from bcached.state.buckets.bucket_table import State
from bcached.units import SECTOR_BYTES
from instruments.devices.passing_device import PassingDevice
from instruments.samples.living_set import extent, fresh_members, set_options, take_buckets
from instruments.time.virtual_time import in_virtual_time

DAY_S = 24 * 3600.0


def take_those_for_nodes(cache_set: CacheSet) -> list[int]:
    """Leave no bucket for a node of the index."""
    taken = []
    while (place := cache_set.sectors.take_metadata(State.UUID)) is not None:
        taken.append(place[1])
    return taken


@in_virtual_time
async def test_what_comes_free_reaches_a_node_while_a_collection_waits_for_that_node(tmp_path: Path) -> None:
    devices = await fresh_members([600], 16 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        await cache_set.volumes.create("plain")
        holder, index = cache_set.allocations.new_holder("client"), cache_set.index
        held = []
        for number, key in enumerate((await take_buckets(cache_set, holder))[:3]):
            (pointer,) = key.pointers
            await index.commit(holder, [Key(0, number * 32, 8, False, key.pointers)], 10.0)
            held.append(Key(0, 0, 24, False, (Pointer(0, pointer.sector + 8, pointer.gen),)))
        await asyncio.sleep(1)
        take_those_for_nodes(cache_set)
        rewriting = asyncio.ensure_future(index.write_back.rewrite(await index.nodes.leaf_at(0, 0)))
        cache_set.shared.collections.request("asked")
        await asyncio.sleep(1)
        assert cache_set.shared.collections.is_marking
        assert cache_set.members[0].buckets.free_inc.space > len(held)
        cache_set.allocations.release(holder, held)
        await asyncio.sleep(10)
        assert rewriting.done()
        assert not cache_set.shared.collections.is_marking


@in_virtual_time
async def test_a_node_waits_for_its_bucket_however_long_that_takes(tmp_path: Path) -> None:
    devices = await fresh_members([600], 16 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        await cache_set.volumes.create("plain")
        holder, index, buckets = (
            cache_set.allocations.new_holder("client"),
            cache_set.index,
            cache_set.members[0].buckets,
        )
        held = await take_buckets(cache_set, holder)
        await index.commit(holder, [Key(0, 0, 8, True, held[0].pointers)], 10.0)
        leaf = await index.nodes.leaf_at(0, 0)
        leaf.blocks_used = index.nodes.io.shape.blocks  # nothing can be appended
        taken = take_those_for_nodes(cache_set)
        cache_set.shared.collections.request("asked")
        await asyncio.sleep(50 * DAY_S)
        assert cache_set.shared.steps.waiting_for_nodes
        buckets.free_metadata(taken)
        cache_set.shared.buckets_moved()
        await asyncio.sleep(1)
        assert leaf.is_detached
        assert not cache_set.shared.collections.is_marking


class WithBadSectors(PassingDevice):
    """Some bytes cannot be read."""

    bad: range = range(0)

    async def read(self, offset: int, length: int) -> bytes:
        if offset < self.bad.stop and self.bad.start < offset + length:
            raise DeviceError(self.path, f"cannot read {length} bytes at {offset}: Input/output error")
        return await super().read(offset, length)


@in_virtual_time
async def test_data_that_cannot_be_read_stays_where_it_is_and_the_set_alive(tmp_path: Path) -> None:
    (member,) = await fresh_members([600], 16 << 10)
    device, options = WithBadSectors(member), set_options(tmp_path, moving_gc=False)
    async with running([device], options) as cache_set:
        await cache_set.volumes.create("flash", 1 << 20)
        holder, index = cache_set.allocations.new_holder("client"), cache_set.index
        for offset in range(0, 4 * 32, 32):
            (keys,) = await cache_set.allocations.allocate(
                holder, [extent(32, offset=offset, whole=True)], 10.0
            )
            await index.commit(holder, keys, 10.0)
            await index.invalidate(0, offset, 24, 10.0)
        before = (await cache_set.lookups.lookup(LookupRequest(0, 0, 4 * 32))).keys
        (bad,) = before[1].pointers
        device.bad = range(bad.sector * SECTOR_BYTES, (bad.sector + 1) * SECTOR_BYTES)
        options.moving_gc = True
        await cache_set.maintenance.collect_garbage()
        after = (await cache_set.lookups.lookup(LookupRequest(0, 0, 4 * 32))).keys
        assert [key in before for key in after] == [False, True, False, False]
        assert cache_set.sectors.reserved_sectors == 0
        assert not cache_set.members[0].buckets.table.pins[bad.sector // 32]


@in_virtual_time
async def test_a_full_queue_keeps_no_more_from_being_moved_than_takes_a_node(tmp_path: Path) -> None:
    devices = await fresh_members([600], 16 << 10)
    options = set_options(tmp_path, verify=False, waiters=3, moving_gc=False)
    async with running(devices, options) as cache_set:
        await cache_set.volumes.create("flash", 1 << 20)
        holder, index, buckets = (
            cache_set.allocations.new_holder("client"),
            cache_set.index,
            cache_set.members[0].buckets,
        )
        for offset in range(0, 40 * 32, 32):
            (keys,) = await cache_set.allocations.allocate(
                holder, [extent(32, offset=offset, whole=True)], 10.0
            )
            await index.commit(holder, keys, 10.0)
        for offset in range(0, 40 * 32, 32):
            await index.invalidate(0, offset, 24, 10.0)
        held = await take_buckets(cache_set, holder)
        waiting = [cache_set.allocations.allocate_bucket(holder, 1, 1000.0) for _ in range(options.waiters)]
        taken, mover = take_those_for_nodes(cache_set), cache_set.tasks.garbage_collector.mover
        options.moving_gc = True
        await cache_set.maintenance.collect_garbage()
        assert mover.moved_sectors == 32  # all that the mover's own bucket takes
        buckets.free_metadata(taken)
        for key in held[:20]:
            cache_set.allocations.free_bucket(holder, key)
        await asyncio.gather(*waiting)
        await cache_set.maintenance.collect_garbage()
        assert mover.moved_sectors > 0
