# SPDX-License-Identifier: GPL-2.0-only
"""What the index says of one inode."""

from pathlib import Path

from bcached.keys import Key
from bcached.runtime.lifetime import running
from instruments.samples.living_set import extent, fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time


@in_virtual_time
async def test_an_inode_has_keys_that_are_dirty_live_or_only_there(tmp_path: Path) -> None:
    async with running(await fresh_members([1024]), set_options(tmp_path)) as cache_set:
        await cache_set.volumes.create("plain")
        holder, index = cache_set.allocations.new_holder("client"), cache_set.index
        clean, dirty = await cache_set.allocations.allocate(holder, [extent(8), extent(8, offset=16)], 10.0)
        await index.commit(holder, clean, 10.0)
        assert await index.inode_keys.dirty_sectors(0) == 0
        assert await index.inode_keys.names_data(0)
        await index.commit(holder, [Key(k.inode, k.offset, k.sectors, True, k.pointers) for k in dirty], 10.0)
        assert await index.inode_keys.dirty_sectors(0) == 8
        assert not await index.inode_keys.has_any(1)
        assert not await index.inode_keys.names_data(1)
        await index.invalidate(0, 0, 100, 10.0)
        assert not await index.inode_keys.has_any(0)
        assert not await index.inode_keys.names_data(0)


@in_virtual_time
async def test_a_stale_clean_key_is_there_but_names_no_data(tmp_path: Path) -> None:
    async with running(await fresh_members([1024]), set_options(tmp_path, verify=False)) as cache_set:
        await cache_set.volumes.create("plain")
        holder, index = cache_set.allocations.new_holder("client"), cache_set.index
        (keys,) = await cache_set.allocations.allocate(holder, [extent(8)], 10.0)
        await index.commit(holder, keys, 10.0)
        buckets = cache_set.members[0].buckets
        gens, bucket = buckets.table.gens_array, buckets.geometry.bucket_of(keys[0].pointers[0].sector)
        gens[bucket] += 1
        assert await index.inode_keys.has_any(0)
        assert not await index.inode_keys.names_data(0)
        gens[bucket] -= 1
