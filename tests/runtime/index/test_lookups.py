# SPDX-License-Identifier: GPL-2.0-only
"""What a look-up returns, where it ends, and what it counts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bcached.errors import NoSuchVolume
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.lookups import LookupRequest, LookupResult
from bcached.runtime.lifetime import running
from instruments.samples.living_set import extent, fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time

END = 1 << 20
STRIDE = 16  # so that no two keys are merged


@asynccontextmanager
async def a_set_with_keys(folder: Path, count: int) -> AsyncIterator[tuple[CacheSet, list[Key]]]:
    """A set with so many clean keys of a sector, and these."""
    devices = await fresh_members([2048], 4 << 10)
    async with running(devices, set_options(folder)) as cache_set:
        await cache_set.volumes.create("plain")
        holder, committed = cache_set.allocations.new_holder("client"), []
        for number in range(count):
            wanted = [extent(1, offset=STRIDE * number)]
            ((key,),) = await cache_set.allocations.allocate(holder, wanted, 10.0)
            await cache_set.index.commit(holder, [key], 10.0)
            committed.append(key)
        yield cache_set, committed


@in_virtual_time
async def test_a_limit_that_is_reached_says_where_to_continue(tmp_path: Path) -> None:
    async with a_set_with_keys(tmp_path, 5) as (cache_set, keys):
        lookups = cache_set.lookups
        assert lookups.try_lookup(LookupRequest(0, 0, END, 2)) == LookupResult(keys[:2], keys[1].end)
        found = await lookups.lookup(LookupRequest(0, keys[1].end, END, limit=2))
        assert found == LookupResult(keys[2:4], keys[3].end)
        to_the_end = LookupRequest(0, 0, keys[1].end, 2)
        assert lookups.try_lookup(to_the_end) == LookupResult(keys[:2], None)
        assert lookups.try_lookup(LookupRequest(0, 0, END, 6)) == LookupResult(keys, None)


@in_virtual_time
async def test_a_leaf_that_is_not_in_memory_has_to_be_waited_for(tmp_path: Path) -> None:
    async with a_set_with_keys(tmp_path, 400) as (cache_set, keys):
        tree, lookups = cache_set.index.nodes.tree, cache_set.lookups
        await cache_set.index.write_back.write_all()
        leaves = list(tree.evictable())
        assert len(leaves) > 1
        for leaf in leaves:
            tree.evict(leaf)
        assert lookups.try_lookup(LookupRequest(0, 0, END)) is None
        found = await lookups.lookup(LookupRequest(0, 0, END))
        assert found.next is not None, "the next leaf is not in memory"
        assert found.keys == keys[: len(found.keys)]
        assert lookups.try_lookup(LookupRequest(0, 0, found.next)) == LookupResult(found.keys, None)


@in_virtual_time
async def test_no_volume_no_keys(tmp_path: Path) -> None:
    async with a_set_with_keys(tmp_path, 1) as (cache_set, _):
        with pytest.raises(NoSuchVolume):
            cache_set.lookups.try_lookup(LookupRequest(7, 0, 8))
        with pytest.raises(NoSuchVolume):
            await cache_set.lookups.lookup(LookupRequest(7, 0, 8))


def counted(cache_set: CacheSet) -> tuple[int, int]:
    """The look-ups of all volumes, and how many of them found something."""
    total = cache_set.index.reads.total()
    return total.lookups, total.hits


@in_virtual_time
async def test_bytes_are_counted_as_far_as_a_look_up_searched(tmp_path: Path) -> None:
    async with a_set_with_keys(tmp_path, 5) as (cache_set, _):
        other = await cache_set.volumes.create("other")
        lookups, reads = cache_set.lookups, cache_set.index.reads.by_inode
        lookups.try_lookup(LookupRequest(0, 0, END))
        assert (reads[0].sectors, reads[0].hit_sectors) == (END, 5)
        lookups.try_lookup(LookupRequest(0, 0, END, limit=2, touch=False))
        assert (reads[0].sectors, reads[0].hit_sectors) == (END + STRIDE + 1, 7)
        await lookups.lookup(LookupRequest(other, 8, 16))
        assert (reads[other].lookups, reads[other].sectors, reads[other].hits) == (1, 16, 0)
        before = counted(cache_set)
        await cache_set.volumes.delete(other)
        assert other not in reads
        assert counted(cache_set) == before, "a total that goes down would look like a restart"


@in_virtual_time
async def test_hits_are_look_ups_that_found_something_live(tmp_path: Path) -> None:
    async with a_set_with_keys(tmp_path, 1) as (cache_set, keys):
        lookups = cache_set.lookups
        lookups.try_lookup(LookupRequest(0, 0, 8))
        lookups.try_lookup(LookupRequest(0, STRIDE, 8))
        assert counted(cache_set) == (2, 1)
        (pointer,) = keys[0].pointers
        member = cache_set.members[0].buckets
        member.table.gens_array[member.geometry.bucket_of(pointer.sector)] += 1
        assert lookups.try_lookup(LookupRequest(0, 0, 8)) == LookupResult([], None), "stale"
        member.table.gens_array[member.geometry.bucket_of(pointer.sector)] -= 1
        assert counted(cache_set) == (3, 1)


@in_virtual_time
async def test_a_pinned_key_keeps_its_bucket_until_it_is_unpinned(tmp_path: Path) -> None:
    async with a_set_with_keys(tmp_path, 1) as (cache_set, keys):
        reader = cache_set.allocations.new_holder("reader")
        found = cache_set.lookups.try_lookup(LookupRequest(0, 0, 8, pin=reader))
        assert found == LookupResult(keys, None)
        bucket = cache_set.members[0].buckets.geometry.bucket_of(keys[0].pointers[0].sector)
        table = cache_set.members[0].buckets.table
        pins = table.pins[bucket]
        assert pins > 0
        cache_set.lookups.unpin(reader, keys)
        assert table.pins[bucket] == pins - 1
