# SPDX-License-Identifier: GPL-2.0-only
"""Open buckets of writers that are gone, or idle, keep no other from getting the last sectors."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bcached.errors import NoFreeBuckets
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.lifetime import running
from bcached.state.buckets.bucket_table import State
from bcached.state.sectors.last_resort import IDLE_S
from bcached.state.sectors.open_buckets import OPEN_BUCKETS_MAX
from bcached.state.sectors.reservations import Holder
from instruments.samples.living_set import extent, fresh_members, set_options, take_buckets
from instruments.time.virtual_time import in_virtual_time

BUCKET_SECTORS, PIECE = 16, 4
PATIENCE_S = 3.0
FAR = 1 << 30


@asynccontextmanager
async def a_set(folder: Path, *counts: int, **options: Any) -> AsyncIterator[CacheSet]:
    devices = await fresh_members(counts or [520], 8 << 10)
    values = {"verify": False, "restart_grace_s": 0.1} | options
    async with running(devices, set_options(folder, **values)) as cache_set:
        await cache_set.volumes.create("plain")
        yield cache_set


async def writers(cache_set: CacheSet, count: int = OPEN_BUCKETS_MAX) -> list[tuple[Holder, Key]]:
    """Connections with a write point each, which hold a piece of a bucket of its own."""
    made = []
    for number in range(count):
        holder = cache_set.allocations.new_holder(f"writer {number}")
        wanted = extent(PIECE, offset=number << 10, write_point=100 + number)
        ((key,),) = await cache_set.allocations.allocate(holder, [wanted], PATIENCE_S)
        made.append((holder, key))
    return made


async def commit(cache_set: CacheSet, written: Sequence[tuple[Holder, Key]], *, dirty: bool) -> None:
    for holder, key in written:
        kept = Key(key.inode, key.offset, key.sectors, dirty, key.pointers)
        await cache_set.index.commit(holder, [kept], PATIENCE_S)


async def all_there_is(cache_set: CacheSet, write_point: int = 7) -> int:
    """Sectors that one writer gets until there are no more; it holds them."""
    holder, got = cache_set.allocations.new_holder("honest writer"), 0
    with suppress(NoFreeBuckets):
        while True:
            wanted = extent(PIECE, offset=FAR + got, write_point=write_point)
            await cache_set.allocations.allocate(holder, [wanted], PATIENCE_S)
            got += PIECE
    return got


async def fresh_capacity(folder: Path) -> int:
    async with a_set(folder) as cache_set:
        return await all_there_is(cache_set)


@in_virtual_time
async def test_the_dead_leave_all_they_had(tmp_path: Path) -> None:
    capacity = await fresh_capacity(tmp_path)
    async with a_set(tmp_path) as cache_set:
        for holder, _ in await writers(cache_set):
            cache_set.allocations.drop_holder(holder, None)
        await asyncio.sleep(1)
        assert cache_set.statistics().open_buckets_gone == OPEN_BUCKETS_MAX
        # With all slots open, the writer went on in one of theirs first.
        assert await all_there_is(cache_set) == capacity - PIECE
        assert cache_set.statistics().open_buckets_gone == 0
        assert cache_set.verify() == []


@pytest.mark.parametrize("dirty", [False, True])
@in_virtual_time
async def test_what_the_dead_committed_takes_no_more_than_itself(tmp_path: Path, dirty: bool) -> None:
    capacity = await fresh_capacity(tmp_path)
    async with a_set(tmp_path) as cache_set:
        written = await writers(cache_set)
        await commit(cache_set, written, dirty=dirty)
        for holder, _ in written:
            cache_set.allocations.drop_holder(holder, None)
        left = capacity - (OPEN_BUCKETS_MAX * PIECE if dirty else 0)
        assert await all_there_is(cache_set) >= left - 2 * BUCKET_SECTORS
        assert cache_set.verify() == []


@in_virtual_time
async def test_the_living_share_what_they_have_open(tmp_path: Path) -> None:
    capacity = await fresh_capacity(tmp_path)
    async with a_set(tmp_path) as cache_set:
        written = await writers(cache_set)
        assert await all_there_is(cache_set) == capacity - OPEN_BUCKETS_MAX * PIECE
        assert cache_set.sectors.reserved_sectors == capacity
        for _, key in written:
            cache_set.sectors.validity.check(key)
        assert cache_set.verify() == []


@in_virtual_time
async def test_who_wants_a_whole_bucket_gets_those_of_the_idle(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        written = await writers(cache_set, 20)
        await commit(cache_set, written, dirty=False)
        busy, _ = written[-1]
        greedy = cache_set.allocations.new_holder("greedy")
        await take_buckets(cache_set, greedy, patience_s=IDLE_S / 2)
        assert cache_set.members[0].buckets.table.counts[State.OPEN] == 20
        waiting = asyncio.ensure_future(take_buckets(cache_set, greedy, patience_s=10.0))
        for step in range(2):  # in use all the time
            assert (
                cache_set.allocations.carve(busy, 0, (19 << 10) + PIECE * (step + 1), PIECE, 119) is not None
            )
            await asyncio.sleep(IDLE_S * 0.9)
        assert cache_set.statistics().open_buckets == 1
        await asyncio.wait([waiting])
        assert len(waiting.result()) == 19
        assert cache_set.verify() == []


@in_virtual_time
async def test_as_long_as_there_are_buckets_nobody_is_taken_anything(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        written = await writers(cache_set, 40)
        for holder, _ in written[:20]:
            cache_set.allocations.drop_holder(holder, None)
        await asyncio.sleep(10 * IDLE_S)
        await take_buckets(cache_set, cache_set.allocations.new_holder("modest"), 300)
        now = cache_set.statistics()
        assert (now.open_buckets_gone, now.open_buckets_idle) == (20, 20)


@in_virtual_time
async def test_copies_on_two_members_are_let_go_on_both(tmp_path: Path) -> None:
    async with a_set(tmp_path, 520, 520) as cache_set:
        gone = cache_set.allocations.new_holder("gone")
        for number in range(60):
            wanted = extent(PIECE, offset=number << 10, write_point=100 + number, replicas=2)
            await cache_set.allocations.allocate(gone, [wanted], PATIENCE_S)
        cache_set.allocations.drop_holder(gone, None)
        await asyncio.sleep(1)
        taken = await take_buckets(
            cache_set, cache_set.allocations.new_holder("greedy"), patience_s=PATIENCE_S
        )
        assert len(taken) > 2 * 480
        assert cache_set.statistics().open_buckets == 0
        assert cache_set.verify() == []
