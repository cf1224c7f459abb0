# SPDX-License-Identifier: GPL-2.0-only
"""Nodes that were emptied are merged, and the tree gets lower again."""

from pathlib import Path

from bcached.keys import Key
from bcached.runtime.lifetime import running
from instruments.samples.living_set import extent, fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time

KEYS = 3000


@in_virtual_time
async def test_a_tree_whose_keys_went_is_one_leaf_again(tmp_path: Path) -> None:
    devices = await fresh_members([2048], 4 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        await cache_set.volumes.create("volume")
        holder, index = cache_set.allocations.new_holder("client"), cache_set.index
        for start in range(0, KEYS, 100):
            wanted = [extent(1, offset=4 * number) for number in range(start, start + 100)]
            found = await cache_set.allocations.allocate(holder, wanted, 5.0)
            keys = [Key(key.inode, key.offset, 1, False, key.pointers) for (key,) in found]
            await index.commit(holder, keys, 5.0)
        await index.write_out()
        before = cache_set.statistics().index
        assert before.levels > 1
        assert before.leaves > 3
        await index.invalidate(0, 0, 4 * KEYS, 5.0)
        await index.write_out()
        await cache_set.maintenance.collect_garbage()
        after = cache_set.statistics()
        assert after.index.leaves < before.leaves
        assert after.index.levels < before.levels
        assert after.gc_found["nodes_saved"] > 0
        assert cache_set.verify() == []
