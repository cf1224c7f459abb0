# SPDX-License-Identifier: GPL-2.0-only
"""A tree and the journal on top of it, read back against a model that knows every sector by itself."""

from random import Random

import pytest

from bcached.format.bkey import CHECK_DEVICE
from bcached.keys import Key, Pointer
from bcached.state.index.keys.interior_keys import position_of
from bcached.store.btree.node_reader import NodeFound
from bcached.store.check.checker import CheckedSet, check_set, read_metadata, read_tree
from instruments.samples.image_builder import MAX_POSITION, ImageBuilder, two_levels

Held = tuple[bool, int, int]  # dirty, sector on the device, gen
Model = dict[tuple[int, int], Held]
BOUNDARIES = [(0, 300), (0, 700), (1, 200), MAX_POSITION]


async def check(builder: ImageBuilder) -> CheckedSet:
    return await check_set(builder.devices())


async def nodes_of(builder: ImageBuilder) -> list[NodeFound]:
    return [node async for node in read_tree(await read_metadata(builder.devices()))]


def live_sectors(found: CheckedSet) -> Model:
    """Every live sector of the index."""
    assert found.tree is not None
    live: Model = {}
    for rows in found.tree.rows.chunks():
        for key in rows:
            (pointer,) = key.pointers
            if found.staleness(pointer) == 0:
                for step in range(key.sectors):
                    assert (key.inode, key.offset + step) not in live
                    live[key.inode, key.offset + step] = (key.dirty, pointer.sector + step, pointer.gen)
    return live


def sectors_of(key: Key) -> Model:
    """What a key says of each of its sectors."""
    return {
        (key.inode, key.offset + step): (key.dirty, pointer.sector + step, pointer.gen)
        for step in range(key.sectors)
        for pointer in key.pointers
        if pointer.device != CHECK_DEVICE
    }


def lay(model: Model, key: Key) -> None:
    """A later key takes the place of what it covers."""
    for step in range(key.sectors):
        model.pop((key.inode, key.offset + step), None)
    model |= sectors_of(key)


class Scene:
    """A random tree of two levels, whose leaves have several bsets, and a journal."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.builder = ImageBuilder()
        self.model: Model = {}
        self.seen: list[Held] = []
        self.buckets = [self.builder.bucket() for _ in range(12)]
        for bucket in self.buckets:
            # A few are invalidated since: what points there with gen 0 is stale.
            self.builder.gens[0][bucket] = self.rng.choice([0, 0, 0, 1])

    def key(self, low: tuple[int, int], high: tuple[int, int]) -> Key:
        """Any key between two positions; its data is anywhere, and not dirty, so that it may be stale."""
        inode = self.rng.randint(low[0], min(high[0], 2))
        start = low[1] if inode == low[0] else 0
        end = min(high[1], 1000) if inode == high[0] else 1000
        offset = self.rng.randrange(start, end)
        sectors = self.rng.randint(1, min(40, end - offset))
        place = self.rng.choice(self.buckets) * 64 + self.rng.randrange(64 - sectors)
        pointers: tuple[Pointer, ...] = (Pointer(0, place, self.rng.choice([0, 1])),)
        if self.rng.random() < 0.15:
            pointers = self.rng.choice([(), (Pointer(CHECK_DEVICE, 0, 0),)])
        return Key(inode, offset, sectors, False, pointers)

    def bset(self, low: tuple[int, int], high: tuple[int, int]) -> list[Key]:
        """Keys in order that do not overlap."""
        kept: list[Key] = []
        for key in sorted((self.key(low, high) for _ in range(12)), key=lambda key: (key.inode, key.offset)):
            if not kept or position_of(kept[-1]) <= (key.inode, key.offset):
                kept.append(key)
        for key in kept:
            lay(self.model, key)
        return kept

    def build(self) -> ImageBuilder:
        leaves, low = [], (0, 0)
        for high in BOUNDARIES:
            bsets = [self.bset(low, high) for _ in range(self.rng.randint(1, 4))]
            leaves.append(self.builder.node(*bsets, position=high))
            low = high
        self.builder.volumes = [*self.builder.volumes, None]
        root = self.builder.node(leaves)
        self.seen = list(self.model.values())
        journal = [[self.key((0, 0), (2, 1000)) for _ in range(6)] for _ in range(5)]
        for keys in journal:
            for key in keys:
                lay(self.model, key)
                self.seen += sectors_of(key).values()
        return self.builder.finish(root, 1, journal)

    def live(self) -> Model:
        """Of what is on top, what is not stale. Leaves' keys below the journal's raise gens nevertheless."""
        gens = {bucket: int(self.builder.gens[0][bucket]) for bucket in self.buckets}
        for _, sector, gen in self.seen:
            gens[sector // 64] = max(gens[sector // 64], gen)
        return {place: held for place, held in self.model.items() if held[2] == gens[held[1] // 64]}


@pytest.mark.parametrize("seed", range(60))
async def test_the_later_key_wins_and_staleness_is_judged_last(seed: int) -> None:
    scene = Scene(seed)
    found = await check(scene.build())
    assert live_sectors(found) == scene.live()
    assert found.totals.clean_sectors == len(scene.live())
    (census,) = found.censuses
    for bucket in scene.buckets:
        of_bucket = [held for held in scene.live().values() if held[1] // 64 == bucket]
        assert census.sectors[bucket] == len(of_bucket)


async def test_a_stale_key_at_replay_cuts_what_it_overlaps() -> None:
    builder = ImageBuilder()
    old, new = builder.extent(0, 0, 24), builder.extent(0, 8, 8)
    builder.gens[0][new.pointers[0].sector // 64] = 1
    found = await check(builder.finish(builder.node([old]), 0, [[new]]))
    assert {sector for _, sector in live_sectors(found)} == {*range(8), *range(16, 24)}


async def test_a_journalled_key_over_two_leaves_cuts_in_both() -> None:
    builder = ImageBuilder()
    root, _ = two_levels(builder)
    found = await check(builder.finish(root, 1, [[builder.extent(0, 990, 40)]]))
    live = live_sectors(found)
    assert all((0, sector) in live for sector in range(990, 1030))
    assert found.tree is not None
    places = [live[0, sector][1] for sector in range(990, 1030)]
    assert places == list(range(places[0], places[0] + 40))


async def test_nodes_come_parents_first_and_from_left_to_right() -> None:
    builder = ImageBuilder()
    leaves = [builder.node([], position=(0, end)) for end in (10, 20, 30)] + [builder.node([])]
    middles = [builder.node(leaves[:2], position=(0, 20)), builder.node(leaves[2:])]
    root = builder.node(middles)
    found = await nodes_of(builder.finish(root, 2))
    assert [node.key for node in found] == [root, middles[0], *leaves[:2], middles[1], *leaves[2:]]
    assert [node.level for node in found] == [2, 1, 0, 0, 1, 0, 0]
    assert [node.low for node in found if node.level == 0] == [(0, 0), (0, 10), (0, 20), (0, 30)]


async def test_a_node_is_as_long_as_its_key_says_wherever_it_begins() -> None:
    builder = ImageBuilder()
    bucket = builder.bucket()
    key = Key(MAX_POSITION[0], MAX_POSITION[1] - 24, 24, False, (Pointer(0, bucket * 64 + 16, 0),))
    extent = builder.extent(0, 0, 8)
    found = await check(builder.finish(builder.write_node(key, [extent])))
    assert found.findings.listed == []
    assert found.totals.live_keys == 1


async def test_a_pointer_ahead_of_the_disk_raises_its_bucket_s_gen() -> None:
    builder = ImageBuilder()
    key = builder.extent(0, 0, 8, gen=5)
    bucket = key.pointers[0].sector // 64
    older = Key(0, 100, 8, False, (Pointer(0, bucket * 64 + 8, 2),))
    found = await check(builder.finish(builder.node([key, older])))
    (census,) = found.censuses
    assert (census.gens_on_disk[bucket], census.gens[bucket], census.oldest[bucket]) == (0, 5, 2)
    assert (found.totals.keys, found.totals.live_keys) == (2, 1)


async def test_a_key_below_the_journal_s_has_had_its_gen() -> None:
    builder = ImageBuilder()
    old, twice = builder.extent(0, 0, 8, gen=5), builder.extent(0, 0, 8, gen=4)
    older = Key(0, 100, 8, False, (Pointer(0, old.pointers[0].sector, 2),))
    above = [twice, Key(0, 0, 200, False, ())]
    found = await check(builder.finish(builder.node([old, older]), 0, [above]))
    (census,) = found.censuses
    bucket = old.pointers[0].sector // 64
    assert (census.gens[bucket], census.oldest[bucket], census.sectors[bucket]) == (5, 2, 0)
    assert census.gens[twice.pointers[0].sector // 64] == 4
    assert found.totals.keys == 0


async def test_gens_wrap() -> None:
    builder = ImageBuilder()
    key = builder.extent(0, 0, 8, gen=3)
    bucket = key.pointers[0].sector // 64
    builder.gens[0][bucket] = 250
    older = Key(0, 100, 8, False, (Pointer(0, bucket * 64 + 8, 249),))
    found = await check(builder.finish(builder.node([key, older])))
    (census,) = found.censuses
    assert (census.gens[bucket], census.oldest[bucket]) == (3, 249)
    assert found.totals.live_keys == 1


async def test_a_freed_node_s_bucket_has_the_gen_of_its_freeing_key() -> None:
    builder = ImageBuilder()
    old = builder.node([builder.extent(0, 0, 8)], gen=4)
    new = builder.node([builder.extent(0, 0, 8)])
    found = await check(builder.finish(builder.node([old], [builder.freeing(old), new]), 1))
    (census,) = found.censuses
    assert census.gens[old.pointers[0].sector // 64] == 5
    assert census.sectors[old.pointers[0].sector // 64] == 0
    assert census.sectors[new.pointers[0].sector // 64] == 64


async def test_leaves_on_several_members_make_one_index() -> None:
    builder = ImageBuilder(members=3)
    extents = [[builder.extent(0, 100 * n, 8, member=n)] for n in range(3)]
    ends = [(0, 100), (0, 200), MAX_POSITION]
    leaves = [builder.node(extents[n], position=ends[n], member=2 - n) for n in range(3)]
    found = await check(builder.finish(builder.node(leaves, member=1), 1))
    assert found.findings.listed == []
    assert found.totals.live_keys == 3
    assert [int(census.sectors.sum()) for census in found.censuses] == [72, 72 + 64, 72]
