# SPDX-License-Identifier: GPL-2.0-only
"""What no look-up finds in a set is told, kept, and given to no new volume; an explicit word drops it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bcached.errors import LimitExceeded, NoSuchVolume, VolumeInUse
from bcached.format.uuid_entry import BURNT_UUID, UuidEntry
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.lookups import LookupRequest
from bcached.runtime.lifetime import running
from bcached.state.buckets.bucket_table import State
from bcached.store.check.checker import check_set
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.image_builder import MAX_POSITION, PLAIN, ImageBuilder, replace_gen, two_levels
from instruments.samples.living_set import set_options, take_buckets
from instruments.time.virtual_time import in_virtual_time

BURNT = UuidEntry(BURNT_UUID, "given up", invalidated=1)
END = 1 << 40
Put = Callable[..., None]


def extents(
    image: ImageBuilder, inode: int, *, dirty: bool = True, count: int = 10, ahead: int = 0
) -> list[Key]:
    """Keys in buckets of their own, whose gens on disk may be ahead."""
    keys = [image.extent(inode, 100 * number, 8, dirty=dirty) for number in range(count)]
    for key in keys:
        image.gens[0][image.geometry.bucket_of(key.pointers[0].sector)] = ahead
    return keys


def in_a_leaf(image: ImageBuilder, inode: int, ahead: int = 0) -> None:
    image.finish(image.node(extents(image, inode, ahead=ahead)))


def in_the_journal(image: ImageBuilder, inode: int, ahead: int = 0) -> None:
    image.finish(image.node(()), journal=[extents(image, inode, ahead=ahead)])


def over_a_leaf(image: ImageBuilder, inode: int, ahead: int = 0) -> None:
    """Half of them in a leaf, the others over keys there: as many are left in all."""
    below, above = extents(image, inode, ahead=ahead), extents(image, inode, count=5, ahead=ahead)
    image.finish(image.node(below), journal=[above])


def in_many_leaves(image: ImageBuilder, inode: int, ahead: int = 0) -> None:
    keys = extents(image, inode, ahead=ahead)
    ends = [(inode, 300), (inode, 600), MAX_POSITION]
    parts = (keys[:3], keys[3:6], keys[6:])
    leaves = [image.node(part, position=end) for part, end in zip(parts, ends, strict=True)]
    image.finish(image.node(leaves), level=1)


PLACES = [in_a_leaf, in_the_journal, over_a_leaf, in_many_leaves]
every_place = pytest.mark.parametrize("put", PLACES, ids=lambda put: put.__name__)
each_memory = pytest.mark.parametrize(
    "index_bytes", [256 << 20, 6 << 10], ids=["in memory", "a leaf in memory"]
)


def orphans(cache_set: CacheSet) -> list[tuple[int, int, int, int]]:
    return [
        (one.inode, one.keys, one.dirty_sectors, one.clean_sectors) for one in cache_set.volumes.orphans()
    ]


async def dirty_keys(device: MemoryDevice, inode: int) -> int:
    """Keys that are live, as they would be found after a kill at this moment."""
    found = await check_set([MemoryDevice.holding(device.image())])
    return found.totals.volumes[inode].keys if inode in found.totals.volumes else 0


@pytest.mark.no_cover
@each_memory
@every_place
@pytest.mark.parametrize("slots", [[], [BURNT], [None, PLAIN]], ids=["lost", "given up", "slot free"])
@in_virtual_time
async def test_no_new_volume_gets_an_inode_that_keys_name(
    tmp_path: Path, slots: list[UuidEntry | None], put: Put, index_bytes: int
) -> None:
    image = ImageBuilder()
    image.volumes = slots
    put(image, 0)
    (device,) = image.devices()
    warned: list[str] = []
    for life in range(2):
        now = device.reopen() if life else device
        options = set_options(tmp_path, index_bytes=index_bytes)
        async with running([now], options, warn=warned.append) as cache_set:
            assert orphans(cache_set) == [(0, 10, 80, 0)]
            assert len(warned) == life + 1
            assert warned[-1].startswith(
                "10 keys (40k dirty, 0 clean) are under inodes without a volume: 0 ("
            )
            assert warned[-1] in cache_set.explain()
            with pytest.raises(NoSuchVolume):
                await cache_set.lookups.lookup(LookupRequest(0, 0, END))
            with pytest.raises(NoSuchVolume):
                await cache_set.index.mark_clean([image.extent(0, 0, 8, dirty=True)], 1.0)
            inode = await cache_set.volumes.create(f"new {life}")
            assert inode != 0
            assert (await cache_set.lookups.lookup(LookupRequest(inode, 0, END))).keys == []
            await cache_set.maintenance.collect_garbage()
            assert orphans(cache_set) == [(0, 10, 80, 0)]
        assert await dirty_keys(device, 0) == 10


@each_memory
@every_place
@pytest.mark.parametrize("slots", [[], [BURNT]], ids=["lost", "given up"])
@in_virtual_time
async def test_they_are_dropped_by_an_explicit_word_and_the_inode_is_free_again(
    tmp_path: Path, slots: list[UuidEntry | None], put: Put, index_bytes: int
) -> None:
    image = ImageBuilder()
    image.volumes = slots
    put(image, 0)
    (device,) = image.devices()
    async with running([device], set_options(tmp_path, index_bytes=index_bytes)) as cache_set:
        with pytest.raises(VolumeInUse, match="80 dirty sectors"):
            await cache_set.volumes.delete(0)
        assert orphans(cache_set) == [(0, 10, 80, 0)]
        await cache_set.volumes.delete(0, force=True)
        assert orphans(cache_set) == []
        assert cache_set.explain_index() == []
        assert await cache_set.volumes.create("new") == 0
        assert (await cache_set.lookups.lookup(LookupRequest(0, 0, END))).keys == []
        killed = MemoryDevice.holding(device.image())
    async with running([killed], set_options(tmp_path)) as cache_set:
        assert orphans(cache_set) == []
        assert [volume.label for volume in cache_set.volumes.all()] == ["new"]


@in_virtual_time
async def test_an_inode_beyond_the_table_is_told_and_dropped_too(tmp_path: Path) -> None:
    image = ImageBuilder()
    highest = (1 << 20) - 1
    image.finish(image.node([*extents(image, 70_000, count=3), *extents(image, highest, count=2)]))
    (device,) = image.devices()
    async with running([device], set_options(tmp_path)) as cache_set:
        assert orphans(cache_set) == [(70_000, 3, 24, 0), (highest, 2, 16, 0)]
        await cache_set.volumes.delete(70_000, force=True)
        await cache_set.volumes.delete(highest, force=True)
        assert orphans(cache_set) == []
        with pytest.raises(NoSuchVolume):
            await cache_set.volumes.delete(70_000, force=True)
    assert await dirty_keys(device, 70_000) == 0


@in_virtual_time
async def test_clean_orphans_let_go_of_their_inode_as_their_buckets_are_used_again(tmp_path: Path) -> None:
    image = ImageBuilder()
    image.volumes = []
    image.finish(image.node(extents(image, 0, dirty=False)))
    (device,) = image.devices()
    async with running([device], set_options(tmp_path, verify=False)) as cache_set:
        assert orphans(cache_set) == [(0, 10, 0, 80)]
        assert await cache_set.volumes.create("first") == 1
        holder = cache_set.allocations.new_holder("all there is")
        await take_buckets(cache_set, holder)
        assert cache_set.members[0].buckets.table.counts[State.CLEAN] == 0
        await cache_set.maintenance.collect_garbage()
        assert orphans(cache_set) == []
        await cache_set.volumes.delete(1)
        assert cache_set.members[0].buckets.table.counts[State.CLEAN] == 0


@in_virtual_time
async def test_a_table_whose_every_free_inode_is_named_is_full(tmp_path: Path) -> None:
    image = ImageBuilder()
    slots = image.geometry.metadata_bytes // 128
    image.volumes = [replace(PLAIN, uuid=PLAIN.uuid.__class__(int=n + 1)) for n in range(slots - 1)]
    image.finish(image.node(extents(image, slots - 1)))
    (device,) = image.devices()
    async with running([device], set_options(tmp_path)) as cache_set:
        with pytest.raises(LimitExceeded):
            await cache_set.volumes.create("one more")
        await cache_set.volumes.delete(slots - 1, force=True)
        assert await cache_set.volumes.create("one more") == slots - 1


@each_memory
@every_place
@in_virtual_time
async def test_stale_dirty_keys_are_told_as_long_as_they_last(
    tmp_path: Path, put: Put, index_bytes: int
) -> None:
    image = ImageBuilder()
    put(image, 0, ahead=2)
    (device,) = image.devices()
    checked = await check_set([MemoryDevice.holding(device.image())])
    assert checked.findings.counts["key-stale-dirty"] == 10
    warned: list[str] = []
    options = set_options(tmp_path, index_bytes=index_bytes)
    async with running([device], options, warn=warned.append) as cache_set:
        assert stale_dirty(cache_set) == (10, 80, 0)
        assert len(warned) == 1
        assert warned[0].startswith("10 dirty keys of 40k are stale: ")
        assert warned[0] in cache_set.explain()
        await cache_set.maintenance.collect_garbage()
        assert stale_dirty(cache_set) == (10, 80, 0)
        await cache_set.index.invalidate(0, 104, 396, 10.0)  # half a key, and three more
        assert stale_dirty(cache_set)[1] == 80 - 28
        await cache_set.maintenance.collect_garbage()
        assert stale_dirty(cache_set) == (7, 52, 0)
        killed = MemoryDevice.holding(device.image())
    async with running([killed], set_options(tmp_path)) as cache_set:
        assert stale_dirty(cache_set) == (7, 52, 0)
        await cache_set.volumes.delete(0, force=True)
        assert stale_dirty(cache_set) == (0, 0, 0)
        assert cache_set.explain_index() == []
    assert len(warned) == 1


def stale_dirty(cache_set: CacheSet) -> tuple[int, int, int]:
    """Keys, sectors, and keys that collections dropped."""
    index = cache_set.statistics().index
    return index.stale_dirty_keys, index.stale_dirty_sectors, index.stale_dirty_keys_dropped


@each_memory
@every_place
@in_virtual_time
async def test_stale_dirty_keys_are_dropped_when_their_buckets_were_used_very_often(
    tmp_path: Path, put: Put, index_bytes: int
) -> None:
    image = ImageBuilder()
    put(image, 0, ahead=11)
    (device,) = image.devices()
    warned: list[str] = []
    options = set_options(tmp_path, index_bytes=index_bytes)
    async with running([device], options, warn=warned.append) as cache_set:
        assert stale_dirty(cache_set) == (10, 80, 0)
        for _ in range(3):  # what the journal brought is dropped when it stands in a leaf
            await cache_set.maintenance.collect_garbage()
            await cache_set.index.write_back.write_all()
        assert stale_dirty(cache_set) == (0, 0, 10)
        assert "stale" in warned[0]
        assert sum(int(words.split("dropped ")[1].split()[0]) for words in warned[1:]) == 10


@in_virtual_time
async def test_keys_that_a_later_gen_makes_stale_are_found_wherever_they_were_counted(tmp_path: Path) -> None:
    """The gens on disk know nothing of it: a key of the journal names the bucket with a newer one."""
    image = ImageBuilder()
    keys = extents(image, 0)
    newer = [replace_gen_of(key, offset=5000 + 100 * number) for number, key in enumerate(keys) if number % 2]
    image.finish(image.node(keys), journal=[newer])
    (device,) = image.devices()
    async with running([device], set_options(tmp_path)) as cache_set:
        assert stale_dirty(cache_set) == (5, 40, 0)


def replace_gen_of(key: Key, offset: int) -> Key:
    return Key(key.inode, offset, key.sectors, key.dirty, (replace_gen(key.pointers[0], 3),))


@in_virtual_time
async def test_vanished_nodes_are_told_as_long_as_their_parent_stands(tmp_path: Path) -> None:
    image = ImageBuilder()
    root, leaves = two_levels(image)
    for leaf in leaves[:2]:
        image.gens[0][image.geometry.bucket_of(leaf.pointers[0].sector)] = 1
    image.finish(root, level=1)
    (device,) = image.devices()
    checked = await check_set([MemoryDevice.holding(device.image())])
    assert checked.findings.counts["node-vanished"] == 2
    warned: list[str] = []
    async with running([device], set_options(tmp_path), warn=warned.append) as cache_set:
        assert cache_set.statistics().index.vanished_nodes == 2
        assert [sentence for sentence in cache_set.explain() if "vanished" in sentence] == warned
        assert warned[0].startswith("2 nodes of the index vanished")
        await cache_set.maintenance.write_priorities()
        assert cache_set.statistics().index.vanished_nodes == 2
        await cache_set.maintenance.collect_garbage()  # makes it one leaf
        checked = await check_set([MemoryDevice.holding(device.image())])
        assert checked.findings.counts["node-vanished"] == 0
        assert cache_set.statistics().index.vanished_nodes == 0
        assert cache_set.explain_index() == []
    assert len(warned) == 2
    assert warned[1].startswith(
        "garbage collection rewrote parts of the index, and removed the last trace of 2 vanished nodes"
    )
