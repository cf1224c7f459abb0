# SPDX-License-Identifier: GPL-2.0-only
"""What entries of the journal still name that no leaf needs any more comes back if the leaf is lost."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random

import pytest

from bcached.keys import Key, Pointer
from bcached.runtime.index.lookups import LookupRequest
from bcached.runtime.lifetime import running
from bcached.store.check.checker import read_metadata, read_tree
from bcached.store.repair.needs import StepOption
from bcached.store.repair.plan import plan_repair
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtent, DirtyExtents
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.lost_keys import bring_back_lost
from bcached.store.rescue.remains.set_left import SetLeft
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import (
    backing_bytes,
    erase,
    image_bytes,
    rescued,
    structures,
    wrong_sectors,
)
from instruments.samples.image_builder import ImageBuilder, Keys, with_superblock
from instruments.samples.living_set import extent, fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time

SURE, NEWEST, CONFLICTING = Confidence
PATIENCE_S = 30.0
FIRST = 5  # the seq of the oldest entry: what was in front of it is overwritten


def in_use() -> ImageBuilder:
    """A set that discards, so that the bucket behind the newest entry may be blank."""
    builder = ImageBuilder()
    builder.superblocks = [with_superblock(one, discard=True) for one in builder.superblocks]
    return builder


def write_journal(builder: ImageBuilder, journal: Sequence[Keys], needed: int = 1) -> None:
    """Entries one behind the other, of which only the last ones are needed."""
    byte = builder.geometry.byte_of(builder.superblocks[0].journal_buckets[1])
    newest = FIRST + len(journal) - 1
    for seq, keys in enumerate(journal, FIRST):
        last_seq = min(seq, newest - needed + 1)
        byte = builder.write_entry(builder.entry(seq, last_seq, keys), byte)


def made(journal: Sequence[Keys], *, needed: int = 1, builder: ImageBuilder) -> ImageBuilder:
    """A set of one leaf that has what these entries name, but for those that are needed."""
    leaf = builder.node(*(keys for keys in journal[: len(journal) - needed] if keys))
    builder.finish(leaf)
    write_journal(builder, journal, needed)
    return builder


def lose(builder: ImageBuilder, node: Key) -> None:
    """Erase a node."""
    builder.write(builder.byte_of(node), bytes(node.sectors * 512), node.pointers[0].device)


async def read(builder: ImageBuilder) -> SetLeft:
    left = await read_corrected(builder.devices())
    await bring_back_lost(left)
    return left


async def dirty(builder: ImageBuilder) -> list[DirtyExtent]:
    extents = DirtyExtents.of(await read(builder)).of_inode(0)
    return sorted(extents, key=lambda extent: extent.offset)


async def found(builder: ImageBuilder) -> list[tuple[int, int, Confidence]]:
    return [(extent.offset, extent.sectors, extent.confidence) for extent in await dirty(builder)]


def four(builder: ImageBuilder) -> list[Key]:
    """Dirty keys of eight sectors each, in a row."""
    return [builder.extent(0, 8 * n, 8, dirty=True) for n in range(4)]


async def test_keys_of_a_lost_leaf_come_back_from_old_entries_and_are_not_sure() -> None:
    builder = in_use()
    keys = four(builder)
    made([keys[:2], keys[2:], []], builder=builder)
    assert await found(builder) == [(8 * n, 8, SURE) for n in range(4)]
    lose(builder, builder.root)
    assert await found(builder) == [(8 * n, 8, NEWEST) for n in range(4)]
    left = await read(builder)
    assert left.old_keys is not None
    assert (left.old_keys.sectors, left.old_keys.first_seq, left.old_keys.last_seq) == (32, FIRST, FIRST + 1)


async def test_nothing_is_taken_from_them_while_no_leaf_is_lost() -> None:
    builder = in_use()
    kept, gone = (builder.extent(0, 8 * n, 8, dirty=True) for n in range(2))
    builder.finish(builder.node([kept]))
    write_journal(builder, [[gone], [kept], []])
    assert (await read(builder)).old_keys is None
    assert await found(builder) == [(0, 8, SURE)]


async def test_a_newer_entry_wins_whatever_it_says() -> None:
    builder = in_use()
    keys = four(builder)
    newer = builder.extent(0, 4, 8, dirty=True)
    cleaned = Key(0, 16, 8, False, keys[2].pointers)
    deletion = Key(0, 28, 4, False, ())
    made([keys, [newer], [cleaned, deletion], []], builder=builder)
    lose(builder, builder.root)
    assert await found(builder) == [(0, 4, NEWEST), (4, 8, NEWEST), (12, 4, NEWEST), (24, 4, NEWEST)]
    copies = [extent.copies[0].sector for extent in await dirty(builder)]
    assert copies[1] == newer.pointers[0].sector
    old = (await read(builder)).old_keys
    assert old is not None
    assert old.sectors == 20


async def test_entries_that_are_needed_win() -> None:
    builder = in_use()
    keys = four(builder)
    newer = builder.extent(0, 0, 8, dirty=True)
    made([keys, [newer], [Key(0, 8, 8, False, ())]], needed=2, builder=builder)
    lose(builder, builder.root)
    assert await found(builder) == [(0, 8, SURE), (16, 8, NEWEST), (24, 8, NEWEST)]


@pytest.mark.parametrize("bumped", [1, 127])
async def test_a_key_with_an_old_gen_stays_away(bumped: int) -> None:
    builder = in_use()
    keys = four(builder)
    builder.gens[0][builder.geometry.bucket_of(keys[1].pointers[0].sector)] = bumped
    made([keys, []], builder=builder)
    lose(builder, builder.root)
    assert await found(builder) == [(0, 8, NEWEST), (16, 8, NEWEST), (24, 8, NEWEST)]


def lose_prios(builder: ImageBuilder) -> None:
    builder.write(builder.geometry.byte_of(builder.prio_buckets[0][0]), bytes(builder.geometry.bucket_bytes))


def of_gen(key: Key, gen: int) -> Key:
    (pointer,) = key.pointers
    return Key(key.inode, key.offset, key.sectors, key.dirty, (Pointer(pointer.device, pointer.sector, gen),))


async def test_without_prios_the_newest_gen_that_an_entry_names_counts() -> None:
    builder = in_use()
    keys = four(builder)
    made([keys, []], builder=builder)
    lose(builder, builder.root)
    lose_prios(builder)
    assert await found(builder) == [(8 * n, 8, NEWEST) for n in range(4)]
    builder = in_use()
    keys = four(builder)
    bucket = builder.geometry.bucket_of(keys[1].pointers[0].sector)
    again = of_gen(Key(0, 800, 8, False, keys[1].pointers), 1)
    assert [builder.geometry.bucket_of(key.pointers[0].sector) for key in keys].count(bucket) == 1
    builder.gens[0][bucket] = 1
    made([keys, [again], []], builder=builder)
    lose(builder, builder.root)
    lose_prios(builder)
    assert await found(builder) == [(0, 8, NEWEST), (16, 8, NEWEST), (24, 8, NEWEST)]


async def test_without_prios_a_key_into_what_is_a_node_now_stays_away() -> None:
    builder = in_use()
    keys = four(builder)
    root = builder.node(keys)
    (pointer,) = root.pointers
    inside = Key(0, 80, 8, True, (Pointer(pointer.device, pointer.sector, pointer.gen),))
    builder.finish(root)
    write_journal(builder, [[*keys, inside], []])
    lose(builder, builder.root)
    lose_prios(builder)
    assert await found(builder) == [(8 * n, 8, NEWEST) for n in range(4)]


async def test_a_gap_ends_what_is_used() -> None:
    builder = in_use()
    keys = four(builder)
    made([*([key] for key in keys), []], builder=builder)
    lose(builder, builder.root)
    builder.write(builder.entries[FIRST + 1][1], bytes(512))
    assert await found(builder) == [(16, 8, NEWEST), (24, 8, NEWEST)]


async def test_so_does_an_entry_that_is_there_with_other_keys_too() -> None:
    builder = in_use()
    keys = four(builder)
    made([*([key] for key in keys), []], builder=builder)
    lose(builder, builder.root)
    other = builder.entry(FIRST + 1, FIRST, [builder.extent(0, 100, 8, dirty=True)])
    builder.write_entry(other, builder.geometry.byte_of(builder.superblocks[0].journal_buckets[3]))
    assert [offset for offset, _, _ in await found(builder)] == [16, 24]


async def test_without_the_newest_entry_no_old_one_is_used() -> None:
    builder = in_use()
    keys = four(builder)
    made([keys, [], [builder.extent(0, 100, 8, dirty=True)]], builder=builder)
    lose(builder, builder.root)
    assert len(await found(builder)) == 5
    byte = builder.entries[FIRST + 2][1]
    builder.write(byte + 200, b"garbled!")
    left = await read(builder)
    assert left.old_keys is None
    assert not left.journal.is_whole


async def test_bsets_behind_the_damage_win_and_those_before_give_way() -> None:
    builder = in_use()
    oldest, cleaned = builder.extent(0, 0, 16, dirty=True), builder.extent(0, 16, 8, dirty=True)
    lost = builder.extent(0, 4, 8, dirty=True)
    moved = builder.extent(0, 8, 4, dirty=True)  # without an entry, as the kernel does it
    bsets = ([oldest, Key(0, 16, 8, False, cleaned.pointers)], [lost], [moved])
    builder.finish(builder.node(*bsets))
    write_journal(builder, [[cleaned], [lost], []])
    builder.write(builder.byte_of(builder.root) + builder.geometry.block_bytes + 40, b"garbled!")
    assert await found(builder) == [(0, 4, NEWEST), (4, 4, NEWEST), (8, 4, SURE), (12, 4, NEWEST)]
    assert [extent.copies[0].sector for extent in await dirty(builder)] == [
        oldest.pointers[0].sector,
        lost.pointers[0].sector,
        moved.pointers[0].sector,
        oldest.pointers[0].sector + 12,
    ]


def two_leaves(builder: ImageBuilder, *others: Key) -> tuple[list[Key], list[Key], Key]:
    """A root over two leaves; these, the four keys of the first, and the first one of the second."""
    keys, other = four(builder), builder.extent(0, 1000, 8, dirty=True)
    leaves = [
        builder.node(keys, position=(0, 1000)),
        builder.node([other, *others]),
    ]
    builder.finish(builder.node(leaves), level=1)
    return leaves, keys, other


async def test_only_the_range_of_the_lost_leaf_comes_back() -> None:
    builder = in_use()
    leaves, keys, other = two_leaves(builder)
    deleted = builder.extent(0, 1500, 8, dirty=True)
    crossing = builder.extent(0, 992, 16, dirty=True)
    write_journal(builder, [[*keys, deleted, crossing], []])
    lose(builder, leaves[0])
    assert await found(builder) == [
        *((8 * n, 8, NEWEST) for n in range(4)),
        (992, 8, NEWEST),
        (1000, 8, SURE),
    ]
    *_, behind = await dirty(builder)
    assert behind.copies[0].sector == other.pointers[0].sector


async def test_what_a_live_key_claims_too_is_conflicting_and_that_one_stays_sure() -> None:
    builder = in_use()
    where = builder.geometry.sector_of(builder.bucket())
    live = Key(0, 2000, 8, True, (Pointer(0, where + 4, 0),))
    leaves, keys, _ = two_leaves(builder, live)
    write_journal(builder, [[*keys, Key(0, 64, 8, True, (Pointer(0, where, 0),))], []])
    lose(builder, leaves[0])
    assert await found(builder) == [
        *((8 * n, 8, NEWEST) for n in range(4)),
        (64, 8, CONFLICTING),
        (1000, 8, SURE),
        (2000, 8, SURE),
    ]


async def test_below_a_lost_root_they_are_used_if_no_leaf_is_found() -> None:
    builder = in_use()
    leaves, keys, _ = two_leaves(builder)
    gone = builder.extent(0, 500, 8, dirty=True)
    write_journal(builder, [[gone], keys, []])
    lose(builder, builder.root)
    left = await read(builder)
    assert (left.found_leaves, left.old_keys) == (2, None)
    for leaf in leaves:
        lose(builder, leaf)
    assert await found(builder) == [*((8 * n, 8, NEWEST) for n in range(4)), (500, 8, NEWEST)]


async def test_a_repair_keeps_them_if_the_newest_found_are_to_stay() -> None:
    builder = in_use()
    made([four(builder), []], builder=builder)
    lose(builder, builder.root)
    steps = frozenset({StepOption.DROP_DAMAGED})
    for most, sectors in ((NEWEST, 32), (SURE, 0)):
        repair = await plan_repair(builder.devices(), Wishes(steps, most=most))
        (step,) = repair.steps
        assert step.keeps[0].startswith(f"{sectors} dirty sectors"), step.keeps
        assert step.loses_dirty
        assert repair.found.findings.sound


# A set that the daemon wrote, and sets that the kernel wrote


async def used(folder: Path, random: Random, writes: int) -> list[MemoryDevice]:
    """A set with dirty and clean data overwritten, cleaned and deleted, in buckets used many times."""
    devices = await fresh_members([520], 8 << 10)
    async with running(devices, set_options(folder, verify=False)) as cache_set:
        inode = await cache_set.volumes.create("plain")
        holder = cache_set.allocations.new_holder("client")
        index, seq = cache_set.index, 0
        for _ in range(writes):
            offset, sectors = 4 * random.randrange(300), random.choice([4, 8, 16])
            chance = random.random()
            if chance < 0.1:
                _, seq = await index.invalidate(inode, offset, sectors, PATIENCE_S)
            elif chance < 0.2:
                there = (await cache_set.lookups.lookup(LookupRequest(inode, offset, sectors))).keys
                if there:
                    _, seq = await index.mark_clean(there, PATIENCE_S)
            else:
                wanted = extent(sectors, inode=inode, offset=offset)
                (keys,) = await cache_set.allocations.allocate(holder, [wanted], PATIENCE_S)
                written = [Key(inode, key.offset, key.sectors, chance < 0.7, key.pointers) for key in keys]
                seq = await index.commit(holder, written, PATIENCE_S)
            if random.random() < 0.3:
                await index.durable(seq)
    return [device.reopen() for device in devices]


async def nodes_of(devices: Sequence[MemoryDevice]) -> AsyncIterator[Key]:
    """The keys of all nodes."""
    async for node in read_tree(await read_metadata(devices)):
        yield node.key


def places(left: SetLeft) -> dict[int, tuple[int, Confidence]]:
    """Where each dirty sector of the volume is on the device."""
    return {
        extent.offset + number: (extent.copies[0].sector + number, extent.confidence)
        for extent in DirtyExtents.of(left).of_inode(0)
        for number in range(extent.sectors)
    }


@pytest.mark.parametrize(("writes", "share"), [(60, 1.0), (3000, 0.3)])
@in_virtual_time
async def test_all_that_comes_back_of_a_used_set_is_where_it_was(
    writes: int, share: float, tmp_path: Path
) -> None:
    devices = await used(tmp_path, Random(writes), writes)
    left = await read_corrected(devices)
    await bring_back_lost(left)
    before = places(left)
    assert left.old_keys is None
    for node in [key async for key in nodes_of(devices)]:
        await devices[0].write(node.pointers[0].sector * 512, bytes(node.sectors * 512))
    left = await read_corrected(devices)
    assert len(places(left)) < 0.1 * len(before)
    await bring_back_lost(left)
    after = places(left)
    assert len(after) >= share * len(before)
    assert {sector: place for sector, (place, _) in after.items()}.items() <= {
        sector: place for sector, (place, _) in before.items()
    }.items()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["clean", "crash", "flash"])
async def test_what_the_kernel_wrote_comes_back_while_the_ring_has_it(name: str) -> None:
    checked, nodes = await structures(name)
    assert checked.journal is not None
    assert min(checked.journal.sound_by_seq()) == 1

    def damage(raw: bytearray) -> None:
        for node in nodes:
            erase(node.key.pointers[0].sector * 512, node.key.sectors * 512)(raw)

    lacking = wrong_sectors(name, backing_bytes(name))
    sure = await rescued(name, damage)
    assert len(sure.sectors) < 0.2 * len(lacking)
    assert wrong_sectors(name, sure.contents) == lacking - sure.sectors
    newest = await rescued(name, damage, NEWEST)
    assert len(newest.sectors) == len(lacking)
    assert wrong_sectors(name, newest.contents) == set()


async def test_nothing_of_it_changes_what_is_found_in_sound_images() -> None:
    for name in ("clean", "crash", "flash"):
        left = await read_corrected([MemoryDevice.holding(image_bytes(name))])
        assert left.checked.tree is not None
        rows = left.checked.tree.rows.row_count
        await bring_back_lost(left)
        assert (left.old_keys, left.checked.tree.rows.row_count) == (None, rows)
