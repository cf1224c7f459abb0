# SPDX-License-Identifier: GPL-2.0-only
"""Sets as no writer of today leaves them, but as they may be found: all must open, and be worked on."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from bcached.format.bkey import CHECK_DEVICE
from bcached.format.bset import Bset, pack_bset
from bcached.format.uuid_entry import BURNT_UUID, OLD_LAYOUT, UuidEntry
from bcached.keys import Key, Pointer
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.lookups import LookupRequest
from bcached.runtime.lifetime import running
from bcached.state.buckets.bucket_table import State
from bcached.store.check.checker import check_set
from bcached.units import SECTOR_BYTES
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.image_builder import PLAIN, ImageBuilder
from instruments.samples.living_set import extent, set_options
from instruments.time.virtual_time import in_virtual_time

END = 1 << 30
NOWHERE = (Pointer(CHECK_DEVICE, 0, 0),)


async def contents(cache_set: CacheSet, inode: int = 0) -> list[Key]:
    return (await cache_set.lookups.lookup(LookupRequest(inode, 0, END))).keys


def without_places(keys: list[Key]) -> list[tuple[int, int, bool]]:
    return [(key.offset, key.sectors, key.dirty) for key in keys]


async def work(cache_set: CacheSet, times: int, offset: int) -> None:
    """Allocate and commit, with a collection now and then."""
    holder = cache_set.allocations.new_holder("test")
    for number in range(times):
        wanted = extent(64, offset=offset + 64 * number, whole=True)
        (keys,) = await cache_set.allocations.allocate(holder, [wanted], 20.0)
        await cache_set.index.commit(holder, keys, 20.0)
        if number % 50 == 0:
            await cache_set.maintenance.collect_garbage()
    await cache_set.index.flush()


def devices_again(devices: list[MemoryDevice]) -> list[MemoryDevice]:
    return [device.reopen() for device in devices]


@in_virtual_time
async def test_a_uuid_table_of_the_old_form_stays_one_until_it_is_written_anew(tmp_path: Path) -> None:
    image = ImageBuilder()
    image.finish(image.node([image.extent(0, 0, 8, dirty=True)]))
    uuids = [PLAIN.uuid, UUID(int=0x12)]
    old = b"".join(OLD_LAYOUT.pack(uuid.bytes, b"old", 1, 2, 0) for uuid in uuids)
    image.write(image.byte_of(image.uuid_key), old.ljust(image.geometry.metadata_bytes, b"\0"))
    entry, byte = image.entries[1]
    image.write_entry(replace(entry, version=0), byte)
    devices = image.devices()
    for life in range(3):
        async with running(devices_again(devices) if life else devices, set_options(tmp_path)) as cache_set:
            assert [volume.uuid for volume in cache_set.volumes.all()][:2] == uuids
            assert [volume.label for volume in cache_set.volumes.all()] == ["old", "old", "new"][
                : max(life, 1) + 1
            ]
            await cache_set.maintenance.write_priorities()
            if life == 1:
                assert await cache_set.volumes.create("new", 64) == 2
            assert len(await contents(cache_set)) == 1


@in_virtual_time
async def test_leaves_with_a_checksum_of_the_old_form_are_read_and_written_on(tmp_path: Path) -> None:
    image = ImageBuilder()
    keys = [image.extent(0, 100 * number, 8, dirty=True) for number in range(10)]
    root = image.node_key()
    raw = pack_bset(Bset(77, tuple(keys), 0), root, image.set_magic, image.geometry.block_bytes)
    image.write(image.byte_of(root), raw)
    image.finish(root)
    devices = image.devices()
    async with running(devices, set_options(tmp_path)) as cache_set:
        assert await contents(cache_set) == keys
        await work(cache_set, 1, 50_000)
    async with running(devices_again(devices), set_options(tmp_path)) as cache_set:
        found = await contents(cache_set)
        assert without_places(found[:10]) == without_places(keys)
        assert len(found) == 11


@in_virtual_time
async def test_a_journal_whose_oldest_entries_were_discarded_is_gone_on_with(tmp_path: Path) -> None:
    """The kernel discards a bucket of the journal before the entry that no longer needs it is written."""
    image = ImageBuilder()
    keys = [image.extent(0, 100 * number, 8, dirty=True) for number in range(3)]
    image.finish(image.node(keys[:1]), journal=[keys[:1], keys[1:2]])
    journal = [image.geometry.byte_of(bucket) for bucket in image.superblocks[0].journal_buckets]
    image.write(journal[1], bytes(image.geometry.bucket_bytes))
    image.write_entry(image.entry(3, 1, keys[1:2]), journal[2])
    image.write_entry(image.entry(4, 1, keys[2:]), journal[3])
    image.write_superblock(replace(image.superblocks[0], discard=True))
    devices = image.devices()
    async with running(devices, set_options(tmp_path)) as cache_set:
        assert await contents(cache_set) == keys
        await work(cache_set, 300, 50_000)
        assert cache_set.verify() == []
    async with running(devices_again(devices), set_options(tmp_path)) as cache_set:
        assert without_places((await contents(cache_set))[:3]) == without_places(keys)


@pytest.mark.parametrize("appended", [False, True])
@pytest.mark.parametrize("block_sectors", [1, 4])
@in_virtual_time
async def test_leaves_at_one_position_become_one(tmp_path: Path, block_sectors: int, appended: bool) -> None:
    """The kernel leaves two where it inserted a deletion into a leaf that it had to split."""
    image = ImageBuilder(bucket_sectors=8, block_sectors=block_sectors)
    older, newer, expected = [], [], []
    for begin in range(0, 6000, 1000):
        held = [image.extent(0, begin + sector, 8, dirty=True) for sector in (0, 16, 32, 48)]
        over = [Key(0, begin + 16, 8, False, ()), image.extent(0, begin + 32, 4, dirty=True)]
        expected += [(begin, 8, True), (begin + 32, 4, True), (begin + 36, 4, True), (begin + 48, 8, True)]
        older.append(image.node(held[:2], held[2:], position=(0, begin + 100)))
        newer.append(image.node([], over, position=(0, begin + 100)))
    last = image.node([])
    pairs = [leaf for pair in zip(newer, older, strict=True) for leaf in pair]
    root = image.node([*older, last], newer) if appended else image.node([*pairs, last])
    image.finish(root, 1)
    devices, options = image.devices(), set_options(tmp_path, moving_gc=False)
    for life in range(3):
        async with running(devices_again(devices) if life else devices, options) as cache_set:
            assert without_places(await contents(cache_set))[: len(expected)] == expected
            assert cache_set.verify() == []
            await work(cache_set, 20, 50_000)
            assert without_places(await contents(cache_set))[: len(expected)] == expected
            assert cache_set.verify() == []
        (device,) = devices_again(devices)
        assert (await check_set([device])).findings.listed == []
        await device.close()


@pytest.mark.parametrize("in_journal", [True, False])
@in_virtual_time
async def test_keys_that_hold_nothing_only_cut(tmp_path: Path, in_journal: bool) -> None:
    image = ImageBuilder()
    below = [image.extent(0, 100 * number, 32, dirty=number % 2 == 0) for number in range(5)]
    nothing = [
        Key(0, 0, 0, True, below[0].pointers),  # of no sectors
        Key(0, 104, 8, False, NOWHERE),  # a placeholder for a miss in work
        Key(0, 200, 8, False, ()),  # a deletion
        Key(0, 1000, 0, False, ()),
        Key(0, 2000, 64, False, NOWHERE),
        Key(1, 0, 8, False, ()),
    ]
    image.finish(
        image.node(below) if in_journal else image.node(below, nothing),
        journal=[nothing if in_journal else ()],
    )
    expected = [
        (0, 32, True), (100, 4, False), (112, 20, False), (208, 24, True), (300, 32, False), (400, 32, True)
    ]  # fmt: skip
    devices = image.devices()
    for life in range(3):
        async with running(devices_again(devices) if life else devices, set_options(tmp_path)) as cache_set:
            assert without_places(await contents(cache_set)) == expected
            assert cache_set.verify() == []
            for _ in range(3):
                await cache_set.maintenance.collect_garbage()
            assert without_places(await contents(cache_set)) == expected


@in_virtual_time
async def test_a_stale_key_of_the_journal_still_cuts_what_it_overlaps(tmp_path: Path) -> None:
    image = ImageBuilder()
    old, new = image.extent(0, 0, 24, dirty=True), image.extent(0, 8, 8)
    image.gens[0][new.pointers[0].sector // 64] = 1
    image.finish(image.node([old]), journal=[[new]])
    devices = image.devices()
    for life in range(3):
        async with running(devices_again(devices) if life else devices, set_options(tmp_path)) as cache_set:
            assert without_places(await contents(cache_set)) == [(0, 8, True), (16, 8, True)]
            assert cache_set.verify() == []


@in_virtual_time
async def test_extents_that_are_no_whole_blocks_are_kept_among_others_that_are_moved(tmp_path: Path) -> None:
    image = ImageBuilder(block_sectors=8)
    keys = []
    for number in range(200):
        odd = number % 2
        key = image.extent(0, 104 * number + odd * (number % 7), 9 + number % 11 if odd else 8, dirty=True)
        (pointer,) = key.pointers
        shift = odd * (number % 5)
        keys.append(Key(0, key.offset, key.sectors, True, (Pointer(0, pointer.sector + shift, 0),)))
        data = b"".join(b"%511d\n" % (key.offset + step) for step in range(key.sectors))
        image.write((pointer.sector + shift) * SECTOR_BYTES, data)
    image.finish(image.node(keys))
    devices = image.devices()
    async with running(devices, set_options(tmp_path)) as cache_set:
        for _ in range(30):
            await cache_set.maintenance.collect_garbage()
        assert cache_set.tasks.garbage_collector.mover.moved_sectors > 50
        await check_data(cache_set, keys)
    async with running(devices_again(devices), set_options(tmp_path)) as cache_set:
        await check_data(cache_set, keys)


async def check_data(cache_set: CacheSet, expected: list[Key]) -> None:
    found = {}
    for key in await contents(cache_set):
        assert key.dirty
        place = key.pointers[0].sector * SECTOR_BYTES
        raw = bytes(await cache_set.members[0].block_device.read(place, key.sectors * SECTOR_BYTES))
        for step in range(key.sectors):
            found[key.offset + step] = int(raw[step * SECTOR_BYTES : (step + 1) * SECTOR_BYTES])
    assert sorted(found) == [sector for key in expected for sector in range(key.offset, key.end)]
    assert all(sector == number for sector, number in found.items())


@in_virtual_time
async def test_keys_of_a_volume_that_is_gone_do_no_harm(tmp_path: Path) -> None:
    image = ImageBuilder()
    image.volumes = [UuidEntry(BURNT_UUID, "gone"), UuidEntry(UUID(int=9), "here")]
    gone = [image.extent(0, 100 * number, 8) for number in range(100)]
    here = [image.extent(1, 100 * number, 8, dirty=True) for number in range(100)]
    image.finish(image.node([*gone, *here]))
    devices = image.devices()
    async with running(devices, set_options(tmp_path)) as cache_set:
        for _ in range(5):
            await cache_set.maintenance.collect_garbage()
        assert without_places(await contents(cache_set, 1)) == without_places(here)
        assert [volume.inode for volume in cache_set.volumes.all()] == [1]


@pytest.mark.parametrize("empty", [1, 2, 8])
@pytest.mark.parametrize("dirty", [False, True])
@in_virtual_time
async def test_a_set_with_hardly_an_empty_bucket_goes_on(tmp_path: Path, empty: int, dirty: bool) -> None:
    image = ImageBuilder(bucket_count=640)
    root = image.node_key()
    first, behind = image.geometry.bucket_of(root.pointers[0].sector) + 1, 640 - empty - 2  # uuids and prios
    keys = [
        image.extent(0, 64 * number, 64, dirty=dirty and number % 3 == 0) for number in range(behind - first)
    ]
    image.write_node(root, keys)
    image.finish(root)
    devices = image.devices()
    async with running(devices, set_options(tmp_path, moving_gc=False)) as cache_set:
        assert cache_set.members[0].buckets.table.counts[State.EMPTY] == 0
        await work(cache_set, 150, 1 << 20)
        assert cache_set.verify() == []
        left = await contents(cache_set)
        assert {key for key in keys if key.dirty} <= set(left)
    async with running(devices_again(devices), set_options(tmp_path)) as cache_set:
        assert cache_set.verify() == []
        assert len(await contents(cache_set)) >= 150
