# SPDX-License-Identifier: GPL-2.0-only
"""A change of keys: when it can be made, and that all of it is made at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bcached.errors import DeviceError, DeviceFailed, NoFreeBuckets
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.index_writer import IndexWriter, as_device_failed
from bcached.runtime.lifetime import running
from bcached.state.index.keys.key_ranges import spans_of, words_of
from instruments.samples.living_set import extent, fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time


@asynccontextmanager
async def a_set(folder: Path) -> AsyncIterator[tuple[CacheSet, IndexWriter, Key]]:
    """A set, its writer, and a reserved key."""
    async with running(await fresh_members([1024]), set_options(folder)) as cache_set:
        await cache_set.volumes.create("plain")
        holder = cache_set.allocations.new_holder("client")
        ((key,),) = await cache_set.allocations.allocate(holder, [extent(8)], 10.0)
        yield cache_set, cache_set.index.changes, key


@in_virtual_time
async def test_journal_tree_and_counts_change_at_once(tmp_path: Path) -> None:
    async with a_set(tmp_path) as (cache_set, writer, key):
        table = cache_set.members[0].buckets.table
        bucket = cache_set.members[0].buckets.geometry.bucket_of(key.pointers[0].sector)
        before = table.sectors[bucket]
        seq = writer.change([key])
        assert writer.newest_seq == seq == cache_set.journal.accepted_seq
        assert writer.nodes.tree.lookup(0, 0, 8) == [key]
        assert writer.nodes.tree.leaves.pins.oldest == seq
        assert table.sectors[bucket] == before + key.sectors
        writer.change([Key(0, 0, 8, False, ())])
        assert table.sectors[bucket] == before


@in_virtual_time
async def test_a_change_waits_while_the_index_is_over_its_memory_limit(tmp_path: Path) -> None:
    async with a_set(tmp_path) as (_, writer, key):
        spans, words = spans_of([key]), words_of([key])
        assert writer.is_ready(spans, words)
        writer.change([key])
        limit, writer.nodes.limit_bytes = writer.nodes.limit_bytes, 0
        assert not writer.is_ready(spans, words)
        with pytest.raises(NoFreeBuckets):
            await writer.make_ready(spans, words, 0)
        writer.nodes.limit_bytes = limit
        await writer.make_ready(spans, words, 0)


@in_virtual_time
async def test_more_words_than_the_journal_has_space_for_are_not_ready(tmp_path: Path) -> None:
    async with a_set(tmp_path) as (_, writer, key):
        assert not writer.is_ready(spans_of([key]), 1 << 40)


@in_virtual_time
async def test_an_error_of_a_device_is_reported_with_the_first_cause(tmp_path: Path) -> None:
    async with a_set(tmp_path) as (cache_set, _, _):
        with pytest.raises(DeviceFailed, match="broken"), as_device_failed(cache_set.shared):
            raise DeviceError("d0", "broken")
