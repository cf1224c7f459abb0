# SPDX-License-Identifier: GPL-2.0-only
import asyncio
from pathlib import Path

import pytest

from bcached.errors import InvalidParameter
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.lifetime import running
from bcached.state.buckets.geometry import INITIAL_PRIO
from bcached.state.sectors.reservations import ExtentRequest
from bcached.wire.messages import Bucket
from instruments.samples.living_set import fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time


def prio(cache_set: CacheSet, one: Bucket) -> int:
    return cache_set.members[one.device].buckets.table.prios[one.bucket]


def age(cache_set: CacheSet, one: Bucket) -> None:
    cache_set.members[one.device].buckets.table.prios[one.bucket] = 5


async def bucket_in_use(cache_set: CacheSet) -> Bucket:
    inode, _ = await cache_set.volumes.open("cache")
    holder = cache_set.allocations.new_holder("client")
    ((key,),) = await cache_set.allocations.allocate(holder, [ExtentRequest(inode, 0, 8, 1)], 1.0)
    pointer = key.pointers[0]
    await cache_set.index.commit(holder, [key], 1.0)
    return Bucket(pointer.device, cache_set.geometry.bucket_of(pointer.sector), pointer.gen)


@in_virtual_time
async def test_a_touch_renews_the_prios_of_buckets_with_the_same_gen(tmp_path: Path) -> None:
    async with running(await fresh_members([513, 600], 4 << 10), set_options(tmp_path)) as cache_set:
        one = await bucket_in_use(cache_set)
        age(cache_set, one)
        cache_set.touches.touch([Bucket(one.device, one.bucket, one.gen ^ 1)])
        assert prio(cache_set, one) == 5, "it is another owner's by now"
        cache_set.touches.touch([one])
        assert prio(cache_set, one) == INITIAL_PRIO


@in_virtual_time
async def test_a_touch_leaves_metadata_alone(tmp_path: Path) -> None:
    async with running(await fresh_members([513], 4 << 10), set_options(tmp_path)) as cache_set:
        table = cache_set.members[0].buckets.table
        for device, bucket in cache_set.volumes.table_buckets():
            before = table.prios[bucket]
            cache_set.touches.touch([Bucket(device, bucket, table.gens[bucket])])
            assert table.prios[bucket] == before


@in_virtual_time
async def test_a_bucket_that_is_none_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    async with running(await fresh_members([513], 4 << 10), set_options(tmp_path)) as cache_set:
        one = await bucket_in_use(cache_set)
        age(cache_set, one)
        table = cache_set.members[0].buckets.table
        for wrong in (
            Bucket(1, one.bucket, 0),
            Bucket(0, table.bucket_count, 0),
            Bucket(0, table.first_bucket - 1, 0),
        ):
            with pytest.raises(InvalidParameter, match="no bucket"):
                cache_set.touches.touch([one, wrong])
        assert prio(cache_set, one) == 5


@in_virtual_time
async def test_what_clients_count_is_in_the_statistics_and_is_traffic(tmp_path: Path) -> None:
    async with running(await fresh_members([513], 4 << 10), set_options(tmp_path)) as cache_set:
        one = await bucket_in_use(cache_set)
        before = prio(cache_set, one)
        cache_set.touches.count(3, 1, 4096)
        cache_set.touches.count(2, 0, 513 << 20)
        state = cache_set.statistics().state()
        assert (state.client_hits, state.client_misses, state.client_hit_bytes) == (5, 1, 4096 + (513 << 20))
        await asyncio.sleep(1)  # the prio writer ages them
        assert prio(cache_set, one) < before, "reads age what is not read"
