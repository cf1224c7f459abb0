# SPDX-License-Identifier: GPL-2.0-only
"""Keys of a living set against a model that knows every sector, through lives that end well or do not."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from unittest.mock import patch
from uuid import UUID

import pytest

from bcached.device.block_device import BlockDevice
from bcached.errors import (
    InvalidParameter,
    LimitExceeded,
    NoFreeBuckets,
    NoSuchVolume,
    NotReserved,
    VolumeInUse,
)
from bcached.format import bkey
from bcached.keys import OFFSET_MAX, Key, Pointer
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.lookups import LookupRequest, LookupResult
from bcached.runtime.lifetime import running
from bcached.runtime.tasks.stale_keys import STALE_GENS_MAX
from bcached.state.buckets.bucket_table import State
from bcached.state.index.node_paths import interiors
from bcached.state.sectors.reservations import Holder
from bcached.units import SECTOR_BYTES
from instruments.samples.living_set import extent, fresh_members, reopened, set_options, take_buckets
from instruments.time.virtual_time import in_virtual_time

SECTORS = 4000
Place = tuple[int, int]  # inode, sector


def data_of(token: int, key: Key) -> bytes:
    """What a client writes: each sector says when it was written, and where it belongs."""
    sectors = (b"%d %d %d\n" % (token, key.inode, key.offset + step) for step in range(key.sectors))
    return b"".join(sector.ljust(SECTOR_BYTES, b".") for sector in sectors)


@dataclass
class Story:
    """Clients' doings on a set, and the model of what is there: whether dirty, and when it was written."""

    cache_set: CacheSet
    random: Random
    model: dict[Place, tuple[bool, int]] = field(default_factory=dict)
    newest: int = 0
    tokens: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.holder: Holder = self.cache_set.allocations.new_holder("test")

    async def write(
        self, inode: int, offset: int, sectors: int, *, dirty: bool, replicas: int = 1
    ) -> list[Key]:
        """Allocate, write and commit, lazily."""
        wanted = extent(sectors, inode=inode, offset=offset, replicas=replicas, whole=True)
        (keys,) = await self.cache_set.allocations.allocate(self.holder, [wanted], 10.0)
        committed = [Key(k.inode, k.offset, k.sectors, dirty, k.pointers) for k in keys]
        token = next(self.tokens)
        for key in committed:
            for pointer in key.pointers:
                device = self.cache_set.members[pointer.device].block_device
                await device.write(pointer.sector * SECTOR_BYTES, data_of(token, key))
        self.newest = await self.cache_set.index.commit(self.holder, committed, 10.0)
        for sector in range(offset, offset + sectors):
            self.model[inode, sector] = dirty, token
        return committed

    async def drop(self, inode: int, offset: int, sectors: int) -> None:
        _, self.newest = await self.cache_set.index.invalidate(inode, offset, sectors, 10.0)
        for sector in range(offset, offset + sectors):
            self.model.pop((inode, sector), None)

    async def clean(self, inode: int, offset: int, sectors: int) -> None:
        """Make clean what a look-up finds; what moved meanwhile stays dirty."""
        keys = (await self.cache_set.lookups.lookup(LookupRequest(inode, offset, sectors))).keys
        cleaned, self.newest = await self.cache_set.index.mark_clean(keys, 10.0)
        for key, is_clean in zip(keys, cleaned, strict=True):
            for sector in range(key.offset, key.end) if is_clean else ():
                self.model[inode, sector] = False, self.model[inode, sector][1]

    async def check(self) -> None:
        """All dirty data is there, and whatever is there is what was put there last."""
        found: dict[Place, tuple[bool, bytes]] = {}
        for inode in sorted(self.cache_set.sectors.inodes):
            start: int | None = 0
            while start is not None:
                request = LookupRequest(inode, start, SECTORS * 2 - start, limit=50)
                result = await self.cache_set.lookups.lookup(request)
                start = result.next
                for key in result.keys:
                    for pointer in key.pointers:
                        device = self.cache_set.members[pointer.device].block_device
                        raw = bytes(
                            await device.read(pointer.sector * SECTOR_BYTES, key.sectors * SECTOR_BYTES)
                        )
                        for step in range(key.sectors):
                            data = raw[step * SECTOR_BYTES : (step + 1) * SECTOR_BYTES]
                            place = inode, key.offset + step
                            assert found.setdefault(place, (key.dirty, data)) == (key.dirty, data)
        for (inode, sector), (dirty, data) in found.items():
            assert (inode, sector) in self.model, f"{inode}:{sector} came back"
            was_dirty, token = self.model[inode, sector]
            assert data == data_of(token, Key(inode, sector, 1, False, ()))
            assert dirty == was_dirty
        lost = [place for place, (dirty, _) in self.model.items() if dirty and place not in found]
        assert not lost, f"dirty sectors are lost: {lost[:5]}"


@asynccontextmanager
async def story_on(
    folder: Path, devices: Sequence[BlockDevice], seed: int, **options: object
) -> AsyncIterator[Story]:
    async with running(devices, set_options(folder, **options)) as cache_set:
        if not cache_set.volumes.all():
            await cache_set.volumes.create("plain")
            await cache_set.volumes.create("flash", SECTORS * 2)
        yield Story(cache_set, Random(seed))


@in_virtual_time
async def test_what_was_committed_is_found_until_it_is_dropped(tmp_path: Path) -> None:
    async with story_on(tmp_path, await fresh_members([1024]), 1) as story:
        lookups, index = story.cache_set.lookups, story.cache_set.index
        (key,) = await story.write(0, 8, 16, dirty=True)
        assert (await lookups.lookup(LookupRequest(0, 0, 100))).keys == [key]
        (pointer,) = key.pointers
        part = Key(0, 10, 2, True, (Pointer(0, pointer.sector + 2, pointer.gen),))
        assert lookups.try_lookup(LookupRequest(0, 10, 2)) == LookupResult([part], None)
        await story.write(0, 12, 4, dirty=False)
        await story.check()
        await story.drop(0, 0, 14)
        await story.check()
        await index.flush()
        assert story.cache_set.journal.durable_seq >= story.newest
        assert story.cache_set.verify() == []


@in_virtual_time
async def test_keys_outlive_an_orderly_end_and_nothing_is_left_to_replay(tmp_path: Path) -> None:
    devices = await fresh_members([1024])
    async with story_on(tmp_path, devices, 1) as story:
        for number in range(200):
            await story.write(number % 2, number * 8, 8, dirty=True)
        model = story.model
    async with story_on(tmp_path, reopened(devices), 2) as story:
        story.model = model
        assert story.cache_set.index.nodes.tree.leaves.pins.oldest is None
        await story.check()
        assert story.cache_set.verify() == []


async def anything(story: Story) -> None:
    """One thing that clients do."""
    random, inode = story.random, story.random.randrange(2)
    offset, sectors = random.randrange(SECTORS), random.randint(1, 60)
    what = random.randrange(10)
    if what < 6:
        await story.write(inode, offset, sectors, dirty=inode == 1 or random.random() < 0.3)
    elif what < 8:
        await story.drop(inode, offset, random.randint(1, 300))
    else:
        await story.clean(0, offset, sectors)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("members", [[1024], [700, 900]], ids=["one", "two"])
@in_virtual_time
async def test_a_crowded_set_keeps_its_promises_through_many_lives(
    tmp_path: Path, seed: int, members: list[int]
) -> None:
    devices = await fresh_members(members, 16 << 10)
    model: dict[Place, tuple[bool, int]] = {}
    tokens = count(1)
    for life in range(4):
        async with story_on(tmp_path, reopened(devices) if life else devices, seed * 10 + life) as story:
            story.model, story.tokens = model, tokens
            await story.check()
            for number in range(250):
                await anything(story)
                if number % 60 == 0:
                    await story.cache_set.maintenance.collect_garbage()
            await story.check()
            assert story.cache_set.verify() == []


@in_virtual_time
async def test_a_freed_node_serves_those_who_wait_for_the_index_to_grow(tmp_path: Path) -> None:
    """Although the reserves are full, and no bucket comes to them."""
    async with story_on(tmp_path, await fresh_members([1024], 16 << 10), 1) as story:
        index, tree = story.cache_set.index, story.cache_set.index.nodes.tree
        buckets = index.changes.buckets
        replaced = buckets.take(1, 0)
        assert replaced is not None
        with patch.object(tree.leaves, "oversize", {1, 2, 3, 4, 5}):
            waiting = asyncio.ensure_future(buckets.wait_to_grow(tree, 60.0))
            await asyncio.sleep(5)
            assert not waiting.done()
        buckets.free(replaced[0])  # by the change of the tree after which none is oversize
        await asyncio.sleep(5)
        assert waiting.done()
        await waiting


@in_virtual_time
async def test_a_written_leaf_serves_those_who_wait_for_the_index_to_grow(tmp_path: Path) -> None:
    """A leaf that was oversize may have shrunk, and no node is freed."""
    async with story_on(tmp_path, await fresh_members([1024], 16 << 10), 1) as story:
        index, tree = story.cache_set.index, story.cache_set.index.nodes.tree
        await story.write(0, 100, 8, dirty=False)
        await asyncio.sleep(5)
        with patch.object(tree.leaves, "oversize", {1, 2, 3, 4, 5}):
            waiting = asyncio.ensure_future(index.changes.wait_to_grow(60.0))
            await asyncio.sleep(5)
            assert not waiting.done()
        await asyncio.sleep(5)
        assert not waiting.done(), "what has changed is no fact that anything waits for"
        in_use = set(index.changes.buckets.bucket_ids)
        (leaf,) = tree.leaves.order
        tree.leaves.wanted[leaf] = None
        index.changes.buckets._shared.leaves_wanted()
        await asyncio.sleep(5)
        assert waiting.done()
        await waiting
        assert index.changes.buckets.bucket_ids == in_use


@in_virtual_time
async def test_what_cannot_be_committed_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with story_on(tmp_path, await fresh_members([1024]), 1) as story:
        index, holder = story.cache_set.index, story.holder
        ((key,),) = await story.cache_set.allocations.allocate(holder, [extent(8)], 1.0)
        stranger = story.cache_set.allocations.new_holder("stranger")
        with pytest.raises(NotReserved):
            index.try_commit(stranger, [key])
        with pytest.raises(NoSuchVolume):
            index.try_commit(holder, [Key(7, 0, 8, True, key.pointers)])
        with pytest.raises(InvalidParameter):
            index.try_commit(holder, [Key(1, 0, 8, False, key.pointers)])
        with pytest.raises(InvalidParameter, match="an end of at most 4611686018427387904, found"):
            index.try_commit(holder, [Key(0, OFFSET_MAX - 4, 8, False, key.pointers)])
        with pytest.raises(LimitExceeded):
            index.try_commit(holder, [key] * 100_000)
        assert index.try_commit(holder, [key]) is not None
        with pytest.raises(NotReserved):
            index.try_commit(holder, [key])
        assert story.cache_set.verify() == []


@in_virtual_time
async def test_a_volume_goes_with_its_keys(tmp_path: Path) -> None:
    devices = await fresh_members([1024])
    async with story_on(tmp_path, devices, 1) as story:
        for number in range(100):
            await story.write(0, number * 16, 8, dirty=True)
        with pytest.raises(VolumeInUse):
            await story.cache_set.volumes.delete(0)
        await story.write(0, OFFSET_MAX - 8, 8, dirty=False)
        await story.cache_set.volumes.delete(0, force=True)
        with pytest.raises(NoSuchVolume):
            await story.cache_set.lookups.lookup(LookupRequest(0, 0, 8))
        assert await story.cache_set.volumes.create("again") == 0
        assert (await story.cache_set.lookups.lookup(LookupRequest(0, 0, OFFSET_MAX))).keys == []
        assert story.cache_set.verify() == []


@in_virtual_time
async def test_a_volume_s_keys_go_that_lie_beyond_what_clients_may_name(tmp_path: Path) -> None:
    async with story_on(tmp_path, await fresh_members([1024]), 1) as story:
        index = story.cache_set.index
        for offset in (OFFSET_MAX, bkey.END_MAX - 8):
            ((key,),) = await story.cache_set.allocations.allocate(story.holder, [extent(8)], 1.0)
            index.accept(story.holder, [Key(0, offset, 8, True, key.pointers)])
        assert await index.inode_keys.dirty_sectors(0) == 16
        await story.cache_set.volumes.delete(0, force=True)
        assert await story.cache_set.volumes.create("again") == 0
        assert (await story.cache_set.lookups.lookup(LookupRequest(0, 0, bkey.END_MAX))).keys == []


@in_virtual_time
async def test_what_may_make_the_tree_grow_waits_for_buckets_and_fails_at_its_deadline(
    tmp_path: Path,
) -> None:
    async with story_on(tmp_path, await fresh_members([1024]), 1, verify=False) as story:
        index, (member,) = story.cache_set.index, story.cache_set.members
        await story.write(0, 100, 8, dirty=True)
        ((key,),) = await story.cache_set.allocations.allocate(story.holder, [extent(8)], 1.0)
        await take_buckets(story.cache_set, story.cache_set.allocations.new_holder("greedy"), patience_s=0.1)
        taken = list(iter(lambda: member.buckets.take_metadata(State.UUID), None))
        assert index.try_commit(story.holder, [key]) is None
        with pytest.raises(NoFreeBuckets) as refused:
            await index.commit(story.holder, [key], 0.5)
        assert refused.value.fields == {"reserve": "btree", "waited_ms": 500}
        with pytest.raises(NoFreeBuckets):
            await index.invalidate(0, 102, 2, 0.5)
        assert (await index.invalidate(0, 102, 100, 0.5))[0] == 6, "what goes needs no buckets"
        committing = asyncio.ensure_future(index.commit(story.holder, [key], 10))
        await asyncio.sleep(0.1)
        assert not committing.done()
        member.buckets.free_metadata(taken)
        story.cache_set.shared.buckets_moved()
        await index.durable(await committing)
        assert story.cache_set.verify() == []


@in_virtual_time
async def test_a_collection_writes_leaves_without_the_keys_that_became_stale(tmp_path: Path) -> None:
    devices = await fresh_members([700], 4 << 10)
    async with story_on(tmp_path, devices, 1, moving_gc=False) as story:
        cache_set, tree = story.cache_set, story.cache_set.index.nodes.tree
        for offset in range(0, 8 * 600, 16):
            await story.write(0, offset, 8, dirty=False)
        keys = sum(len(leaf.live) for leaf in tree.leaves)
        holder = cache_set.allocations.new_holder("greedy")
        assert await take_buckets(cache_set, holder, 500), "clean data makes way for it"
        await cache_set.maintenance.collect_garbage()
        assert cache_set.tasks.garbage_collector.stale_keys.leaves_rewritten
        assert sum(len(leaf.live) for leaf in tree.leaves) < keys
        assert story.cache_set.verify() == []
        await story.check()


@in_virtual_time
async def test_a_collection_writes_nodes_without_the_buckets_they_freed_long_ago(tmp_path: Path) -> None:
    devices = await fresh_members([700], 4 << 10)
    async with story_on(tmp_path, devices, 1, verify=False) as story:
        cache_set, tree = story.cache_set, story.cache_set.index.nodes.tree
        for offset in range(0, 8 * 560, 16):
            await story.write(0, offset, 8, dirty=False)
        await cache_set.maintenance.collect_garbage()
        (root,) = interiors(tree.root)
        table = cache_set.members[0].buckets.table
        freed = [key.pointers[0].sector // 8 for key in root.replaced]
        bucket = next(bucket for bucket in freed if table.states[bucket] == State.FREE)
        for _ in range(STALE_GENS_MAX + 1):
            table.bump(bucket)
        await cache_set.maintenance.collect_garbage()
        await cache_set.maintenance.collect_garbage()
        (root,) = interiors(tree.root)
        assert bucket not in [key.pointers[0].sector // 8 for key in root.replaced]
        assert table.last_gc_array[bucket] == table.gens[bucket], "nothing keeps it back"
        assert story.cache_set.verify() == []
        await story.check()


@in_virtual_time
async def test_a_key_beyond_the_end_of_a_flash_only_volume_is_refused(tmp_path: Path) -> None:
    async with story_on(tmp_path, await fresh_members([1024]), 1) as story:
        end = SECTORS * 2
        with pytest.raises(InvalidParameter, match=f"ends at sector {end}, found a key up to {end + 8}"):
            await story.write(1, end, 8, dirty=True)
        await story.write(1, end - 8, 8, dirty=True)
        await story.write(0, end, 8, dirty=True)


@in_virtual_time
async def test_an_invalidation_ends_with_its_volume_though_another_takes_its_place(tmp_path: Path) -> None:
    async with story_on(tmp_path, await fresh_members([1024]), 1) as story:
        cache_set = story.cache_set
        for offset in range(0, 16 * 600, 16):
            await story.write(0, offset, 8, dirty=False)
        dropping = asyncio.ensure_future(cache_set.index.invalidate(0, 0, 16 * 600, 10.0))
        await asyncio.sleep(0)  # it is after its first step
        cache_set.sectors.inodes[0] = UUID(int=1)
        with pytest.raises(NoSuchVolume):
            await dropping
        left = (await cache_set.lookups.lookup(LookupRequest(0, 0, 16 * 600))).keys
        assert 0 < len(left) < 600


@in_virtual_time
async def test_a_set_that_is_not_synchronous_keeps_clean_keys_for_as_long_as_it_lives(tmp_path: Path) -> None:
    devices = await fresh_members([1024])
    options = set_options(tmp_path, synchronous=False)
    async with running(devices, options) as cache_set:
        inode = await cache_set.volumes.create("scratch")
        holder, index, lookups = (
            cache_set.allocations.new_holder("client"),
            cache_set.index,
            cache_set.lookups,
        )
        ((key,),) = await cache_set.allocations.allocate(holder, [extent(8, inode=inode)], 1.0)
        with pytest.raises(InvalidParameter, match="not synchronous"):
            index.try_commit(holder, [Key(key.inode, key.offset, key.sectors, True, key.pointers)])
        assert index.try_commit(holder, [key]) is not None
        assert (await lookups.lookup(LookupRequest(inode, 0, 100))).keys == [key]
        assert cache_set.verify() == []
    async with running(reopened(devices), options) as cache_set:
        assert cache_set.volumes.all() == []


@in_virtual_time
async def test_a_key_of_two_copies_is_good_while_one_is(tmp_path: Path) -> None:
    async with story_on(tmp_path, await fresh_members([700, 700]), 1, verify=False) as story:
        (key,) = await story.write(0, 0, 8, dirty=False, replicas=2)
        assert {pointer.device for pointer in key.pointers} == {0, 1}
        lookups = story.cache_set.lookups
        assert (await lookups.lookup(LookupRequest(0, 0, 8))).keys == [key]
        tables = [member.buckets.table for member in story.cache_set.members]
        tables[key.pointers[0].device].bump(key.pointers[0].sector // 128)
        assert [found.pointers for found in (await lookups.lookup(LookupRequest(0, 0, 8))).keys] == [
            key.pointers[1:]
        ]
        tables[key.pointers[1].device].bump(key.pointers[1].sector // 128)
        assert (await lookups.lookup(LookupRequest(0, 0, 8))).keys == []
