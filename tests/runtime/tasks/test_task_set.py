# SPDX-License-Identifier: GPL-2.0-only
"""The three tasks: what is asked of one is done after it was asked, and none works without a reason."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bcached.runtime.cache_set import CacheSet
from bcached.runtime.coordination.conditions import Conditions, Fact
from bcached.runtime.coordination.slices import run_sliced
from bcached.runtime.lifetime import running
from bcached.set_state import Replacement
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.reserves import Reserve
from bcached.state.statistics import SLICE_BOUNDS_S, Histogram
from bcached.wire.gen_map import GenMap
from instruments.devices.latent_device import LatentDevice
from instruments.samples.bucket_states import force_state
from instruments.samples.living_set import extent, fresh_members, set_options, take_buckets
from instruments.time.patience import patience
from instruments.time.virtual_time import in_virtual_time


@asynccontextmanager
async def a_set(
    folder: Path, counts: Sequence[int] = (513,), policy: Replacement = Replacement.LRU, **options: Any
) -> AsyncIterator[CacheSet]:
    members = await fresh_members(counts, 4 << 10, policy)
    slow = [LatentDevice(member, Random(1), 0.01) for member in members]
    async with running(slow, set_options(folder, **options)) as cache_set:
        yield cache_set
        assert cache_set.verify() == []


def prio_writes(cache_set: CacheSet) -> list[int]:
    return [member.prio_writes for member in cache_set.statistics().members]


@in_virtual_time
async def test_prios_are_written_by_a_write_that_began_after_the_asking(tmp_path: Path) -> None:
    async with a_set(tmp_path, (513, 600)) as cache_set:
        await asyncio.sleep(1)
        before = prio_writes(cache_set)
        first = asyncio.ensure_future(cache_set.maintenance.write_priorities())
        await asyncio.sleep(0.001)
        assert cache_set.shared.prios.writing
        table = cache_set.members[0].buckets.table
        holder = cache_set.allocations.new_holder("client")
        keys = await take_buckets(cache_set, holder, 1)
        cache_set.allocations.free_bucket(holder, keys[0])  # its gen goes up now, behind the snapshot
        bucket = cache_set.geometry.bucket_of(keys[0].pointers[0].sector)
        await cache_set.maintenance.write_priorities()
        assert first.done()
        assert table.gens_on_disk[bucket] == table.gens[bucket]
        assert all(now >= then + 2 for now, then in zip(prio_writes(cache_set), before, strict=True))


@in_virtual_time
async def test_a_write_that_lacks_a_bucket_goes_on_when_it_has_come(tmp_path: Path) -> None:
    """As it may be when the chain before waits for a collection, its gens being far ahead."""
    async with a_set(tmp_path, verify=False) as cache_set:
        await take_buckets(cache_set, cache_set.allocations.new_holder("greedy"), patience_s=0.2)
        buckets = cache_set.members[0].buckets
        bucket = buckets.reserves.take(Reserve.PRIO)
        assert bucket is not None
        force_state(buckets.table, bucket, State.EMPTY)
        assert not buckets.has_prio_chain
        asking = asyncio.ensure_future(cache_set.maintenance.write_priorities())
        await asyncio.sleep(1)
        assert not asking.done()
        assert buckets.retire(bucket)
        cache_set.shared.buckets_moved()
        async with patience(5):
            await asking


@in_virtual_time
async def test_many_who_ask_share_one_write(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        await asyncio.sleep(1)
        before = prio_writes(cache_set)[0]
        await asyncio.gather(*(cache_set.maintenance.write_priorities() for _ in range(50)))
        assert prio_writes(cache_set)[0] <= before + 2


@in_virtual_time
async def test_a_collection_that_is_asked_for_begins_after_the_asking(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        shared = cache_set.shared
        first = asyncio.ensure_future(cache_set.maintenance.collect_garbage())
        while not shared.collections.is_marking:
            await asyncio.sleep(0)
        begun = shared.collections.markings
        await cache_set.maintenance.collect_garbage()
        assert first.done()
        assert shared.collections.markings == begun + 2


@in_virtual_time
async def test_who_stops_waiting_for_a_collection_or_a_write_leaves_no_trace(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        asking = [asyncio.ensure_future(cache_set.maintenance.collect_garbage()) for _ in range(5)]
        asking += [asyncio.ensure_future(cache_set.maintenance.write_priorities()) for _ in range(5)]
        await asyncio.sleep(0)
        for each in asking[::2]:
            each.cancel()
        done = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(outcome) for outcome in done] == [asyncio.CancelledError, type(None)] * 5
        assert not cache_set.shared.conditions.bucket_lock.locked()


@in_virtual_time
async def test_the_epoch_moves_before_gens_may_go_further(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        (mapped,) = cache_set.gen_maps
        table = cache_set.members[0].buckets.table
        holder = cache_set.allocations.new_holder("client")
        for _ in range(30):
            for key in await take_buckets(cache_set, holder, 3):
                cache_set.allocations.free_bucket(holder, key)
        assert (table.gens_array != table.last_gc_array).any()

        def epoch() -> int:
            return GenMap.parse(memoryview(Path(mapped.path).read_bytes()), "map").gc_epoch

        before, oldest = epoch(), bytes(table.last_gc)
        collecting = asyncio.ensure_future(cache_set.maintenance.collect_garbage())
        while bytes(table.last_gc) == oldest:
            assert not collecting.done()
            seen = epoch()
            await asyncio.sleep(0)
        assert epoch() == before + 1
        await collecting
        assert epoch() == before + 1
        assert seen in (before, before + 1)


@in_virtual_time
async def test_reuse_without_traffic_is_guarded_too(tmp_path: Path) -> None:
    """The same few buckets over and over: their gens go up with every turn, and never too far."""
    async with a_set(tmp_path, verify=False) as cache_set:
        holder = cache_set.allocations.new_holder("client")
        key = (await take_buckets(cache_set, holder, patience_s=0.1))[-1]
        table = cache_set.members[0].buckets.table
        seen = set()
        farthest = 0
        for _ in range(600):
            cache_set.allocations.free_bucket(holder, key)
            (key,) = await take_buckets(cache_set, holder, 1, patience_s=10)
            seen.add(key.pointers[0].sector)
            farthest = max(
                farthest,
                int((table.gens_array - table.last_gc_array).max()),
                int((table.gens_array - table.gens_on_disk_array).max()),
            )
        assert len(seen) < 20
        assert 40 < farthest <= 96
        assert cache_set.statistics().gc_runs["gens"] + cache_set.statistics().gc_runs["dry"] > 0


@in_virtual_time
async def test_a_random_pass_that_found_little_is_followed_by_a_look_at_all_when_somebody_waits(
    tmp_path: Path,
) -> None:
    async with a_set(tmp_path, policy=Replacement.RANDOM, verify=False) as cache_set:
        holder = cache_set.allocations.new_holder("client")
        keys = await take_buckets(cache_set, holder, patience_s=0.1)
        # Few are left to be found, so that half as many draws as there are buckets miss some.
        for _ in range(20):
            going = keys[:3]
            for key in going:
                cache_set.allocations.free_bucket(holder, key)
            await asyncio.sleep(0.5)  # passes are made while nobody waits
            keys = keys[3:] + await take_buckets(cache_set, holder, 3, patience_s=2)


@in_virtual_time
async def test_a_quiet_set_does_nothing(tmp_path: Path) -> None:
    async with a_set(tmp_path, (513, 600)) as cache_set:
        inode = await cache_set.volumes.create("volume")
        await cache_set.allocations.allocate(
            cache_set.allocations.new_holder("client"), [extent(8, inode=inode)], 5
        )
        await asyncio.sleep(1)
        before = [dict(allocator.steps) for allocator in cache_set.tasks.allocators], prio_writes(cache_set)
        seq = cache_set.statistics().journal_seq
        await asyncio.sleep(10_000)
        assert ([dict(one.steps) for one in cache_set.tasks.allocators], prio_writes(cache_set)) == before
        assert cache_set.statistics().journal_seq == seq


@in_virtual_time
async def test_opening_fills_all_reserves(tmp_path: Path) -> None:
    async with a_set(tmp_path, (513, 2048)) as cache_set:
        await asyncio.sleep(1)
        for member in cache_set.statistics().members:
            assert member.freelist == member.freelist_capacity
            assert member.free_inc > 0, "and the next ones are ready"


@pytest.mark.parametrize("discard", [True, False])
@in_virtual_time
async def test_buckets_are_discarded_on_their_way_if_that_is_wanted(tmp_path: Path, discard: bool) -> None:
    async with a_set(tmp_path, verify=False) as cache_set:
        await cache_set.maintenance.set_discard(discard)
        holder = cache_set.allocations.new_holder("client")
        device = cache_set.members[0].block_device
        first = await take_buckets(cache_set, holder, 20)
        for key in first:
            await device.write(key.pointers[0].sector * 512, b"\xaa" * 4096)
            cache_set.allocations.free_bucket(holder, key)
        second = await take_buckets(cache_set, holder, patience_s=1)
        again = {key.pointers[0].sector for key in first} & {key.pointers[0].sector for key in second}
        assert len(again) > 10
        for sector in again:
            content = await device.read(sector * 512, 4096)
            assert content == (bytes(4096) if discard else b"\xaa" * 4096)
        assert (cache_set.statistics().members[0].discards > 0) == discard


@in_virtual_time
async def test_what_is_announced_is_passed_on_to_all_who_wait() -> None:
    conditions = Conditions()
    notifier = asyncio.ensure_future(conditions.notify_announced())
    heard: list[int] = []

    async def listen(number: int) -> None:
        async with conditions.bucket_lock:
            await conditions[Fact.GENS_DURABLE].wait()
            heard.append(number)

    listeners = [asyncio.ensure_future(listen(number)) for number in range(5)]
    await asyncio.sleep(0)
    conditions.announce(Fact.MARKS_VALID)
    await asyncio.sleep(0.1)
    assert heard == []
    conditions.announce(Fact.GENS_DURABLE)
    listeners[2].cancel()  # in the same turn: the others must hear of it all the same
    await asyncio.wait(listeners)
    assert heard == [0, 1, 3, 4]
    notifier.cancel()


@in_virtual_time
async def test_slices_let_the_loop_go_when_their_time_is_up() -> None:
    slices = Histogram(SLICE_BOUNDS_S)
    times = iter(range(1000))
    others = 0

    async def count_turns() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    def work() -> Any:
        for _ in range(10):
            yield
        return "done"

    counting = asyncio.ensure_future(count_turns())
    assert await run_sliced(work(), 2.5, lambda: next(times), slices) == "done"
    counting.cancel()
    assert 2 <= others <= 5
    assert sum(slices.counts) == others + 1
