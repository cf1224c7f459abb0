# SPDX-License-Identifier: GPL-2.0-only
"""Dirty data that is gone stands nowhere on the devices by the time its bucket's gen goes up.

The kernel complains of every dirty key that is stale, though a later one lies over it.
"""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.lookups import LookupRequest
from bcached.runtime.lifetime import running
from bcached.state.sectors.reservations import Holder
from bcached.store.check.checker import check_set
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.living_set import extent, fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time

SECTORS = 3000


async def stale_dirty_keys(devices: Sequence[MemoryDevice]) -> list[Key]:
    """Those that would be found after a kill at this moment, in leaves or in journal entries."""
    found = await check_set([MemoryDevice.holding(device.image()) for device in devices])
    assert found.tree is not None
    return [
        key
        for key in (*found.superseded, *found.tree.superseded)
        if key.dirty and any(found.staleness(pointer) for pointer in key.pointers)
    ]


async def change(cache_set: CacheSet, holder: Holder, random: Random) -> None:
    """One change of what dirty data there is."""
    offset, sectors = random.randrange(SECTORS), random.randint(1, 40)
    what = random.randrange(10)
    if what < 7:
        wanted = extent(sectors, offset=offset, whole=True)
        (keys,) = await cache_set.allocations.allocate(holder, [wanted], 20.0)
        dirty = random.random() < 0.8
        commit = [Key(key.inode, key.offset, key.sectors, dirty, key.pointers) for key in keys]
        await cache_set.index.commit(holder, commit, 20.0)
    elif what < 9:
        await cache_set.index.invalidate(0, offset, 4 * sectors, 20.0)
    else:
        await cache_set.index.mark_clean(
            (await cache_set.lookups.lookup(LookupRequest(0, offset, sectors))).keys, 20.0
        )


@pytest.mark.parametrize("seed", range(2))
@in_virtual_time
async def test_no_dirty_key_is_stale_whenever_the_daemon_is_killed(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    devices = await fresh_members([600], 8 << 10)
    looked_at = prio_writes = 0
    for _ in range(3):
        async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
            if not cache_set.volumes.all():
                await cache_set.volumes.create("plain")
            holder = cache_set.allocations.new_holder("test")
            for number in range(400):
                await change(cache_set, holder, random)
                if number % 10 == 0:
                    assert await stale_dirty_keys(devices) == []
                    looked_at += 1
            prio_writes += cache_set.statistics().members[0].prio_writes
            assert cache_set.verify() == []
            devices, killed = [MemoryDevice.holding(device.image()) for device in devices], devices
        assert await stale_dirty_keys(killed) == []
    assert looked_at == 120
    assert prio_writes > 30
