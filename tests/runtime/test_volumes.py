# SPDX-License-Identifier: GPL-2.0-only
"""Volumes and superblocks change durably, one at a time, to the end, whatever becomes of who asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from bcached.errors import AmbiguousLabel, InvalidParameter, LimitExceeded, NoFreeBuckets, NoSuchVolume
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.lifetime import running
from bcached.set_state import Replacement
from bcached.state.buckets.bucket_table import State
from instruments.devices.latent_device import LatentDevice
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.living_set import fresh_members, reopened, set_options, take_buckets
from instruments.time.virtual_time import in_virtual_time


@asynccontextmanager
async def a_set(folder: Path, *, verify: bool = True) -> AsyncIterator[tuple[CacheSet, list[MemoryDevice]]]:
    members = await fresh_members([513, 600], 4 << 10)
    slow = [LatentDevice(member, Random(1), 0.01) for member in members]
    async with running(slow, set_options(folder, verify=verify)) as cache_set:
        yield cache_set, members
        assert cache_set.verify() == []


def labels(cache_set: CacheSet) -> dict[int, str]:
    return {volume.inode: volume.label for volume in cache_set.volumes.all()}


@in_virtual_time
async def test_what_is_answered_is_found_in_the_next_life(tmp_path: Path) -> None:
    uuid = uuid4()
    async with a_set(tmp_path) as (cache_set, members):
        assert await cache_set.volumes.create("cached", uuid=uuid) == 0
        assert await cache_set.volumes.create("flash", 1 << 20) == 1
        assert await cache_set.volumes.create("third") == 2
        await cache_set.volumes.delete(0)
        assert await cache_set.volumes.create("in its slot") == 0
        volumes = cache_set.volumes.all()
        images = [device.image() for device in members]  # as a crash would leave them
    devices = [MemoryDevice.holding(image) for image in images]
    async with running(devices, set_options(tmp_path)) as cache_set:
        assert cache_set.volumes.all() == volumes
        assert [(one.label, one.flash_only, one.sectors) for one in volumes] == [
            ("in its slot", False, 0),
            ("flash", True, 1 << 20),
            ("third", False, 0),
        ]


@in_virtual_time
async def test_the_inode_of_a_deleted_volume_that_clients_have_opened_is_taken_last(tmp_path: Path) -> None:
    async with a_set(tmp_path, verify=False) as (cache_set, _):
        slots = len(cache_set.volumes._table.entries)
        assert [await cache_set.volumes.open(f"{n}") for n in range(4)] == [(n, True) for n in range(4)]
        for inode in (2, 0):
            await cache_set.volumes.delete(inode)
        taken = [await cache_set.volumes.create(f"later {n}") for n in range(slots - 2)]
        assert taken == [*range(4, slots), 2, 0]
        with pytest.raises(LimitExceeded):
            await cache_set.volumes.create("one too many")


@in_virtual_time
async def test_of_many_that_open_a_label_one_creates_it_and_all_get_it_durable(tmp_path: Path) -> None:
    async with a_set(tmp_path) as (cache_set, members):
        opened = await asyncio.gather(*(cache_set.volumes.open(f"cache {n % 3}") for n in range(24)))
        assert sum(created for _, created in opened) == 3
        assert labels(cache_set) == {0: "cache 0", 1: "cache 1", 2: "cache 2"}
        assert [inode for inode, _ in opened] == [0, 1, 2] * 8
        images = [device.image() for device in members]  # as a crash would leave them
    devices = [MemoryDevice.holding(image) for image in images]
    async with running(devices, set_options(tmp_path)) as cache_set:
        assert await cache_set.volumes.open("cache 1") == (1, False)
        seq = cache_set.statistics().journal_seq
        assert await cache_set.volumes.open("cache 2") == (2, False)
        assert cache_set.statistics().journal_seq == seq, "what exists is not written again"


@in_virtual_time
async def test_a_label_that_cannot_be_opened_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with a_set(tmp_path) as (cache_set, _):
        for label in ("twice", "once", "twice", "flash\x01"):
            await cache_set.volumes.create(label, 800 if label.startswith("flash") else 0)
        before = cache_set.volumes.all()
        with pytest.raises(AmbiguousLabel) as refused:
            await cache_set.volumes.open("twice")
        assert refused.value.fields == {"label": "twice", "inodes": [0, 2]}
        for label, sectors in (("", None), ("x" * 33, None), ("once", 8), ("flash\x01", 0), ("flash\x01", 8)):
            with pytest.raises(InvalidParameter):
                await cache_set.volumes.open(label, sectors)
        assert await cache_set.volumes.open("once", 0) == (1, False)
        assert await cache_set.volumes.open("flash\x01", 800) == (3, False), "it need not be printable"
        assert cache_set.volumes.all() == before


@in_virtual_time
async def test_a_label_is_opened_in_a_full_table_only_if_it_is_there(tmp_path: Path) -> None:
    async with a_set(tmp_path, verify=False) as (cache_set, _):
        inode, _ = await cache_set.volumes.open("there")
        entries = cache_set.volumes._table.entries
        entries[:] = [entries[inode]] * len(entries)
        entries[:] = [
            entry if at == inode else replace(entry, label="other")
            for at, entry in enumerate(entries)
            if entry
        ]
        assert await cache_set.volumes.open("there") == (inode, False)
        with pytest.raises(LimitExceeded):
            await cache_set.volumes.open("not there")


@in_virtual_time
async def test_a_volume_that_is_being_deleted_is_not_opened(tmp_path: Path) -> None:
    async with a_set(tmp_path) as (cache_set, _):
        inode, _ = await cache_set.volumes.open("cache")
        deleting = asyncio.ensure_future(cache_set.volumes.delete(inode))
        await asyncio.sleep(0.001)
        assert await cache_set.volumes.open("cache") == (inode + 1, True)
        await deleting
        assert labels(cache_set) == {inode + 1: "cache"}


@in_virtual_time
async def test_many_at_once_take_their_turns(tmp_path: Path) -> None:
    async with a_set(tmp_path) as (cache_set, members):
        inodes = await asyncio.gather(*(cache_set.volumes.create(f"volume {n}") for n in range(12)))
        assert sorted(inodes) == list(range(12))
        await asyncio.gather(
            *(cache_set.volumes.delete(inode) for inode in inodes[:6]),
            *(cache_set.volumes.create(f"later {n}") for n in range(3)),
            cache_set.maintenance.write_priorities(),
            cache_set.maintenance.set_replacement(Replacement.FIFO),
            cache_set.maintenance.set_discard(True),
        )
        assert len(cache_set.volumes.all()) == 9
        found = labels(cache_set)
    async with running(reopened(members), set_options(tmp_path)) as cache_set:
        assert labels(cache_set) == found
        assert {member.superblock.replacement for member in cache_set.members} == {Replacement.FIFO}
        assert all(member.superblock.discard for member in cache_set.members)


@in_virtual_time
async def test_a_change_goes_on_when_its_asker_goes_away(tmp_path: Path) -> None:
    async with a_set(tmp_path) as (cache_set, members):
        for wait_s in (0, 0.001, 0.004, 0.01):
            asking = asyncio.ensure_future(cache_set.volumes.create(f"after {wait_s}"))
            await asyncio.sleep(wait_s)
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled() or wait_s == 0.01
        await asyncio.sleep(1)
        found = set(labels(cache_set).values())
        assert found >= {"after 0.001", "after 0.004", "after 0.01"}
    async with running(reopened(members), set_options(tmp_path)) as cache_set:
        assert set(labels(cache_set).values()) == found


@in_virtual_time
async def test_what_is_wrong_changes_nothing_and_holds_up_nobody(tmp_path: Path) -> None:
    async with a_set(tmp_path) as (cache_set, _):
        uuid = uuid4()
        await cache_set.volumes.create("first", uuid=uuid)
        before = cache_set.statistics().journal_seq
        outcomes = await asyncio.gather(
            cache_set.volumes.create("first again", uuid=uuid),
            cache_set.volumes.create("x" * 33),
            cache_set.volumes.delete(7),
            cache_set.volumes.create("second"),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes[:3]] == [
            InvalidParameter,
            InvalidParameter,
            NoSuchVolume,
        ]
        assert outcomes[3] == 1
        assert labels(cache_set) == {0: "first", 1: "second"}
        assert cache_set.statistics().journal_seq <= before + 2


@in_virtual_time
async def test_a_bucket_that_is_waited_for_is_known_from_the_moment_it_is_given(tmp_path: Path) -> None:
    """Verify would call it lost otherwise: whoever waits for it hears of it a turn of the loop later."""
    async with a_set(tmp_path, verify=False) as (cache_set, _):
        holder = cache_set.allocations.new_holder("greedy")
        keys = await take_buckets(cache_set, holder, patience_s=0.1)
        kept = []
        for member in cache_set.members:  # a tree, one day, will have taken these
            while (bucket := member.buckets.take_metadata(State.BTREE)) is not None:
                kept.append((member, bucket))
        creating = asyncio.ensure_future(cache_set.volumes.create("patient"))
        await asyncio.sleep(0.1)
        assert cache_set.statistics().waiters["btree"] == 1
        cache_set.allocations.free_bucket(holder, keys[0])
        while cache_set.shared.queue.total:
            await asyncio.sleep(0)
        assert not creating.done()
        assert not [line for line in cache_set.verify() if "UUID" in line]
        assert await creating == 0
        for member, bucket in kept:
            member.buckets.free_metadata([bucket])
        cache_set.shared.buckets_moved()


@in_virtual_time
async def test_without_a_bucket_it_fails_at_its_deadline_and_nothing_is_changed(tmp_path: Path) -> None:
    async with a_set(tmp_path, verify=False) as (cache_set, _):
        inode = await cache_set.volumes.create("first")
        await take_buckets(cache_set, cache_set.allocations.new_holder("greedy"), patience_s=0.1)
        kept = []
        for member in cache_set.members:
            while (bucket := member.buckets.take_metadata(State.BTREE)) is not None:
                kept.append((member, bucket))
        outcomes = await asyncio.gather(
            cache_set.volumes.create("second"), cache_set.volumes.delete(inode), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [NoFreeBuckets, NoFreeBuckets]
        assert labels(cache_set) == {inode: "first"}
        assert (
            cache_set.allocations.carve(cache_set.allocations.new_holder("client"), inode, 0, 8, 1) is None
        ), "it is still known"
        for member, bucket in kept:
            member.buckets.free_metadata([bucket])
        cache_set.shared.buckets_moved()
        assert await cache_set.volumes.create("second") == 1


@in_virtual_time
async def test_the_same_again_writes_nothing(tmp_path: Path) -> None:
    async with a_set(tmp_path) as (cache_set, members):
        await cache_set.maintenance.set_discard(True)
        await asyncio.sleep(1)
        before = [device.writes for device in members]
        seqs = [member.superblock.seq for member in cache_set.members]
        await cache_set.maintenance.set_discard(True)
        assert [member.superblock.seq for member in cache_set.members] == seqs
        assert [device.writes for device in members] == before
        await cache_set.maintenance.set_discard(False)
        assert [member.superblock.seq for member in cache_set.members] == [seq + 1 for seq in seqs]
