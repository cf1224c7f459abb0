# SPDX-License-Identifier: GPL-2.0-only
"""Rescues of what the kernel wrote, damaged one structure at a time, against what the kernel itself read.

Whatever is damaged, no sector of the backing device that was right may be wrong afterwards, and what is
called sure is right to the byte.
"""

from collections.abc import AsyncIterator, Callable
from random import Random

import pytest

from bcached.store.rescue.remains.doubts import Confidence
from instruments.samples.damaged_kernel_image import (
    Damage,
    Rescued,
    backing_bytes,
    bsets,
    erase,
    flip,
    garble,
    journal_entries,
    rescued,
    structures,
    wrong_sectors,
)

pytestmark = pytest.mark.timeout(600)  # each damage is a rescue of 32 or 64 MiB
DIRTY = {"clean": 27129, "crash": 48167, "flash": 19964}
SHARE = 0.4  # of the damages: make repair-test tries each, and pairs of them
every_image = pytest.mark.parametrize("name", DIRTY)
SECTOR = 512


def assert_harmless(name: str, found: Rescued) -> None:
    """All that was written is right, and it is as many sectors as were called sure."""
    before, after = wrong_sectors(name, backing_bytes(name)), wrong_sectors(name, found.contents)
    assert after <= before, "sectors that were right are wrong now"
    assert after & found.sectors == set(), "what was called sure is wrong"
    assert found.written.written_sectors == len(found.sectors) == found.sure
    assert found.written.is_verified or found.refused


@every_image
async def test_all_of_it_comes_back_from_a_sound_set(name: str) -> None:
    found = await rescued(name)
    assert (found.sure, found.found) == (DIRTY[name], DIRTY[name])
    assert wrong_sectors(name, found.contents) == set()


async def test_a_writethrough_cache_has_nothing_to_rescue() -> None:
    assert (await rescued("full-lru")).found == 0


async def damages(
    name: str, random: Random, spoil: Callable[[int], Damage]
) -> AsyncIterator[tuple[str, Damage]]:
    """Each structure spoilt by itself, at a byte anywhere in what it uses."""
    checked, nodes = await structures(name)
    superblock = checked.members[0].superblock
    bucket_bytes = superblock.bucket_sectors * SECTOR
    for byte in (0, 40, 60, 104, 150, 192, 194, 204, 206, 208):
        yield f"superblock byte {byte}", spoil(4096 + byte)
    entries = list(journal_entries(checked))
    for seq, byte, length in entries:
        yield f"entry {seq}", spoil(byte + random.randrange(length))
    ((prio, _),) = checked.chains[0]
    yield "prios", spoil(prio * bucket_bytes + random.randrange(bucket_bytes))
    for level in (0, 1):
        all_of_them = list(bsets(nodes, level))
        for byte, length in random.sample(all_of_them, min(len(all_of_them), 8)):
            yield f"bset of level {level} at {byte}", spoil(byte + random.randrange(length))


async def erasures(name: str, random: Random) -> AsyncIterator[tuple[str, Damage]]:
    """Each structure erased by itself."""
    checked, nodes = await structures(name)
    bucket_bytes = checked.members[0].superblock.bucket_sectors * SECTOR
    yield "superblock magic", erase(4096 + 24, 16)
    yield "superblock", erase(4096, 4096)
    # Without a trace of the newest there is no way to know of it.
    for seq, byte, _ in random.sample(list(journal_entries(checked))[:-1], 2):
        yield f"entry {seq}", erase(byte, SECTOR)
    ((prio, _),) = checked.chains[0]
    yield "prios", erase(prio * bucket_bytes, bucket_bytes)
    assert checked.journal is not None
    table = checked.journal.newest.uuid_bucket.pointers[0].sector * SECTOR
    yield "uuid table", erase(table, bucket_bytes)
    yield "volume", garble(table + random.randrange(128), random)
    for byte, _ in random.sample(list(bsets(nodes, 0)), 2):
        yield f"bset at {byte}", erase(byte, SECTOR)
    for node in nodes:
        length = node.key.sectors * SECTOR
        yield f"node of level {node.level}", erase(node.key.pointers[0].sector * SECTOR, length)


@every_image
@pytest.mark.parametrize("kind", ["garbled", "erased"])
async def test_no_damage_makes_a_sector_wrong_that_was_right(name: str, kind: str) -> None:
    random = Random(name)
    each = (
        damages(name, random, lambda byte: garble(byte, random))
        if kind == "garbled"
        else erasures(name, random)
    )
    async for what, damage in each:
        if random.random() > SHARE:
            continue
        found = await rescued(name, damage)
        try:
            assert_harmless(name, found)
        except AssertionError as error:
            raise AssertionError(f"{name}: {what}: {error}") from error


@every_image
async def test_a_single_wrong_bit_anywhere_costs_nothing(name: str) -> None:
    random = Random(name)
    async for what, damage in damages(name, random, flip):
        if random.random() > SHARE:
            continue
        found = await rescued(name, damage)
        assert (found.sure, found.refused) == (DIRTY[name], ""), what
        assert wrong_sectors(name, found.contents) == set(), what


async def test_prios_that_were_discarded_cost_nothing_but_a_few_doubts() -> None:
    checked, _ = await structures("crash")
    ((prio, _),) = checked.chains[0]
    found = await rescued("crash", erase(prio << 16, 1 << 16))
    assert found.found == DIRTY["crash"]
    assert found.sure > 0.97 * DIRTY["crash"]
    everything = await rescued("crash", erase(prio << 16, 1 << 16), Confidence.NEWEST)
    assert wrong_sectors("crash", everything.contents) == set()


@pytest.mark.parametrize("are_prios_lost", [False, True])
async def test_leaves_are_found_without_the_root(are_prios_lost: bool) -> None:
    checked, nodes = await structures("clean")
    (root,) = [node.key for node in nodes if node.level == 1]
    ((prio, _),) = checked.chains[0]
    bucket_bytes = checked.members[0].superblock.bucket_sectors * SECTOR

    def damage(raw: bytearray) -> None:
        erase(root.pointers[0].sector * SECTOR, root.sectors * SECTOR)(raw)
        if are_prios_lost:
            erase(prio * bucket_bytes, bucket_bytes)(raw)

    found = await rescued("clean", damage, Confidence.NEWEST)
    assert found.found == DIRTY["clean"]
    assert found.sure < 0.05 * DIRTY["clean"]
    assert wrong_sectors("clean", found.contents) == set()


@every_image
async def test_without_any_journal_entry_the_leaves_are_found_and_none_is_sure(name: str) -> None:
    checked, _ = await structures(name)
    geometry = checked.censuses[0].geometry
    first = geometry.byte_of(geometry.journal_buckets.start)
    gone = erase(first, len(geometry.journal_buckets) * geometry.bucket_bytes)
    found = await rescued(name, gone)
    assert (found.sure, found.refused, found.contents) == (0, "", backing_bytes(name))
    everything = await rescued(name, gone, Confidence.NEWEST)
    assert len(everything.sectors - wrong_sectors(name, everything.contents)) > 0.9 * DIRTY[name]


async def test_a_wiped_magic_costs_nothing() -> None:
    found = await rescued("crash", erase(4096 + 24, 16))
    assert found.sure == DIRTY["crash"]
    assert wrong_sectors("crash", found.contents) == set()


async def test_bsets_behind_a_bad_one_are_used() -> None:
    _, nodes = await structures("crash")
    first, *_ = bsets(nodes, 0)
    found = await rescued("crash", garble(first[0] + 40, Random(1)))
    assert found.sure > 0.5 * DIRTY["crash"]


async def test_entries_behind_a_hole_are_used_and_are_sure() -> None:
    checked, _ = await structures("crash")
    holes = {seq: byte for seq, byte, _ in journal_entries(checked)}
    found = await rescued("crash", erase(holes[255], SECTOR))
    assert 0 < found.sure < found.found
    assert found.totals.sectors[Confidence.NEWEST] > 0.9 * DIRTY["crash"]
