# SPDX-License-Identifier: GPL-2.0-only
"""What is called sure, and why something is not, in sets built for the case."""

import asyncio
from contextlib import suppress

import pytest

from bcached.errors import BcachedError, SetRefused
from bcached.keys import Key, Pointer
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtent, DirtyExtents, Place
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.lost_keys import bring_back_lost
from bcached.store.rescue.remains.superblock_left import KnownLayout
from bcached.store.rescue.unreadable import Unreadable
from bcached.store.rescue.write_back import DirtyDataWriter, refuse_outside
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import totals_of
from instruments.samples.image_builder import ImageBuilder

SURE, NEWEST, CONFLICTING = Confidence


async def dirty(builder: ImageBuilder, inode: int = 0) -> list[DirtyExtent]:
    left = await read_corrected(builder.devices())
    await bring_back_lost(left)
    return list(DirtyExtents.of(left).of_inode(inode))


def ranges(extents: list[DirtyExtent]) -> list[tuple[int, int, Confidence]]:
    return [(extent.offset, extent.sectors, extent.confidence) for extent in extents]


async def test_clean_data_deletions_and_other_volumes_are_left_out() -> None:
    builder = ImageBuilder()
    keys = [
        builder.extent(0, 0, 8, dirty=True),
        builder.extent(0, 8, 8),
        builder.extent(0, 16, 8, dirty=True),
        builder.extent(1, 0, 8, dirty=True),
    ]
    builder.finish(builder.node(keys), journal=[[Key(0, 16, 4, False, ())]])
    assert ranges(await dirty(builder)) == [(0, 8, SURE), (20, 4, SURE)]
    assert ranges(await dirty(builder, 1)) == [(0, 8, SURE)]


async def test_a_stale_key_is_the_newest_found_and_conflicting_if_its_bucket_is_in_use() -> None:
    builder = ImageBuilder()
    alone, shared = builder.extent(0, 0, 8, dirty=True), builder.extent(0, 8, 8, dirty=True)
    there = shared.pointers[0]
    newer = Key(0, 16, 8, True, (Pointer(0, there.sector + 8, 1),))
    builder.gens[0][builder.geometry.bucket_of(alone.pointers[0].sector)] = 1
    builder.finish(builder.node([alone, shared, newer]))
    assert ranges(await dirty(builder)) == [(0, 8, NEWEST), (8, 8, CONFLICTING), (16, 8, SURE)]


async def test_two_keys_for_the_same_sectors_are_conflicting() -> None:
    builder = ImageBuilder()
    one = builder.extent(0, 0, 8, dirty=True)
    other = Key(1, 64, 8, True, (Pointer(0, one.pointers[0].sector + 4, 0),))
    builder.finish(builder.node([one, builder.extent(0, 8, 8, dirty=True), other]))
    assert ranges(await dirty(builder)) == [(0, 8, CONFLICTING), (8, 8, SURE)]
    assert ranges(await dirty(builder, 1)) == [(64, 8, CONFLICTING)]


async def test_a_key_that_names_metadata_is_conflicting() -> None:
    builder = ImageBuilder()
    root = builder.node_key()
    wrong = Key(0, 0, 8, True, (Pointer(0, root.pointers[0].sector, 0),))
    builder.write_node(root, [wrong, builder.extent(0, 8, 8, dirty=True)])
    builder.finish(root)
    found = await dirty(builder)
    assert found[0].confidence == CONFLICTING


async def test_of_a_leaf_with_a_bad_bset_the_keys_behind_it_are_sure() -> None:
    builder = ImageBuilder()
    first, lost, last = (builder.extent(0, 8 * n, 8, dirty=True) for n in range(3))
    root = builder.node([first], [lost], [last])
    builder.finish(root)
    block = root.pointers[0].sector * 512 + builder.geometry.block_bytes
    builder.write(block + 40, b"garbled!")
    assert ranges(await dirty(builder)) == [(0, 8, NEWEST), (16, 8, SURE)]


@pytest.mark.parametrize(("damaged", "sure"), [((1,), {2, 3}), ((1, 2), {3}), ((1, 3), set()), ((0, 2), {3})])
async def test_of_a_leaf_with_several_bad_bsets_only_keys_behind_the_last_are_sure(
    damaged: tuple[int, ...], sure: set[int]
) -> None:
    builder = ImageBuilder()
    keys = [builder.extent(0, 8 * n, 8, dirty=True) for n in range(4)]
    root = builder.node(*([key] for key in keys))
    builder.finish(root)
    for number in damaged:
        byte = root.pointers[0].sector * 512 + number * builder.geometry.block_bytes
        builder.write(byte + 40, b"garbled!")
    found = await dirty(builder)
    assert {extent.offset // 8 for extent in found} == set(range(4)) - set(damaged)
    assert {extent.offset // 8 for extent in found if extent.confidence == SURE} == sure


async def test_leftovers_of_a_former_node_behind_a_leaf_are_no_damage() -> None:
    builder = ImageBuilder()
    first, last = (builder.extent(0, 8 * n, 8, dirty=True) for n in range(2))
    root = builder.node_key(gen=1)
    builder.gens[0][builder.geometry.bucket_of(root.pointers[0].sector)] = 1
    former = Key(root.inode, root.offset, root.sectors, False, (Pointer(0, root.pointers[0].sector, 0),))
    builder.write_node(former, *([first] for _ in range(4)))
    builder.write_node(root, [first], [last])
    builder.finish(root)
    builder.write(root.pointers[0].sector * 512 + 40, b"garbled!")
    assert ranges(await dirty(builder)) == [(8, 8, SURE)]


async def test_keys_of_entries_behind_a_hole_are_sure() -> None:
    builder = ImageBuilder()
    in_leaf = builder.extent(0, 0, 16, dirty=True)
    journal = [[builder.extent(0, 8 * n, 8, dirty=True)] for n in (1, 5, 6)]
    builder.finish(builder.node([in_leaf]), journal=journal)
    builder.write(builder.entries[2][1] + 240, b"garbled!")
    assert ranges(await dirty(builder)) == [(0, 8, NEWEST), (8, 8, NEWEST), (48, 8, SURE)]


async def test_a_set_of_several_members_is_read_whole() -> None:
    builder = ImageBuilder(members=2)
    keys = [builder.extent(0, 8 * n, 8, dirty=True, member=n % 2) for n in range(4)]
    builder.finish(builder.node(keys))
    found = await dirty(builder)
    assert ranges(found) == [(8 * n, 8, SURE) for n in range(4)]
    assert [extent.copies[0].device for extent in found] == [0, 1, 0, 1]
    with pytest.raises(SetRefused, match="disk1 and disk1: both are member 1 of set"):
        await read_corrected([*builder.devices()[1:], *builder.devices()[1:]])


async def test_an_entry_damaged_on_one_member_is_read_from_the_other() -> None:
    builder = ImageBuilder(members=2)
    journal = [[builder.extent(0, 8 * n, 8, dirty=True)] for n in range(3)]
    builder.finish(builder.node(()), journal=journal)
    builder.write(builder.entries[2][1] + 240, b"garbled!", 1)
    assert ranges(await dirty(builder)) == [(8 * n, 8, SURE) for n in range(3)]


# Writing


async def written(extents: list[DirtyExtent], target: MemoryDevice, *bad: int) -> DirtyDataWriter:
    """Write extents of a cache whose sectors hold their numbers; the bad ones cannot be read."""
    cache = MemoryDevice(64 * 512)
    for sector in range(64):
        cache.disk.contents[sector * 512 : sector * 512 + 512] = bytes([sector]) * 512
    unreadable = Unreadable([64])
    unreadable.add(0, [range(sector, sector + 1) for sector in bad])
    run = DirtyDataWriter([cache], unreadable, target)
    await run.run(extents)
    return run


async def test_what_is_readable_of_an_extent_is_written_around_its_bad_sectors() -> None:
    target = MemoryDevice(64 * 512)
    run = await written([DirtyExtent(8, 16, SURE, (Place(0, 32),))], target, 35, 40)
    assert target.image()[8 * 512 :: 512][:16] == bytes([32, 33, 34, 0, 36, 37, 38, 39, 0, *range(41, 48)])
    assert (run.done.written_sectors, run.done.unreadable_sectors, run.done.unreadable_extents) == (14, 2, 1)
    assert run.done.is_verified


async def test_another_copy_is_used_for_bad_sectors() -> None:
    target = MemoryDevice(64 * 512)
    run = await written([DirtyExtent(0, 4, SURE, (Place(0, 32), Place(0, 48)))], target, 33)
    assert target.image()[::512][:4] == bytes(range(48, 52))
    assert run.done.unreadable_sectors == 0


async def test_extents_smaller_than_a_block_of_the_target_keep_what_is_around_them() -> None:
    target = MemoryDevice(64 * 512, 4096)
    target.disk.contents[:] = b"\xff" * (64 * 512)
    extents = [DirtyExtent(n, 1, SURE, (Place(0, n),)) for n in range(1, 20, 2)]
    await written(extents, target)
    assert target.image()[::512][:20] == bytes(n if n % 2 else 255 for n in range(20))


async def test_what_is_there_already_is_counted() -> None:
    target = MemoryDevice(64 * 512)
    extents = [DirtyExtent(n, 1, SURE, (Place(0, n),)) for n in range(1, 9)]
    assert (await written(extents[:3], target)).done.equal_sectors == 0
    assert (await written(extents, target)).done.equal_sectors == 3


async def test_a_run_that_was_cancelled_is_completed_by_the_next() -> None:
    target = MemoryDevice(64 * 512)
    extents = [DirtyExtent(n, 1, SURE, (Place(0, n),)) for n in range(1, 60)]
    for steps in range(1, 60, 7):
        task = asyncio.create_task(written(extents, target))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert all(byte in {0, sector} for sector, byte in enumerate(target.image()[::512]))
    done = (await written(extents, target)).done
    assert target.image()[::512] == bytes(range(60)) + bytes(4)
    assert 0 < done.equal_sectors <= done.written_sectors == 59


async def test_a_device_that_keeps_other_bytes_is_noticed() -> None:
    class Forgetful(MemoryDevice):
        async def flush(self) -> None:
            self.disk.contents[:512] = bytes(512)

    run = await written([DirtyExtent(0, 2, SURE, (Place(0, 7),))], Forgetful(64 * 512))
    assert (run.done.is_verified, run.done.different_sectors) == (False, 2)


async def test_nothing_in_front_of_the_data_or_behind_the_end_is_written() -> None:
    target = MemoryDevice(64 * 512)
    for offset in (15, 60):
        with pytest.raises(BcachedError, match="is it the right device"):
            refuse_outside(target, 16, [DirtyExtent(offset, 8, SURE, (Place(0, 0),))])
    refuse_outside(target, 16, [DirtyExtent(16, 48, SURE, (Place(0, 0),))])


async def test_totals_are_by_confidence() -> None:
    totals = totals_of(iter([DirtyExtent(0, 8, SURE, ()), DirtyExtent(8, 4, NEWEST, ())]))
    assert (totals.sectors[SURE], totals.sectors[NEWEST], totals.extents.total(), totals.end) == (8, 4, 2, 12)


@pytest.mark.parametrize("first_bucket", [0, 7])
async def test_a_journal_is_found_where_a_lost_superblock_had_it(first_bucket: int) -> None:
    builder = ImageBuilder(first_bucket=first_bucket)
    keys = [builder.extent(0, 0, 8, dirty=True), builder.extent(0, 16, 8, dirty=True)]
    builder.finish(builder.node(keys), journal=[[Key(0, 16, 4, False, ())]])
    builder.write(
        4096, bytes(4096) if first_bucket else builder.superblocks[0].pack().replace(b"\x05\xe7", b"\xff\xff")
    )
    superblock = builder.superblocks[0]
    layout = KnownLayout(superblock.bucket_sectors, superblock.block_sectors, superblock.set_uuid)
    left = await read_corrected(builder.devices(), layout)
    await bring_back_lost(left)
    found = ranges(list(DirtyExtents.of(left).of_inode(0)))
    assert found == [(0, 8, SURE), (20, 4, SURE)]
