# SPDX-License-Identifier: GPL-2.0-only
"""Sets that are full of data that exists nowhere else: whatever was asked of them, they can be emptied."""

from contextlib import suppress
from pathlib import Path

import pytest

from bcached.errors import NoFreeBuckets
from bcached.keys import Key, Pointer
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.lookups import LookupRequest, LookupResult
from bcached.runtime.lifetime import running
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.living_set import extent, fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time


async def fill_with_dirty_data(cache_set: CacheSet) -> list[Key]:
    """Eight sectors at a time, none beside another, until there is no room."""
    await cache_set.volumes.create("plain")
    holder, keys = cache_set.allocations.new_holder("client"), list[Key]()
    with suppress(NoFreeBuckets):
        while True:
            ((key,),) = await cache_set.allocations.allocate(holder, [extent(8, offset=16 * len(keys))], 5.0)
            dirty = Key(key.inode, key.offset, key.sectors, True, key.pointers)
            await cache_set.index.commit(holder, [dirty], 5.0)
            keys.append(dirty)
    assert not cache_set.members[0].buckets.table.reclaimable_count
    return keys


def sector_of(key: Key, number: int) -> Key:
    (pointer,) = key.pointers
    piece = (Pointer(pointer.device, pointer.sector + number, pointer.gen),)
    return Key(key.inode, key.offset + number, 1, True, piece)


async def clean_sector_by_sector(cache_set: CacheSet, keys: list[Key]) -> int:
    """Every other sector, so that each key becomes many; how many, before the index could not grow."""
    cleaned = 0
    for number in (1, 3, 5):
        for key in keys:
            await cache_set.index.mark_clean([sector_of(key, number)], 5.0)
            cleaned += 1
    return cleaned


@in_virtual_time
async def test_a_set_full_of_dirty_data_is_not_cleaned_in_pieces_that_its_index_cannot_hold(
    tmp_path: Path,
) -> None:
    (device,) = devices = await fresh_members([600], 16 << 10)
    options = set_options(tmp_path, verify=False, moving_gc=False)  # which would make room for the index
    async with running(devices, options) as cache_set:
        keys = await fill_with_dirty_data(cache_set)
        with pytest.raises(NoFreeBuckets) as refused:
            await clean_sector_by_sector(cache_set, keys)
        assert refused.value.fields["reserve"] == "btree"
        assert not cache_set.shared.steps.waiting_for_nodes
        left = await cache_set.lookups.lookup(LookupRequest(0, keys[-1].offset, 8))
        assert (await cache_set.index.mark_clean(left.keys, 5.0))[0] == [True], "a key that stays one"
        await cache_set.index.flush()
        image = device.image()
        assert (await cache_set.index.invalidate(0, 0, 1 << 30, 5.0))[0] == 8 * len(keys)
        assert cache_set.verify() == []
    async with running([MemoryDevice.holding(image)], set_options(tmp_path, verify=False)) as cache_set:
        assert (await cache_set.index.invalidate(0, 0, 1 << 30, 5.0))[0] == 8 * len(keys)
        assert await cache_set.lookups.lookup(LookupRequest(0, 0, 1 << 30)) == LookupResult([], None)
        assert cache_set.verify() == []
