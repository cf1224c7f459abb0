# SPDX-License-Identifier: GPL-2.0-only
"""A cache that is mostly clean can always allocate, however its dirty data is spread; one that is full of
dirty data says so at the deadline, and does nothing more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bcached.errors import DeviceError, NoFreeBuckets
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.lookups import LookupRequest
from bcached.runtime.lifetime import running
from bcached.runtime.tasks.evacuator import EvacuationTotals
from bcached.state.buckets.bucket_table import State
from bcached.units import SECTOR_BYTES
from instruments.clients.keeping_client import KeepingClient, Kept, check_kept, data_of
from instruments.devices.passing_device import PassingDevice
from instruments.samples.living_set import extent, fresh_members, reopened, set_options
from instruments.time.patience import patience
from instruments.time.virtual_time import in_virtual_time

BUCKETS, BUCKET_BYTES, KEY_SECTORS = 520, 8 << 10, 4
BUCKET_SECTORS = BUCKET_BYTES // SECTOR_BYTES
PATIENCE_S = 3.0


class Writer:
    """Writes one key after the other, one in so many of them dirty, each with data of its own."""

    def __init__(
        self, cache_set: CacheSet, one_in: int, *, replicas: int = 1, sectors: int = KEY_SECTORS
    ) -> None:
        self.cache_set = cache_set
        self.kept = Kept()
        self.client = KeepingClient(cache_set, self.kept)
        self.one_in = one_in
        self.replicas = replicas
        self.sectors = sectors
        self.count = self.dirty_sectors = 0

    async def write(self, count: int = 1) -> list[Key]:
        """So many keys, in one request and one commit."""
        index, holder, sectors = self.cache_set.index, self.client.holder, self.sectors
        numbers = range(self.count, self.count + count)
        wanted = [extent(sectors, offset=number * sectors, replicas=self.replicas) for number in numbers]
        found = await self.cache_set.allocations.allocate(holder, wanted, PATIENCE_S)
        keys = [
            Key(key.inode, key.offset, key.sectors, number % self.one_in == 0, key.pointers)
            for number, (key,) in zip(numbers, found, strict=True)
        ]
        for number, key in zip(numbers, keys, strict=True):
            for pointer in key.pointers:
                device = self.cache_set.members[pointer.device].block_device
                await device.write(pointer.sector * SECTOR_BYTES, data_of(number + 1, key))
            self.kept.begin(0, key.offset, key.end, number + 1)
            if key.dirty:
                self.kept.done(0, key.offset, key.end, number + 1)
                self.dirty_sectors += key.sectors
        await index.commit(holder, keys, PATIENCE_S)
        self.count += count
        return keys

    async def fill(self, most: int = 1 << 30) -> None:
        """Until no sectors are to be had, or so many keys are written."""
        for count in (16, 1):
            with suppress(NoFreeBuckets):
                while self.count < most:
                    await self.write(count)


@asynccontextmanager
async def a_set(folder: Path, *counts: int, **options: Any) -> AsyncIterator[CacheSet]:
    devices = await fresh_members(counts or [BUCKETS], BUCKET_BYTES)
    async with running(devices, set_options(folder, **({"verify": False} | options))) as cache_set:
        await cache_set.volumes.create("plain")
        yield cache_set


def totals(cache_set: CacheSet) -> EvacuationTotals:
    return cache_set.tasks.garbage_collector.evacuator.totals


def in_state(cache_set: CacheSet, state: State) -> int:
    return sum(member.buckets.table.counts[state] for member in cache_set.members)


async def check(cache_set: CacheSet, writer: Writer) -> None:
    await asyncio.sleep(10)  # what is under way ends
    assert cache_set.verify() == []
    assert cache_set.sectors.reserved_sectors == 0
    await check_kept(cache_set, writer.kept)


@pytest.mark.parametrize("one_in", [2, 16])
@in_virtual_time
async def test_a_set_takes_dirty_data_until_it_is_full_of_it(tmp_path: Path, one_in: int) -> None:
    async with a_set(tmp_path) as cache_set:
        writer = Writer(cache_set, one_in)
        await writer.fill(4800)
        full = in_state(cache_set, State.DIRTY) * BUCKET_SECTORS
        if one_in == 16:
            assert writer.count == 4800, "a set that is mostly clean refuses sectors"
        else:
            assert writer.dirty_sectors > full - 3 * BUCKET_SECTORS, "there was room left"
        await check(cache_set, writer)
        before, moved = totals(cache_set).rounds, cache_set.tasks.garbage_collector.mover.moved_sectors
        for _ in range(5):
            with suppress(NoFreeBuckets):
                await writer.write()
        assert totals(cache_set).rounds - before <= 5
        assert moved < writer.dirty_sectors * 8


@in_virtual_time
async def test_what_is_cleaned_or_dropped_in_a_full_set_serves_again(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        writer = Writer(cache_set, 1)
        await writer.fill()
        waiting = cache_set.allocations.allocate(
            writer.client.holder, [extent(KEY_SECTORS, offset=1 << 20)], 100.0
        )
        await asyncio.sleep(1)
        assert not waiting.done()
        for number in range(0, 20 * 4, 4):  # no bucket has nothing left in it
            await writer.client.drop(0, number * KEY_SECTORS, KEY_SECTORS)
        async with patience(5):
            ((key,),) = await waiting
        cache_set.allocations.release(writer.client.holder, [key])
        await check(cache_set, writer)


@in_virtual_time
async def test_copies_on_several_members_stay_together(tmp_path: Path) -> None:
    async with a_set(tmp_path, BUCKETS, BUCKETS) as cache_set:
        writer = Writer(cache_set, 4, replicas=2)
        await writer.fill(2800)
        assert writer.count == 2800
        assert totals(cache_set).emptied_buckets > 50
        dirty = [key async for leaf in cache_set.index.nodes.leaves() for key in leaf.live if key.dirty]
        assert sum(key.sectors for key in dirty) == writer.dirty_sectors
        assert {tuple(sorted(pointer.device for pointer in key.pointers)) for key in dirty} == {(0, 1)}
        await check(cache_set, writer)


@in_virtual_time
async def test_members_of_unlike_sizes_fill_up_to_the_last(tmp_path: Path) -> None:
    async with a_set(tmp_path, BUCKETS, 540) as cache_set:
        writer = Writer(cache_set, 1)
        await writer.fill(3600)
        writer.one_in = 2
        await writer.fill()
        full = in_state(cache_set, State.DIRTY) * BUCKET_SECTORS
        assert writer.dirty_sectors > full - 4 * BUCKET_SECTORS
        await check(cache_set, writer)


@in_virtual_time
async def test_a_pinned_bucket_stays(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        writer = Writer(cache_set, 16)
        (key,) = await writer.write()
        reader = cache_set.allocations.new_holder("reader")
        pinned = await cache_set.lookups.lookup(LookupRequest(0, 0, KEY_SECTORS, pin=reader))
        await writer.fill(3201)
        assert writer.count == 3201
        assert (await cache_set.lookups.lookup(LookupRequest(0, 0, KEY_SECTORS))).keys == [key]
        cache_set.lookups.unpin(reader, pinned.keys)
        await check(cache_set, writer)


@in_virtual_time
async def test_with_moving_switched_off_nothing_is_moved(tmp_path: Path) -> None:
    async with a_set(tmp_path, moving_gc=False) as cache_set:
        writer = Writer(cache_set, 4)
        await writer.fill()
        assert writer.count < 2500
        assert totals(cache_set) == EvacuationTotals()
        await check(cache_set, writer)


@in_virtual_time
async def test_sets_that_are_mostly_clean_move_nothing_as_long_as_clean_buckets_are_left(
    tmp_path: Path,
) -> None:
    async with a_set(tmp_path) as cache_set:
        writer = Writer(cache_set, 1)
        await writer.fill(400)
        writer.one_in = 1 << 30
        writer.count += 1  # clean from here on
        await writer.fill(4001)
        assert totals(cache_set) == EvacuationTotals()
        await check(cache_set, writer)


class WithBadBuckets(PassingDevice):
    """Some buckets cannot be read."""

    bad: frozenset[int] = frozenset()

    async def read(self, offset: int, length: int) -> bytes:
        if offset // BUCKET_BYTES in self.bad:
            raise DeviceError(self.path, f"cannot read {length} bytes at {offset}: Input/output error")
        return await super().read(offset, length)


@in_virtual_time
async def test_data_that_cannot_be_read_is_not_tried_again_and_the_rest_moves(tmp_path: Path) -> None:
    (member,) = await fresh_members([BUCKETS], BUCKET_BYTES)
    device = WithBadBuckets(member)
    async with running([device], set_options(tmp_path, verify=False)) as cache_set:
        await cache_set.volumes.create("plain")
        writer = Writer(cache_set, 16)
        first = [key for _ in range(25) for key in await writer.write(16)]
        device.bad = frozenset(key.pointers[0].sector // BUCKET_SECTORS for key in first if key.dirty)
        await writer.fill(4000)
        assert writer.count == 4000
        device.bad = frozenset()
        await check(cache_set, writer)


@in_virtual_time
async def test_where_the_lightest_cannot_be_read_the_next_are_emptied(tmp_path: Path) -> None:
    (member,) = await fresh_members([BUCKETS], BUCKET_BYTES)
    device = WithBadBuckets(member)
    async with running([device], set_options(tmp_path, verify=False)) as cache_set:
        await cache_set.volumes.create("plain")
        writer = Writer(cache_set, 4)
        await writer.fill(480)  # one of four keys in each bucket
        writer.one_in = 2
        found = cache_set.members[0].buckets.table.in_state(State.DIRTY)
        device.bad = frozenset(found)
        await writer.fill(2800)
        assert writer.count == 2800
        device.bad = frozenset()
        await check(cache_set, writer)


@in_virtual_time
async def test_an_index_that_may_not_grow_keeps_nothing_from_being_moved(tmp_path: Path) -> None:
    async with a_set(tmp_path) as cache_set:
        writer = Writer(cache_set, 4)
        while not cache_set.members[0].buckets.invalidate_needs_gc:
            await writer.write(16)
        while cache_set.sectors.take_metadata(State.UUID) is not None:
            pass
        assert not cache_set.index.changes.may_grow()
        before = totals(cache_set).emptied_buckets
        for _ in range(8):
            await writer.write(16)
        assert totals(cache_set).emptied_buckets > before + 15, "those for nodes were missing, too"


@in_virtual_time
async def test_what_was_moved_is_found_in_a_later_life(tmp_path: Path) -> None:
    devices = await fresh_members([BUCKETS], BUCKET_BYTES)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        await cache_set.volumes.create("plain")
        writer = Writer(cache_set, 5)
        await writer.fill(3200)
        assert totals(cache_set).moved_sectors
    async with running(reopened(devices), set_options(tmp_path, verify=False)) as cache_set:
        assert cache_set.verify() == []
        await check_kept(cache_set, writer.kept)
