# SPDX-License-Identifier: GPL-2.0-only
"""Owners of volumes outlive the daemon, and hold for requests that wait when they are set."""

import asyncio
from pathlib import Path

import pytest

from bcached.errors import NoSuchVolume, PermissionDenied
from bcached.format.volume_owner import EntryOwner
from bcached.runtime.lifetime import running
from bcached.state.sectors.volume_rights import VolumeRights
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.living_set import extent, fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time

OWNER = EntryOwner(1000, others_read=False)
TEAM = EntryOwner(50, is_group=True)


@in_virtual_time
async def test_an_owner_is_there_in_the_next_life_until_it_is_cleared(tmp_path: Path) -> None:
    members = await fresh_members([513], 4 << 10)
    async with running(members, set_options(tmp_path)) as cache_set:
        volumes = cache_set.volumes
        await volumes.create("made with one", owner=OWNER)
        await volumes.create("given later")
        await volumes.create("none")
        await volumes.set_owner(1, TEAM)
        await volumes.set_owner(1, TEAM)  # nothing to do
        rights = VolumeRights(1000, is_admin=False)
        assert await volumes.open("made", rights=rights, owner=OWNER) == (3, True)
        await volumes.set_owner(3, None)
        images = [device.image() for device in members]  # as a crash would leave them
    again = [MemoryDevice.holding(image) for image in images]
    async with running(again, set_options(tmp_path)) as cache_set:
        volumes = cache_set.volumes
        assert volumes.owners == {0: OWNER, 1: TEAM}
        assert [volume.maker for volume in volumes.all()] == [None, None, None, 1000]
        await volumes.set_owner(0, None)
        await volumes.delete(1)
        assert await volumes.create("in its slot") == 1
        assert volumes.owners == {}
        with pytest.raises(NoSuchVolume):
            await volumes.set_owner(7, OWNER)


@in_virtual_time
async def test_a_long_invalidation_ends_where_the_volume_gets_another_owner(tmp_path: Path) -> None:
    members = await fresh_members([1024], 4 << 10)
    async with running(members, set_options(tmp_path, verify=False)) as cache_set:
        await cache_set.volumes.create("given away")
        rights = VolumeRights(1000, is_admin=False)
        holder = cache_set.allocations.new_holder("client", rights=rights)
        wanted = [extent(1, offset=8 * number) for number in range(2000)]
        found = await cache_set.allocations.allocate(holder, wanted, 10.0)
        keys = [key for keys in found for key in keys]
        for first in range(0, len(keys), 100):
            await cache_set.index.commit(holder, keys[first : first + 100], 10.0)
        use, end = cache_set.index.changes.live.use, keys[-1].end
        dropping = asyncio.ensure_future(cache_set.index.invalidate(0, 0, end, 10.0, rights))
        while use.live[0] == len(keys):
            await asyncio.sleep(0)
        rights.update({0: EntryOwner(1)})
        with pytest.raises(PermissionDenied):
            await dropping
        assert 0 < use.live[0] < len(keys)
        with pytest.raises(PermissionDenied):
            await cache_set.index.mark_clean(keys[-1:], 10.0, rights)
