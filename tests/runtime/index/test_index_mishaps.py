# SPDX-License-Identifier: GPL-2.0-only
"""What seldom comes together: two who write the same leaf, an end without buckets, a torn node, many pins."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import pytest

from bcached.errors import NoFreeBuckets
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.lookups import LookupRequest, LookupResult
from bcached.runtime.lifetime import running
from bcached.state.buckets.bucket_table import State
from bcached.state.index.node import Interior, Leaf, Node
from bcached.state.index.tree import Tree
from bcached.units import SECTOR_BYTES
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.living_set import extent, fresh_members, reopened, set_options
from instruments.time.virtual_time import in_virtual_time


async def fill(cache_set: CacheSet, count: int) -> None:
    """Clean keys of one sector each, none beside another, in no order."""
    if not cache_set.volumes.all():
        await cache_set.volumes.create("plain")
    holder, offsets = cache_set.allocations.new_holder("client"), [number * 8 for number in range(count)]
    Random(1).shuffle(offsets)
    for offset in offsets:
        ((key,),) = await cache_set.allocations.allocate(holder, [extent(1, offset=offset)], 10.0)
        await cache_set.index.commit(holder, [key], 20.0)


def has_torn_root(cache_set: CacheSet) -> bool:
    return cache_set.index.nodes.tree.root.is_torn


async def keys_found(cache_set: CacheSet) -> int:
    found = 0
    start: int | None = 0
    while start is not None:
        result = await cache_set.lookups.lookup(LookupRequest(0, start, (1 << 40) - start))
        found += len(result.keys)
        start = result.next
    return found


@pytest.mark.no_cover  # much of what the others run
@in_virtual_time
async def test_an_end_without_buckets_for_the_leaves_is_orderly_and_loses_nothing(tmp_path: Path) -> None:
    devices = await fresh_members([1500], 16 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        await fill(cache_set, 20_000)
        assert len(cache_set.index.nodes.tree.leaves.unwritten()) > 10
        while cache_set.sectors.take_metadata(State.BTREE) is not None:
            pass
    async with running(reopened(devices), set_options(tmp_path, verify=False)) as cache_set:
        assert await keys_found(cache_set) == 20_000


@in_virtual_time
async def test_a_stale_key_that_is_dropped_stands_in_no_node_that_is_just_being_written(
    tmp_path: Path,
) -> None:
    async with running(
        await fresh_members([1100], 16 << 10), set_options(tmp_path, verify=False)
    ) as cache_set:
        nodes, write_back = cache_set.index.nodes, cache_set.index.write_back
        await fill(cache_set, 200)
        await write_back.write_all()
        buckets = cache_set.members[0].buckets
        clean = list(buckets.table.in_state(State.CLEAN))
        assert clean
        for bucket in clean:
            buckets.table.bump(bucket)
        leaf = await nodes.leaf_at(0, 0)
        keys = len(leaf.live)
        rewriting = asyncio.ensure_future(write_back.rewrite(leaf))
        while leaf.writing is None:
            await asyncio.sleep(0)
        await cache_set.maintenance.collect_garbage()
        await rewriting
        await (
            cache_set.maintenance.collect_garbage()
        )  # the one before may have found that others took the leaf's place
        await asyncio.sleep(1)  # until nothing is under way
        leaf = await nodes.leaf_at(0, 0)
        written = await nodes.io.read(leaf.key, 0, (0, 0), cache_set.index.changes.buckets)
        assert isinstance(written, Leaf)
        assert list(leaf.live) == list(written.live)
        assert len(leaf.live) < keys


@pytest.mark.no_cover  # much of what the others run
@in_virtual_time
async def test_more_leaves_to_replay_than_there_is_memory_for(tmp_path: Path) -> None:
    (device,) = devices = await fresh_members([1500], 16 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        await fill(cache_set, 20_000)
        await cache_set.index.write_back.write_all()
        for offset in range(0, 8 * 20_000, 8 * 100):  # some of every leaf
            await cache_set.index.invalidate(0, offset + 2, 8, 10.0)
        await cache_set.index.flush()
        live = [cache_set.members[0].buckets.table.content(bucket) for bucket in range(1500)]
        cut_off = device.image()
    bound = 200_000
    options = set_options(tmp_path, verify=False, index_bytes=bound, moving_gc=False)

    @asynccontextmanager
    async def another_life() -> AsyncIterator[tuple[CacheSet, Tree]]:
        async with running([MemoryDevice.holding(cut_off)], options) as cache_set:
            tree = cache_set.index.nodes.tree
            assert len(tree.leaves.deferred) > 20
            assert tree.leaves.memory_bytes < bound
            yield cache_set, tree
            assert await keys_found(cache_set) == 20_000 - 200
            assert tree.leaves.memory_bytes < bound * 3 // 2, "a quarter too many, and one"

    async with another_life() as (cache_set, tree):
        assert [cache_set.members[0].buckets.table.content(bucket) for bucket in range(1500)] == live
        await cache_set.index.write_back.write_through(cache_set.journal.accepted_seq)
        assert not tree.leaves.deferred
        assert tree.leaves.pins.oldest is None
    async with another_life() as (cache_set, tree):
        async for _ in cache_set.index.nodes.leaves():
            assert tree.leaves.memory_bytes < bound * 3 // 2
        assert tree.leaves.deferred, "not all of them were written for that"
    async with another_life() as (cache_set, tree):
        await cache_set.maintenance.collect_garbage()
        assert not tree.leaves.deferred
    async with running([MemoryDevice.holding(cut_off)], set_options(tmp_path)) as cache_set:
        assert not cache_set.index.nodes.tree.leaves.deferred
        assert cache_set.verify() == []


@pytest.mark.no_cover  # much of what the others run
@in_virtual_time
async def test_a_collection_reads_an_index_that_is_larger_than_memory_once(tmp_path: Path) -> None:
    devices = await fresh_members([1500], 16 << 10)
    options = set_options(tmp_path, verify=False, index_bytes=60_000, moving_gc=False)
    async with running(devices, options) as cache_set:
        await fill(cache_set, 8_000)
        nodes, write_back = cache_set.index.nodes, cache_set.index.write_back
        await write_back.write_all()
        await cache_set.maintenance.collect_garbage()  # which tidies up
        leaves = len(list(nodes.tree.node_keys())) - 1
        assert leaves > 12
        before = nodes.io.nodes_read
        await cache_set.maintenance.collect_garbage()
        assert nodes.io.nodes_read - before <= leaves


def tear_the_root(device: MemoryDevice, root: Node, block_bytes: int) -> None:
    """As a power cut leaves a bset that was being appended, with its first sector written."""
    contents = device.disk.contents
    place = root.key.pointers[0].sector * SECTOR_BYTES + root.blocks_used * block_bytes
    torn = bytearray(contents[place - block_bytes : place][: 32 + 24])  # the header and a key of the last one
    torn[28:32] = (3 * 30).to_bytes(4, "little")
    torn += torn[32:] * 30
    torn[SECTOR_BYTES:] = bytes(block_bytes - SECTOR_BYTES)
    contents[place : place + block_bytes] = torn


@in_virtual_time
async def test_an_interior_node_that_was_torn_is_written_anew(tmp_path: Path) -> None:
    (device,) = devices = await fresh_members([1500], 16 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        await fill(cache_set, 5_000)
        root = cache_set.index.nodes.tree.root
    assert isinstance(root, Interior)
    tear_the_root(device, root, cache_set.geometry.block_bytes)
    async with running(reopened(devices), set_options(tmp_path)) as cache_set:
        assert has_torn_root(cache_set)
        assert cache_set.statistics().checksum_errors == {"bset": 1}
        await asyncio.sleep(1)
        assert not has_torn_root(cache_set)
        assert await keys_found(cache_set) == 5_000


@in_virtual_time
async def test_behind_a_bset_that_was_torn_nothing_is_appended(tmp_path: Path) -> None:
    (device,) = devices = await fresh_members([1500], 16 << 10)
    options = set_options(tmp_path, verify=False)
    async with running(devices, options) as cache_set:
        await fill(cache_set, 20)
        await cache_set.index.write_back.write_all()
        await cache_set.index.invalidate(0, 0, 8, 1.0)
        await cache_set.index.flush()
        cut_off = MemoryDevice.holding(device.image())
        tear_the_root(cut_off, cache_set.index.nodes.tree.root, cache_set.geometry.block_bytes)
    async with running([cut_off], options) as cache_set:
        assert has_torn_root(cache_set)
        await cache_set.index.invalidate(0, 8, 8, 1.0)
        await cache_set.index.write_back.write_all()
        await cache_set.index.flush()
        assert not has_torn_root(cache_set)
        again = cut_off.image()
    async with running([MemoryDevice.holding(again)], options) as cache_set:
        assert await keys_found(cache_set) == 18


@in_virtual_time
async def test_very_many_pins_of_a_reader_that_is_gone_end_in_steps(tmp_path: Path) -> None:
    async with running(
        await fresh_members([4096], 4 << 10), set_options(tmp_path, verify=False)
    ) as cache_set:
        await cache_set.volumes.create("plain")
        holder = cache_set.allocations.new_holder("client")
        keys = [await cache_set.allocations.allocate_bucket(holder, 1, 10.0) for _ in range(1000)]
        reader = cache_set.allocations.new_holder("reader")
        for number in range(0, len(keys), 100):
            some = keys[number : number + 100]
            await cache_set.index.commit(
                holder,
                [Key(0, (number + place) * 8, 8, False, key.pointers) for place, key in enumerate(some)],
                10.0,
            )
        start: int | None = 0
        while start is not None:
            start = (await cache_set.lookups.lookup(LookupRequest(0, start, 8000 - start, pin=reader))).next
        assert reader.reads_total == 1000
        cache_set.allocations.drop_holder(reader, None)
        assert 0 < reader.reads_total < 1000
        assert cache_set.verify() == []
        await asyncio.sleep(1)
        assert reader.reads_total == 0
        assert len(cache_set.allocations.quarantine) == 0
        assert cache_set.verify() == []


@in_virtual_time
async def test_very_many_reservations_for_a_volume_that_is_gone_end_in_steps(tmp_path: Path) -> None:
    async with running(
        await fresh_members([4096], 4 << 10), set_options(tmp_path, verify=False)
    ) as cache_set:
        for label in ("going", "staying"):
            await cache_set.volumes.create(label)
        holders = [cache_set.allocations.new_holder(name) for name in ("one", "another")]
        for holder in holders:
            wanted = [extent(8, inode=number % 2, offset=8 * number) for number in range(1000)]
            await cache_set.allocations.allocate(holder, wanted, 10.0)
        deleting = asyncio.ensure_future(cache_set.volumes.delete(0))
        while all(holder.total == 1000 for holder in holders):
            await asyncio.sleep(0)
        gone, stays = sorted(holders, key=lambda holder: holder.total)
        assert 500 < gone.total < 1000
        assert cache_set.verify() == []
        cache_set.allocations.drop_holder(gone, None)
        await deleting
        assert 500 < gone.total < 1000, "all of it set apart"
        assert stays.total == 500
        await asyncio.sleep(60)
        assert len(cache_set.allocations.quarantine) == 0
        assert cache_set.sectors.reserved_sectors == 8 * 500
        assert cache_set.verify() == []


async def fill_up(cache_set: CacheSet) -> None:
    """Take all there is, and commit a sector of each bucket, and of more, till the index cannot grow."""
    holder, keys = cache_set.allocations.new_holder("client"), list[Key]()
    with suppress(NoFreeBuckets):
        while True:
            wanted = extent(1, inode=len(keys) % 32 % 2, offset=len(keys) * 8)
            ((key,),) = await cache_set.allocations.allocate(holder, [wanted], 5.0)
            keys.append(key)
    committed = 0
    with suppress(NoFreeBuckets):
        for key in (key for step in range(32) for key in keys[step::32]):
            await cache_set.index.commit(holder, [key], 5.0)
            committed += 1
    assert committed < len(keys)
    cache_set.allocations.drop_holder(holder, None)


@in_virtual_time
async def test_a_set_full_of_dirty_data_without_a_bucket_for_its_index_can_be_emptied(tmp_path: Path) -> None:
    devices = await fresh_members([600], 16 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        for label in ("kept", "dropped"):
            await cache_set.volumes.create(label, 1 << 20)
        await fill_up(cache_set)
        await asyncio.sleep(1)
        assert not cache_set.members[0].buckets.table.reclaimable_count
        assert await cache_set.index.invalidate(0, 0, 1 << 20, 5.0) > (0, 0)
        await cache_set.volumes.delete(1, force=True)
        assert await cache_set.lookups.lookup(LookupRequest(0, 0, 1 << 20)) == LookupResult([], None)
        await fill(cache_set, 100)
        assert cache_set.verify() == []


@in_virtual_time
async def test_clients_that_fill_the_queue_do_not_keep_nodes_from_waiting_for_buckets(tmp_path: Path) -> None:
    devices = await fresh_members([600], 16 << 10)
    async with running(devices, set_options(tmp_path, verify=False, waiters=3)) as cache_set:
        await fill(cache_set, 3000)
        holder = cache_set.allocations.new_holder("greedy")
        waiting = []
        while True:
            bucket = cache_set.allocations.allocate_bucket(holder, 1, 60.0)
            await asyncio.sleep(2)
            if not bucket.done():
                waiting.append(bucket)
            if len(waiting) == 3:
                break
        taken = []
        while (place := cache_set.sectors.take_metadata(State.UUID)) is not None:
            taken.append(place)
        leaf = await cache_set.index.nodes.leaf_at(0, 0)
        rewriting = asyncio.ensure_future(cache_set.index.write_back.rewrite(leaf))
        await asyncio.sleep(1)
        assert not rewriting.done()
        cache_set.members[0].buckets.free_metadata([bucket for _, bucket in taken])
        cache_set.shared.buckets_moved()
        await rewriting


@in_virtual_time
async def test_a_stop_does_not_wait_until_a_collection_has_seen_all_leaves(tmp_path: Path) -> None:
    devices = await fresh_members([1500], 16 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        await fill(cache_set, 5_000)
        collector, leaves = cache_set.tasks.garbage_collector, cache_set.index.nodes.tree.leaves
        await cache_set.maintenance.collect_garbage()
        assert collector.marker.found["leaves"] == len(leaves)
        cache_set.shared.collections.request("asked")
        while not 0 < collector.marker.found["leaves"] < 4:
            await asyncio.sleep(0)
    assert collector.marker.found["leaves"] < len(leaves)


@in_virtual_time
async def test_what_goes_through_all_of_a_volume_in_memory_lets_the_loop_turn(tmp_path: Path) -> None:
    devices = await fresh_members([1500], 16 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        await cache_set.volumes.create("flash", 1 << 20)
        await fill(cache_set, 3_000)
        index, turns = cache_set.index, 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.ensure_future(turn())
        await asyncio.sleep(0)
        leaves, turns = len(index.nodes.tree.leaves), 0
        assert leaves > 4
        assert await index.inode_keys.dirty_sectors(0) == 3_000
        assert turns >= leaves
        turns = 0
        assert (await index.invalidate(0, 0, 1 << 20, 10.0))[0] == 3_000
        assert turns >= 3_000 // 256
        turning.cancel()


@in_virtual_time
async def test_a_node_that_needs_one_bucket_waits_behind_no_client_that_needs_many(tmp_path: Path) -> None:
    devices = await fresh_members([600], 16 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        await fill(cache_set, 3000)
        holder, index, buckets = (
            cache_set.allocations.new_holder("client"),
            cache_set.index,
            cache_set.members[0].buckets,
        )
        ((key,),) = await cache_set.allocations.allocate(holder, [extent(1, offset=5)], 1.0)
        taken = []
        with suppress(NoFreeBuckets):
            while True:
                await cache_set.allocations.allocate_bucket(holder, 1, 1.0)
        while (place := cache_set.sectors.take_metadata(State.UUID)) is not None:
            taken.append(place[1])
        committing = asyncio.ensure_future(index.commit(holder, [key], 1000.0))
        await asyncio.sleep(1)
        rewriting = asyncio.ensure_future(index.write_back.rewrite(await index.nodes.leaf_at(0, 0)))
        await asyncio.sleep(1)
        buckets.free_metadata(taken[:1])
        cache_set.shared.buckets_moved()
        await asyncio.sleep(1)
        assert rewriting.done()
        assert not committing.done()
        buckets.free_metadata(taken[1:])
        cache_set.shared.buckets_moved()
        await committing


@in_virtual_time
async def test_a_stale_copy_of_a_good_key_does_not_keep_its_bucket_back(tmp_path: Path) -> None:
    devices = await fresh_members([700, 700], 16 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        await cache_set.volumes.create("plain")
        holder, index = cache_set.allocations.new_holder("client"), cache_set.index
        ((key,),) = await cache_set.allocations.allocate(holder, [extent(32, replicas=2)], 10.0)
        await index.commit(holder, [key], 10.0)
        stale, good = key.pointers
        buckets = cache_set.members[stale.device].buckets
        bucket = buckets.geometry.bucket_of(stale.sector)
        for _ in range(3):
            while buckets.table.may_bump(bucket):
                buckets.table.bump(bucket)
                buckets.table.sectors[bucket] = 0
            await cache_set.maintenance.write_priorities()
            await cache_set.maintenance.collect_garbage()
            await cache_set.maintenance.collect_garbage()
            assert buckets.table.may_bump(bucket), "as often as it is used again"
        assert await cache_set.lookups.lookup(LookupRequest(0, 0, 32)) == LookupResult(
            [Key(0, 0, 32, False, (good,))], None
        )
