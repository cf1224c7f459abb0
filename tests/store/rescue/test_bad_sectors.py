# SPDX-License-Identifier: GPL-2.0-only
"""Sets on devices that fail in places: what is around the bad sectors is used, and nothing is guessed."""

from collections.abc import Iterator

import pytest

from bcached.errors import BcachedError, SetRefused
from bcached.keys import Key
from bcached.store.btree.node_reader import NodeFound
from bcached.store.check.checker import CheckedSet, check_set
from bcached.store.finding import Findings
from bcached.store.rescue.backing_check import CheckedBacking, check_backing
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.data_check import DataCheck
from bcached.store.rescue.dirty_extents import DirtyExtents
from bcached.store.rescue.owner_of import Owner
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.lost_keys import bring_back_lost
from bcached.store.rescue.remains.superblock_left import KnownLayout
from bcached.store.rescue.rescue import Rescue
from bcached.store.rescue.unreadable import Unreadable
from bcached.store.rescue.write_back import DirtyDataWriter, Written
from bcached.store.unread_device import UnreadDevice
from instruments.devices.bad_sectors import BadSectorsDevice
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import (
    backing_bytes,
    journal_entries,
    structures,
    wrong_sectors,
)
from instruments.samples.kernel_images import image_bytes

DIRTY = {"crash": 48167, "clean": 27129}
SECTOR = 512


def device(name: str, *bad: range) -> BadSectorsDevice:
    return BadSectorsDevice(MemoryDevice.holding(image_bytes(name)), bad)


async def extents_of(cache: BadSectorsDevice, layout: KnownLayout | None = None) -> DirtyExtents:
    left = await read_corrected([cache], layout)
    await bring_back_lost(left)
    return DirtyExtents.of(left)


async def written(name: str, cache: BadSectorsDevice, layout: KnownLayout | None = None) -> Written:
    """Write what is sure to a copy of the backing device: nothing of it is wrong afterwards."""
    extents = await extents_of(cache, layout)
    target = MemoryDevice.holding(backing_bytes(name))
    sure = [one for one in extents.of_inode(0) if one.confidence == Confidence.SURE]
    done = await DirtyDataWriter([cache], Unreadable([cache.size_bytes // SECTOR]), target).run(sure)
    wrong = wrong_sectors(name, target.image())
    assert wrong <= wrong_sectors(name, backing_bytes(name))
    assert len(
        wrong & {sector for one in sure for sector in range(one.offset, one.offset + one.sectors)}
    ) == (done.unreadable_sectors)
    return done


def places(nodes: list[NodeFound]) -> Iterator[tuple[str, int]]:
    """The first, a middle and the last sector of the last leaf, and of the root."""
    for node in {id(node): node for node in (nodes[0], nodes[-1])}.values():
        first = node.key.pointers[0].sector
        middle = node.bsets[len(node.bsets) // 2].offset_bytes // SECTOR
        yield "first", first
        yield "middle", first + middle
        yield "last", first + node.key.sectors - 1


@pytest.mark.parametrize("name", ["crash", "clean"])
async def test_a_bad_sector_of_a_node_costs_no_more_than_what_it_may_have_hidden(name: str) -> None:
    _, nodes = await structures(name)
    for what, sector in places(nodes):
        cache = device(name, range(sector, sector + 1))
        done = await written(name, cache)
        if what == "last":
            assert done.written_sectors == DIRTY[name], "its bsets end before"
        assert done.written_sectors < DIRTY[name] or what != "middle", "it may hide something newer"
    assert "node-damaged" in (await check_set([cache])).findings.counts


async def test_a_leaf_whose_first_sector_is_bad_gives_the_keys_behind_it() -> None:
    _, nodes = await structures("crash")
    sector = nodes[-1].key.pointers[0].sector
    assert (await written("crash", device("crash", range(sector, sector + 1)))).written_sectors == DIRTY[
        "crash"
    ]


async def test_any_other_structure_may_be_unreadable() -> None:
    checked, _ = await structures("crash")
    for sector in other_places(checked):
        await written("crash", device("crash", range(sector, sector + 1)))


def other_places(checked: CheckedSet) -> list[int]:
    assert checked.journal is not None
    bucket = checked.censuses[0].geometry.bucket_sectors
    entries = [byte // SECTOR for _, byte, _ in journal_entries(checked)]
    uuids = checked.journal.newest.uuid_bucket.pointers[0].sector
    return [checked.chains[0][0][0] * bucket, uuids, entries[0], entries[-1]]


async def test_an_unreadable_superblock_is_replaced_by_what_the_owner_says() -> None:
    checked, _ = await structures("crash")
    superblock = checked.members[0].superblock
    cache = device("crash", range(8, 16))
    with pytest.raises(SetRefused, match="--geometry"):
        await extents_of(cache)
    layout = KnownLayout(superblock.bucket_sectors, superblock.block_sectors, superblock.set_uuid)
    assert (await written("crash", cache, layout)).written_sectors == DIRTY["crash"]
    with pytest.raises(BcachedError):
        await extents_of(device("crash", range(1 << 20)), layout)


async def some_keys(*, dirty: bool) -> list[Key]:
    checked, _ = await structures("crash")
    assert checked.tree is not None
    keys = [key for rows in checked.tree.rows.chunks() for key in rows]
    return [key for key in keys if key.dirty == dirty and key.sectors > 8]


async def test_of_data_only_the_bad_sectors_are_lost() -> None:
    key = (await some_keys(dirty=True))[3]
    bad = range(key.pointers[0].sector + 2, key.pointers[0].sector + 5)
    done = await written("crash", device("crash", bad))
    assert (done.unreadable_sectors, done.unreadable_extents) == (3, 1)
    assert done.written_sectors == DIRTY["crash"] - 3


async def test_of_an_extent_that_a_copy_lacks_in_part_the_rest_is_counted_as_it_is_written() -> None:
    key = (await some_keys(dirty=True))[3]
    bad = range(key.pointers[0].sector + 2, key.pointers[0].sector + 5)
    copy = UnreadDevice(MemoryDevice.holding(image_bytes("crash")), [bad], "cache.map")
    left = await read_corrected([copy])
    rescue = Rescue(DirtyExtents.of(left), Owner(0), Confidence.SURE, Unreadable.of(left.members))
    rescue.count()
    sure = Confidence.SURE
    assert (rescue.totals.sectors[sure], rescue.lost.sectors[sure]) == (DIRTY["crash"] - 3, 3)
    assert (rescue.lost.extents[sure], rescue.unreadable_sectors) == (1, 3)
    target = MemoryDevice.holding(backing_bytes("crash"))
    await rescue.write(target, 16, lambda _: None)
    assert rescue.done.written_sectors == DIRTY["crash"] - 3
    assert (rescue.unreadable_sectors, rescue.unreadable_extents) == (3, 1)
    assert wrong_sectors("crash", target.image()) == set(range(key.offset + 2, key.offset + 5))


async def test_a_reading_of_the_data_names_them_and_compares_the_rest() -> None:
    dirty, clean = (await some_keys(dirty=True))[3], (await some_keys(dirty=False))[3]
    bad = [range(key.pointers[0].sector + 2, key.pointers[0].sector + 5) for key in (dirty, clean)]
    cache = device("crash", *bad)
    contents = bytearray(backing_bytes("crash"))
    for sector in (clean.offset, clean.offset + 2):  # the latter is one that the cache cannot read
        contents[sector * SECTOR : (sector + 1) * SECTOR] = b"y" * SECTOR
    backing, findings = MemoryDevice.holding(contents), Findings()
    extents = await extents_of(cache)
    unreadable = Unreadable([cache.size_bytes // SECTOR])
    pair: CheckedBacking = await check_backing(extents, backing, unreadable, findings.report)
    assert findings.listed == []
    done = await DataCheck(extents.left, unreadable, {0: pair}, findings.report).run()
    assert (done.unreadable_dirty_sectors, done.unreadable_clean_sectors, done.unreadable_extents) == (
        3,
        3,
        2,
    )
    assert (done.different_sectors, done.different_extents) == (1, 1)
    assert done.compared_sectors == done.clean_sectors - 3
    assert {(it.rule, it.where.split(",")[0]) for it in findings.listed} == {
        ("data-unreadable", f"inode 0 sector {dirty.offset}"),
        ("data-unreadable", f"inode 0 sector {clean.offset}"),
        ("data-differs", f"inode 0 sector {clean.offset}"),
    }


async def test_a_backing_device_with_bad_sectors_is_told_apart() -> None:
    clean = (await some_keys(dirty=False))[3]
    cache, findings = device("crash"), Findings()
    backing = BadSectorsDevice(MemoryDevice.holding(backing_bytes("crash")), [range(clean.offset, clean.end)])
    extents = await extents_of(cache)
    unreadable = Unreadable([cache.size_bytes // SECTOR])
    pair = await check_backing(extents, backing, unreadable, findings.report)
    done = await DataCheck(extents.left, unreadable, {0: pair}, findings.report).run()
    assert done.unreadable_extents == 0
    assert [it.rule for it in findings.listed] == ["backing-unreadable"]


async def test_a_bad_sector_of_the_journal_costs_the_entry_in_it_and_what_that_leaves_in_doubt() -> None:
    checked, _ = await structures("crash")
    entries = {seq: byte // SECTOR for seq, byte, _ in journal_entries(checked)}
    newest = max(entries)
    counts = {}
    for what, sector in (
        ("needed", entries[255]),
        ("newest", entries[newest]),
        ("behind the newest", entries[newest] + 1),
        ("further behind", entries[newest] + 2),
        ("the next bucket's first", (entries[newest] // 128 + 1) * 128),
    ):
        done = await written("crash", device("crash", range(sector, sector + 1)))
        counts[what] = done.written_sectors
        assert (
            "journal-unreadable"
            in (await check_set([device("crash", range(sector, sector + 1))])).findings.counts
        )
    whole = DIRTY["crash"]
    assert [what for what, count in counts.items() if count == whole] == ["further behind"]
    assert 0 < counts["needed"] < whole
    assert counts["newest"] == counts["behind the newest"] == 0
