# SPDX-License-Identifier: GPL-2.0-only
"""Near exhaustion the kernel's allocator and collector wake each other for ever, or its prio writer waits
for itself (tests/alloc_order shows both). Here the same straits are work for a moment, then quiet, an
error at the deadline, and service again once something is given back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from bcached.errors import NoFreeBuckets
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.coordination.options import SetOptions
from bcached.runtime.lifetime import running
from bcached.set_state import Replacement
from bcached.state.sectors.reservations import ExtentRequest, Holder
from bcached.store.make.layout import lay_out, plan_set
from instruments.devices.memory_device import MemoryDevice
from instruments.time.patience import patience
from instruments.time.virtual_time import in_virtual_time

BUCKET_COUNT = 1024
LONG_S, MOMENT_S = 1.0, 0.05
WORK_MAX = 8  # prio writes, or collections, that a moment of hardship may cost
every_policy = pytest.mark.parametrize("policy", list(Replacement), ids=lambda policy: policy.name.lower())
every_shape = pytest.mark.parametrize("bucket_bytes", [4 << 10, 64 << 10], ids=["two prio sets", "one"])


@dataclass
class Work:
    """What the tasks have done so far."""

    prio_writes: int
    collections: int

    def __sub__(self, before: "Work") -> "Work":
        return Work(self.prio_writes - before.prio_writes, self.collections - before.collections)

    @property
    def total(self) -> int:
        return self.prio_writes + self.collections


def work_of(cache_set: CacheSet) -> Work:
    now = cache_set.statistics()
    return Work(sum(member.prio_writes for member in now.members), sum(now.gc_runs.values()))


@asynccontextmanager
async def a_set(folder: Path, bucket_bytes: int, policy: Replacement) -> AsyncIterator[CacheSet]:
    # Twice the buckets where they are small, so that the prio chain has two of them.
    device = MemoryDevice(bucket_bytes * BUCKET_COUNT * (2 if bucket_bytes < 8192 else 1))
    await lay_out(plan_set([device], bucket_bytes=bucket_bytes, replacement=policy), [device])
    options = SetOptions(str(folder), str(folder), restart_grace_s=0, seed=1)
    async with running([device], options) as cache_set:
        yield cache_set


async def hold_everything(cache_set: CacheSet, holder: Holder) -> list[Key]:
    """Take whole buckets until there are no more to be had."""
    keys = []
    while True:
        try:
            keys.append(await cache_set.allocations.allocate_bucket(holder, 1, LONG_S))
        except NoFreeBuckets:
            return keys


async def take(cache_set: CacheSet, holder: Holder, count: int) -> list[Key]:
    """Take so many buckets, which must be there, and find that there is not one more."""
    keys = [await cache_set.allocations.allocate_bucket(holder, 1, 20) for _ in range(count)]
    with pytest.raises(NoFreeBuckets):
        await cache_set.allocations.allocate_bucket(holder, 1, MOMENT_S)
    return keys


async def quiet(cache_set: CacheSet) -> Work:
    """What is done while nobody asks for anything."""
    before = work_of(cache_set)
    await asyncio.sleep(0.3)
    return work_of(cache_set) - before


@every_shape
@every_policy
@in_virtual_time
async def test_with_everything_held_nothing_spins(
    tmp_path: Path, bucket_bytes: int, policy: Replacement
) -> None:
    async with a_set(tmp_path, bucket_bytes, policy) as cache_set:
        holder = cache_set.allocations.new_holder("greedy")
        keys = await hold_everything(cache_set, holder)
        assert len(keys) > 0.9 * cache_set.geometry.bucket_count - 20
        assert (await quiet(cache_set)).total <= 1
        before = work_of(cache_set)
        for _ in range(5):
            with pytest.raises(NoFreeBuckets) as refused:
                await cache_set.allocations.allocate_bucket(holder, 1, MOMENT_S)
            assert refused.value.fields["waited_ms"] >= 50
        assert (work_of(cache_set) - before).total <= WORK_MAX
        assert cache_set.verify() == []


@every_shape
@every_policy
@in_virtual_time
async def test_whatever_is_released_serves_again(
    tmp_path: Path, bucket_bytes: int, policy: Replacement
) -> None:
    async with a_set(tmp_path, bucket_bytes, policy) as cache_set:
        holder = cache_set.allocations.new_holder("greedy")
        keys = await hold_everything(cache_set, holder)
        for released in (1, 2, 3, 5, 20, 1, 1):
            before = work_of(cache_set)
            for _ in range(released):
                cache_set.allocations.free_bucket(holder, keys.pop(0))
            keys += await take(cache_set, holder, released)
            assert (work_of(cache_set) - before).total <= WORK_MAX + 2 * released
            assert cache_set.verify() == []


@every_shape
@every_policy
@in_virtual_time
async def test_who_never_waits_gets_the_last_buckets_too(
    tmp_path: Path, bucket_bytes: int, policy: Replacement
) -> None:
    async with a_set(tmp_path, bucket_bytes, policy) as cache_set:
        holder = cache_set.allocations.new_holder("greedy")
        keys = await hold_everything(cache_set, holder)
        for key in keys[:18]:  # what the unused list takes, some times free_inc, and two
            cache_set.allocations.free_bucket(holder, key)
        before, had = work_of(cache_set), 0
        for _ in range(100):
            with suppress(NoFreeBuckets):
                await cache_set.allocations.allocate_bucket(holder, 1, 0)
                had += 1
            await asyncio.sleep(MOMENT_S)
        assert had == 18
        assert (work_of(cache_set) - before).total <= WORK_MAX + 2 * had
        assert cache_set.verify() == []


@in_virtual_time
async def test_a_release_serves_who_waits_at_once(tmp_path: Path) -> None:
    async with a_set(tmp_path, 64 << 10, Replacement.LRU) as cache_set:
        holder = cache_set.allocations.new_holder("greedy")
        keys = await hold_everything(cache_set, holder)
        waiting = [cache_set.allocations.allocate_bucket(holder, 1, 20) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert not any(future.done() for future in waiting)
        for place in range(3):
            cache_set.allocations.free_bucket(holder, keys[place])
            async with patience(5):
                await waiting[place]
            assert not any(future.done() for future in waiting[place + 1 :])


@in_virtual_time
async def test_small_extents_do_as_well(tmp_path: Path) -> None:
    async with a_set(tmp_path, 64 << 10, Replacement.LRU) as cache_set:
        holder = cache_set.allocations.new_holder("greedy")
        volume = await cache_set.volumes.create("small")
        kept = await hold_everything(cache_set, holder)
        request = ExtentRequest(inode=volume, offset=0, sectors=64, write_point=1)
        before = work_of(cache_set)
        with pytest.raises(NoFreeBuckets):
            await cache_set.allocations.allocate(holder, [request], MOMENT_S)
        assert (work_of(cache_set) - before).total <= WORK_MAX
        cache_set.allocations.free_bucket(holder, kept[0])
        (keys,) = await cache_set.allocations.allocate(holder, [request], 5)
        assert keys[0].sectors == 64


@in_virtual_time
async def test_prios_can_be_written_though_nothing_else_can_be_had(tmp_path: Path) -> None:
    async with a_set(tmp_path, 4 << 10, Replacement.LRU) as cache_set:
        holder = cache_set.allocations.new_holder("greedy")
        await hold_everything(cache_set, holder)
        for _ in range(10):
            async with patience(5):
                await cache_set.maintenance.write_priorities()
        assert (await quiet(cache_set)).total <= 1


@in_virtual_time
async def test_volumes_come_and_go_though_no_data_can_be_had(tmp_path: Path) -> None:
    async with a_set(tmp_path, 64 << 10, Replacement.LRU) as cache_set:
        holder = cache_set.allocations.new_holder("greedy")
        await hold_everything(cache_set, holder)
        before = work_of(cache_set)
        for _ in range(40):
            async with patience(5):
                await cache_set.volumes.delete(await cache_set.volumes.create("brief"))
        assert (work_of(cache_set) - before).total <= 80 + WORK_MAX
        assert cache_set.verify() == []
