# SPDX-License-Identifier: GPL-2.0-only
"""The buckets of a connection that broke wait until no write of its process can come any more."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.lifetime import running
from bcached.state.buckets.bucket_table import State
from bcached.state.sectors.reservations import Holder
from instruments.samples.living_set import extent, fresh_members, set_options, take_buckets
from instruments.time.patience import patience
from instruments.time.virtual_time import in_virtual_time


@asynccontextmanager
async def a_set(folder: Path, grace_s: float) -> AsyncIterator[CacheSet]:
    devices = await fresh_members([513], 4 << 10)
    async with running(devices, set_options(folder, restart_grace_s=grace_s, verify=False)) as cache_set:
        yield cache_set
        assert cache_set.verify() == []


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]) as process:
        yield process
        process.kill()


async def with_buckets(cache_set: CacheSet, count: int = 3) -> tuple[Holder, list[Key]]:
    holder = cache_set.allocations.new_holder("client")
    return holder, await take_buckets(cache_set, holder, count, patience_s=20)


def in_quarantine(cache_set: CacheSet) -> int:
    return cache_set.members[0].buckets.table.counts[State.QUARANTINE]


async def test_as_soon_as_the_process_has_ended(tmp_path: Path, process: "subprocess.Popen[bytes]") -> None:
    async with a_set(tmp_path, 60) as cache_set:
        holder, _ = await with_buckets(cache_set)
        cache_set.allocations.drop_holder(holder, process.pid)
        assert in_quarantine(cache_set) == 3
        await asyncio.sleep(0.2)
        assert in_quarantine(cache_set) == 3, "it lives, and may have writes under way"
        process.kill()
        async with patience(10):
            while len(cache_set.allocations.quarantine):
                await asyncio.sleep(0.01)
        assert in_quarantine(cache_set) == 0
        assert cache_set.statistics().reserved_sectors == 0


async def test_a_process_that_ended_before_has_nothing_to_wait_for(
    tmp_path: Path, process: "subprocess.Popen[bytes]"
) -> None:
    async with a_set(tmp_path, 60) as cache_set:
        holder, _ = await with_buckets(cache_set)
        process.kill()
        process.wait()
        cache_set.allocations.drop_holder(holder, process.pid)
        assert in_quarantine(cache_set) == len(cache_set.allocations.quarantine) == 0


@in_virtual_time
async def test_a_process_that_lives_on_is_given_the_grace(tmp_path: Path) -> None:
    async with a_set(tmp_path, 10) as cache_set:
        holder, _ = await with_buckets(cache_set)
        cache_set.allocations.drop_holder(holder, os.getpid())
        await asyncio.sleep(9.9)
        assert in_quarantine(cache_set) == 3
        await asyncio.sleep(0.2)
        assert in_quarantine(cache_set) == 0


@in_virtual_time
async def test_a_process_that_is_not_known_is_given_the_grace(tmp_path: Path) -> None:
    async with a_set(tmp_path, 10) as cache_set:
        for pid in (None, 0):
            holder, _ = await with_buckets(cache_set)
            cache_set.allocations.drop_holder(holder, pid)
        await asyncio.sleep(9.9)
        assert in_quarantine(cache_set) == 6
        await asyncio.sleep(0.2)
        assert in_quarantine(cache_set) == 0


@in_virtual_time
async def test_no_bucket_in_quarantine_is_given_to_anybody(tmp_path: Path) -> None:
    async with a_set(tmp_path, 1000) as cache_set:
        holder, keys = await with_buckets(cache_set)
        cache_set.allocations.drop_holder(holder, None)
        others = await take_buckets(cache_set, cache_set.allocations.new_holder("greedy"), patience_s=0.1)
        assert len(others) > 400
        taken = {key.pointers[0].sector for key in others}
        assert not taken & {key.pointers[0].sector for key in keys}
        waiting = cache_set.allocations.allocate_bucket(cache_set.allocations.new_holder("patient"), 1, 2000)
        await asyncio.sleep(900)
        assert not waiting.done()
        await asyncio.sleep(200)
        assert waiting.done(), "served from what came out of quarantine"


@in_virtual_time
async def test_an_open_bucket_goes_on_being_cut_for_others(tmp_path: Path) -> None:
    async with a_set(tmp_path, 10) as cache_set:
        inode = await cache_set.volumes.create("volume")
        holders = [cache_set.allocations.new_holder(name) for name in ("goes", "stays")]
        ((first,),) = await cache_set.allocations.allocate(holders[0], [extent(1, inode=inode)], 5)
        second = cache_set.allocations.carve(holders[1], inode, 1, 1, 1)
        assert second is not None
        assert cache_set.geometry.bucket_of(second.pointers[0].sector) == cache_set.geometry.bucket_of(
            first.pointers[0].sector
        )
        cache_set.allocations.drop_holder(holders[0], None)
        third = cache_set.allocations.carve(holders[1], inode, 2, 6, 1)
        assert third is not None
        assert in_quarantine(cache_set) == 1, "it is full now, and one of its writers has gone"
        await asyncio.sleep(11)
        assert in_quarantine(cache_set) == 0
        cache_set.allocations.release(holders[1], [second, third])


@in_virtual_time
async def test_who_held_nothing_needs_no_quarantine(tmp_path: Path) -> None:
    async with a_set(tmp_path, 10) as cache_set:
        holder, keys = await with_buckets(cache_set)
        for key in keys:
            cache_set.allocations.free_bucket(holder, key)
        cache_set.allocations.drop_holder(holder, os.getpid())
        assert len(cache_set.allocations.quarantine) == 0
        assert cache_set.statistics().holders == 0


def process_descriptors() -> int:
    links = [f"/proc/self/fd/{descriptor}" for descriptor in os.listdir("/proc/self/fd")]
    return sum("pidfd" in os.readlink(link) for link in links if os.path.lexists(link))


async def test_a_stop_forgets_them_and_leaves_no_descriptor_open(tmp_path: Path) -> None:
    async with a_set(tmp_path, 60) as cache_set:
        holder, _ = await with_buckets(cache_set)
        cache_set.allocations.drop_holder(holder, os.getpid())
        assert process_descriptors() == 1
    assert process_descriptors() == 0


@in_virtual_time
async def test_without_descriptors_it_is_the_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(pid: int) -> int:
        raise OSError(24, "Too many open files")

    async with a_set(tmp_path, 10) as cache_set:
        holder, _ = await with_buckets(cache_set)
        monkeypatch.setattr(os, "pidfd_open", no_more)
        cache_set.allocations.drop_holder(holder, os.getpid())
        await asyncio.sleep(9.9)
        assert in_quarantine(cache_set) == 3
        await asyncio.sleep(0.2)
        assert in_quarantine(cache_set) == 0
