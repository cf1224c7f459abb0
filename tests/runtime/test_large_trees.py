# SPDX-License-Identifier: GPL-2.0-only
"""However many leaves there are, nobody goes through all of them without letting others have their turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.lookups import LEAVES_AT_ONCE, LookupRequest
from bcached.runtime.lifetime import running
from bcached.runtime.tasks.node_tidier import FILLS_A_PIECE
from bcached.store.btree.write_back import WRITTEN_LEAVES
from instruments.samples.living_set import extent, fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time

KEYS = 24_000
END = 8 * KEYS


@asynccontextmanager
async def a_set_with_many_leaves(folder: Path) -> AsyncIterator[CacheSet]:
    devices = await fresh_members([8192], 4 << 10)
    async with running(devices, set_options(folder, verify=False, moving_gc=False)) as cache_set:
        await cache_set.volumes.create("plain")
        holder, offsets = cache_set.allocations.new_holder("client"), [number * 8 for number in range(KEYS)]
        Random(1).shuffle(offsets)
        for start in range(0, KEYS, 100):
            wanted = [extent(1, offset=offset) for offset in offsets[start : start + 100]]
            keys = [
                key for keys in await cache_set.allocations.allocate(holder, wanted, 10.0) for key in keys
            ]
            await cache_set.index.commit(holder, keys, 20.0)
        yield cache_set


@asynccontextmanager
async def turns_counted() -> AsyncIterator[list[int]]:
    """How often the loop turned, and the most tasks there were."""
    seen = [0, 0]

    async def turn() -> None:
        while True:
            seen[0] += 1
            seen[1] = max(seen[1], len(asyncio.all_tasks()))
            await asyncio.sleep(0)

    turning = asyncio.ensure_future(turn())
    await asyncio.sleep(0)
    seen[:] = [0, 0]
    yield seen
    turning.cancel()


@in_virtual_time
async def test_no_question_goes_through_all_leaves_at_once(tmp_path: Path) -> None:
    async with a_set_with_many_leaves(tmp_path) as cache_set:
        index, lookups = cache_set.index, cache_set.lookups
        nodes, tree = index.nodes, index.nodes.tree
        await index.write_back.write_all()
        leaves = len(tree.leaves)
        assert leaves > 2 * LEAVES_AT_ONCE
        tree.evict(await nodes.leaf_at(0, 0))
        found = await lookups.lookup(LookupRequest(0, 0, END, limit=KEYS))
        assert 0 < len(found.keys) < KEYS
        assert found.next is not None
        assert lookups.try_lookup(LookupRequest(0, 0, END, limit=KEYS)) is None, (
            "too many, though all are in memory"
        )
        keys, start = found.keys, found.next
        while start < END:
            found = await lookups.lookup(LookupRequest(0, start, END - start, limit=KEYS))
            keys += found.keys
            start = found.next or END
        assert len(keys) == KEYS


@in_virtual_time
async def test_leaves_that_hold_nothing_are_looked_through_in_turns(tmp_path: Path) -> None:
    async with a_set_with_many_leaves(tmp_path) as cache_set:
        index, tree = cache_set.index, cache_set.index.nodes.tree
        await index.invalidate(0, 0, END // 2, 20.0)
        await index.write_back.write_all()
        for leaf in list(tree.evictable()):
            tree.evict(leaf)
        found = await cache_set.lookups.lookup(LookupRequest(0, 0, END, limit=1))
        assert found.keys[0].offset == END // 2


@in_virtual_time
async def test_a_question_counts_once_however_many_leaves_it_takes(tmp_path: Path) -> None:
    async with a_set_with_many_leaves(tmp_path) as cache_set:
        index, lookups = cache_set.index, cache_set.lookups
        tree = index.nodes.tree
        await index.invalidate(0, 0, END // 2, 10.0)
        await index.write_back.write_all()
        for leaf in list(tree.leaves):
            tree.evict(leaf)
        total = cache_set.index.reads.total()
        before, hits = total.lookups, total.hits
        assert (await lookups.lookup(LookupRequest(0, 0, END))).keys
        assert len(tree.leaves) > 2
        total = cache_set.index.reads.total()
        assert (total.lookups, total.hits) == (before + 1, hits + 1)
        assert (await lookups.lookup(LookupRequest(0, END, 8))).keys == []
        total = cache_set.index.reads.total()
        assert (total.lookups, total.hits) == (before + 2, hits + 1)


@in_virtual_time
async def test_leaves_that_are_written_at_a_time_are_not_too_many(tmp_path: Path) -> None:
    async with a_set_with_many_leaves(tmp_path) as cache_set:
        index, tree = cache_set.index, cache_set.index.nodes.tree
        await index.write_back.write_all()
        assert len(tree.leaves) > 2 * WRITTEN_LEAVES
        async with turns_counted() as seen:
            await index.write_back.write_leaves(list(tree.leaves))
        assert seen[1] < WRITTEN_LEAVES + 30


@in_virtual_time
async def test_leaves_of_which_none_could_be_fewer_are_not_compared_at_once(tmp_path: Path) -> None:
    async with a_set_with_many_leaves(tmp_path) as cache_set:
        collector = cache_set.tasks.garbage_collector
        for _ in range(3):
            await cache_set.maintenance.collect_garbage()
        assert collector.marker.found["nodes_saved"] == 0
        turns = []
        cache_set.shared.steps.begin(collector)
        for fills in ([], collector.marker.fills):
            async with turns_counted() as seen:
                await collector.tidier.tidy(fills)
            turns.append(seen[0])
        cache_set.shared.steps.end(collector)
        assert turns[1] - turns[0] >= collector.marker.found["leaves"] // FILLS_A_PIECE
