# SPDX-License-Identifier: GPL-2.0-only
"""Commits to leaves that are not in memory: one read serves many, and nothing is lost or found too early."""

from pathlib import Path
from random import Random

import pytest

from bcached.runtime.index.conditional_commits import CommitConditions
from bcached.state.index.node import position_at
from bcached.state.index.waiting_changes import LEAF_WORDS
from instruments.samples.large_index import (
    BUCKETS,
    COUNT,
    PATIENCE_S,
    SPACING,
    a_large_index,
    check_reopened,
    commit,
    commit_if,
    found,
    image_of,
    reserve,
    slots,
)
from instruments.time.virtual_time import in_virtual_time

KEY_WORDS = 3


@in_virtual_time
async def test_one_read_of_a_leaf_serves_many_keys(tmp_path: Path) -> None:
    async with a_large_index(tmp_path) as (cache_set, there, holder):
        nodes, random = cache_set.index.nodes, Random(1)
        leaves, before = len(list(nodes.tree.node_keys())), nodes.io.nodes_read
        waiting = nodes.tree.leaves.waiting
        for _ in range(120):
            places = random.sample(range(COUNT), 10)
            there.update(zip(places, await commit(cache_set, holder, places), strict=True))
            assert waiting.keys == sum(changes.extents.key_count for changes in waiting.by_bound.values())
            assert waiting.memory_words <= waiting.limit_words + 10 * (KEY_WORDS + LEAF_WORDS), "one commit"
        assert waiting.by_bound
        assert nodes.io.nodes_read - before < 1200 // 4
        assert leaves > 14
        for place in random.sample(sorted(there), 40):
            assert await found(cache_set, place) == [there[place]]
        await cache_set.index.write_back.write_all()
        assert not nodes.tree.leaves.waiting.by_bound
        assert waiting.words == waiting.keys == 0
        assert nodes.tree.leaves.pins.oldest is None
        await cache_set.index.flush()
        await check_reopened(image_of(cache_set), tmp_path, there)


@in_virtual_time
async def test_what_waits_survives_a_power_cut(tmp_path: Path) -> None:
    async with a_large_index(tmp_path) as (cache_set, there, holder):
        random = Random(2)
        for _ in range(30):
            places = random.sample(range(COUNT), 10)
            there.update(zip(places, await commit(cache_set, holder, places), strict=True))
        await cache_set.index.flush()
        assert cache_set.index.nodes.tree.leaves.waiting.by_bound
        await check_reopened(image_of(cache_set), tmp_path, there)


@in_virtual_time
async def test_what_is_overwritten_counts_as_live_until_the_changes_are_merged(tmp_path: Path) -> None:
    async with a_large_index(tmp_path, dirty=True) as (cache_set, there, holder):
        table, waiting = cache_set.members[0].buckets.table, cache_set.index.nodes.tree.leaves.waiting
        before = int(table.dirty_sectors_array.sum())
        for _ in range(2):  # the second time what waits is overwritten, which is known at once
            for at in range(0, 600, 100):
                places = sorted(there)[at::600][:10]
                there.update(zip(places, await commit(cache_set, holder, places, dirty=True), strict=True))
        assert waiting.by_bound
        assert before < int(table.dirty_sectors_array.sum()) <= before + 60 * 4
        await cache_set.index.write_back.write_all()
        assert int(table.dirty_sectors_array.sum()) == before
        await cache_set.index.flush()
        await check_reopened(image_of(cache_set), tmp_path, there)


@in_virtual_time
async def test_what_a_merge_removes_counts_as_removed_by_the_newest_entry(tmp_path: Path) -> None:
    """A bucket that a merge empties may have lost other keys to newer entries, which are not durable yet."""
    async with a_large_index(tmp_path) as (cache_set, there, holder):
        index, buckets = cache_set.index, cache_set.members[0].buckets
        waiting = index.nodes.tree.leaves.waiting
        for at in range(0, 800, 100):  # neighbours, whose data is in the same buckets
            places = sorted(there)[at : at + 10]
            there.update(zip(places, await commit(cache_set, holder, places), strict=True))
        await index.flush()
        assert len(waiting.by_bound) > 1
        await commit(cache_set, holder, [1])
        newest = index.changes.newest_seq
        assert newest > cache_set.journal.durable_seq
        known = set(buckets.emptied)
        for bound in list(waiting.bounds(None)):
            await index.nodes.leaf_at(*position_at(bound - 1))
        merged = {seq for bucket, seq in buckets.emptied.items() if bucket not in known}
        assert merged == {newest}
        await index.flush()
        assert not buckets.emptied


@in_virtual_time
async def test_buckets_full_of_what_was_overwritten_can_be_used_again(tmp_path: Path) -> None:
    """Overwriting all dirty data again and again needs the buckets that only a merge shows to be free."""
    async with a_large_index(tmp_path, dirty=True, moving_gc=True) as (cache_set, there, holder):
        random = Random(3)
        turnover = (BUCKETS * 32 // 4 - len(there)) // 10 + 60
        all_places = sorted(there)
        for _ in range(turnover):
            places = random.sample(all_places, 10)
            there.update(zip(places, await commit(cache_set, holder, places, dirty=True), strict=True))
        await cache_set.index.flush()
        await check_reopened(image_of(cache_set), tmp_path, there, were_moved=True)


@in_virtual_time
async def test_a_leaf_that_may_become_too_large_is_read(tmp_path: Path) -> None:
    async with a_large_index(tmp_path) as (cache_set, there, holder):
        waiting = cache_set.index.nodes.tree.leaves.waiting
        words = cache_set.index.nodes.tree.shape.node_words
        for at in range(0, 2400, 10):  # all to the same few leaves
            places = list(range(at, at + 10))
            there.update(zip(places, await commit(cache_set, holder, places), strict=True))
            for bound, changes in waiting.by_bound.items():
                assert waiting._fill[bound] + changes.word_count <= words
        assert not cache_set.index.nodes.tree.leaves.oversize
        await cache_set.index.flush()
        await check_reopened(image_of(cache_set), tmp_path, there)


@in_virtual_time
async def test_conditions_are_judged_by_what_is_in_the_leaf(tmp_path: Path) -> None:
    """A key that is only added has to know: its leaf is read."""
    async with a_large_index(tmp_path) as (cache_set, there, holder):
        (place,) = Random(4).sample(sorted(there), 1)
        for absent in (place, place + 1):
            keys = await reserve(cache_set, holder, [absent])
            outcome = await commit_if(cache_set, holder, keys, CommitConditions((), if_absent=True))
            assert outcome.committed == (absent not in there,)


@in_virtual_time
async def test_what_replaces_all_else_waits_with_deletions_of_it(tmp_path: Path) -> None:
    async with a_large_index(tmp_path) as (cache_set, there, holder):
        nodes, random, before = cache_set.index.nodes, Random(6), cache_set.index.nodes.io.nodes_read
        for number in range(60):
            places = random.sample(range(COUNT), 10)
            keys = await reserve(cache_set, holder, places, behind=random.choice((0, 4, 8)))
            outcome = await commit_if(cache_set, holder, keys, CommitConditions(slots(places)))
            assert outcome.versions == tuple(cache_set.index.changes.change_map.counters_of(keys)), (
                "as it is right after the change"
            )
            there.update(zip(places, keys, strict=True))
            if number % 10 == 9:  # of some nothing is left
                gone = random.sample(sorted(there), 5)
                await commit_if(cache_set, holder, [], CommitConditions(slots(gone)))
                for place in gone:
                    del there[place]
        assert nodes.tree.leaves.waiting.by_bound
        assert nodes.io.nodes_read - before < 600 // 4
        await cache_set.index.flush()
        image = image_of(cache_set)
        for place in random.sample(range(COUNT), 40):
            assert await found(cache_set, place) == ([there[place]] if place in there else [])
        await check_reopened(image, tmp_path, there)
        await cache_set.index.write_back.write_all()
        assert nodes.tree.leaves.pins.oldest is None
        assert cache_set.verify() == []


@in_virtual_time
async def test_a_deletion_of_nothing_writes_nothing(tmp_path: Path) -> None:
    async with a_large_index(tmp_path) as (cache_set, there, holder):
        nodes = cache_set.index.nodes
        await commit_if(cache_set, holder, [], CommitConditions(slots([1])))
        assert nodes.tree.leaves.waiting.keys == 1
        await cache_set.index.write_back.write_all()
        assert nodes.tree.leaves.pins.oldest is None
        assert nodes.io.blocks_appended == nodes.io.nodes_written == 0
        await cache_set.index.flush()
        await check_reopened(image_of(cache_set), tmp_path, there)


@pytest.mark.parametrize("volume_is_dropped", [False, True])
@in_virtual_time
async def test_what_waits_is_dropped_like_the_rest(tmp_path: Path, volume_is_dropped: bool) -> None:
    async with a_large_index(tmp_path) as (cache_set, there, holder):
        for number in range(20):
            places = Random(number).sample(range(COUNT), 10)
            there.update(zip(places, await commit(cache_set, holder, places), strict=True))
        assert cache_set.index.nodes.tree.leaves.waiting.by_bound
        if volume_is_dropped:
            await cache_set.volumes.delete(0, force=True)
        else:
            dropped, _ = await cache_set.index.invalidate(0, 0, COUNT * SPACING, PATIENCE_S)
            assert dropped == len(there) * 4
        await cache_set.index.flush()
        await check_reopened(image_of(cache_set), tmp_path, {})


@in_virtual_time
async def test_data_is_moved_though_a_leaf_is_more_than_the_memory(tmp_path: Path) -> None:
    """The leaf that is loaded for a move is over the limit; it must not be evicted and loaded for ever."""
    async with a_large_index(tmp_path, dirty=True, moving_gc=True, bound=4000) as (cache_set, there, _):
        for place in sorted(there)[:400]:
            if place % 16:  # of each bucket's eight keys one stays
                await cache_set.index.invalidate(0, place * SPACING, SPACING, PATIENCE_S)
        await cache_set.maintenance.collect_garbage()
        assert cache_set.tasks.garbage_collector.mover.moved_sectors > 0
