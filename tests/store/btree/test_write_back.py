# SPDX-License-Identifier: GPL-2.0-only
"""The index on a device against a model that knows every sector, through any life and any cut."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from bcached.errors import BadChecksum, DeviceError
from bcached.keys import Key, Pointer
from bcached.state.index.node import Interior, Leaf
from bcached.state.index.node_paths import interiors
from bcached.state.index.node_shape import KEY_WORDS_MAX
from instruments.stories.index_story import IndexStory, lay, model_of

SECTORS = 20_000


async def live(story: IndexStory, keys: int, *, size_max: int = 6, sectors: int = SECTORS) -> None:
    """Insert keys, writing leaves and gens now and then."""
    for number in range(keys):
        await story.insert(story.some_key(sectors=sectors, size_max=size_max))
        if number % 7 == 0:
            await story.write_back.write_wanted()
            story.buckets.write_gens()


async def coalesce_all(story: IndexStory) -> None:
    """One pass over each level."""
    tree = story.nodes.tree
    for level in range(tree.root.level):
        bound = 0
        while bound != tree.last_bound:
            bound = await story.write_back.coalesce(level, bound >> 64, bound & ((1 << 64) - 1))
    while await story.write_back.shrink():
        pass


@asynccontextmanager
async def company(story: IndexStory) -> AsyncIterator[None]:
    """Others who write, look, rewrite and coalesce all the time."""
    rng, nodes, write_back, over = story.rng, story.nodes, story.write_back, asyncio.Event()

    async def write() -> None:
        await write_back.write_wanted()
        story.buckets.write_gens()

    async def look() -> None:
        inode, start = rng.randrange(2), rng.randrange(SECTORS)
        found = await nodes.lookup(inode, start, start + rng.randrange(300))
        assert all(inode == key.inode for key in found)

    async def reshape() -> None:
        place = rng.randrange(2), rng.randrange(SECTORS)
        await write_back.coalesce(rng.randrange(nodes.tree.root.level + 1), *place)
        await write_back.shrink()
        if rng.random() < 0.2:
            await write_back.rewrite(await nodes.leaf_at(*place))
        above = list(interiors(nodes.tree.root))
        if above and rng.random() < 0.2:
            await write_back.rewrite(rng.choice(above))

    async def again_and_again(action: Callable[[], Awaitable[None]]) -> None:
        while not over.is_set():
            await action()
            for _ in range(rng.randrange(20)):
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for action in (write, look, reshape):
            group.create_task(again_and_again(action))
        yield
        over.set()


@pytest.mark.parametrize("seed", range(3))
async def test_the_tree_holds_what_was_inserted_while_others_change_its_shape(seed: int) -> None:
    story = await IndexStory.begin(seed, sectors=2)
    async with company(story):
        for number in range(2500):
            await story.insert(story.some_key(sectors=SECTORS, size_max=6))
            if number % 5 == 0:
                await asyncio.sleep(0)
            if number % 500 == 0:
                await story.check_memory()
    await story.check_memory()
    assert story.parse_all() >= len(story.nodes.tree.leaves)
    await story.check_device()


async def test_the_tree_grows_to_four_levels_and_shrinks_to_one_leaf() -> None:
    story = await IndexStory.begin(11, sectors=2)
    while story.nodes.tree.root.level < 3:
        await live(story, 500, size_max=2, sectors=100_000)
    await story.check_memory()
    await story.check_device()
    for inode in range(2):
        for start in range(0, 100_010, 5000):
            await story.insert(Key(inode, start, 5000, False, ()))
            await story.write_back.write_wanted()
    assert story.model == {}
    for _ in range(8):
        await coalesce_all(story)
    assert isinstance(story.nodes.tree.root, Leaf)
    assert len(story.buckets.in_use) == 1
    await story.check_memory()
    await story.check_device()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("block_sectors", [1, 2])
async def test_every_cut_leaves_what_the_journal_makes_whole(seed: int, block_sectors: int) -> None:
    story = await IndexStory.begin(seed, sectors=4 * block_sectors, block_sectors=block_sectors)
    async with company(story):
        for number in range(300):
            await story.insert(story.some_key(sectors=1500, size_max=5))
            if number % 3 == 0:
                await asyncio.sleep(0)
    torn = 0
    for position in story.cuts():
        for _ in range(block_sectors**2):  # chance says which sectors of a block are there
            found, expected, torn_here = await story.read_after_cut(position)
            assert found == expected, f"cut at {position}"
            torn += torn_here
    assert (torn > 0) == (block_sectors > 1)


@pytest.mark.parametrize("seed", range(3))
async def test_the_tree_opens_after_any_cut_and_goes_on(seed: int) -> None:
    story = await IndexStory.begin(seed, sectors=8, block_sectors=2)
    await live(story, 500, sectors=3000)
    for position in story.rng.sample(story.cuts(), 12):
        again = await story.reopen_after_cut(position)
        await again.check_memory()
        assert not any(leaf.is_torn for leaf in again.nodes.tree.leaves)
        await live(again, 50, sectors=3000)
        await again.check_memory()
        cut_again = again.rng.choice(again.cuts())
        found, expected, _ = await again.read_after_cut(cut_again)
        assert found == expected
        await again.write_back.write_all()
        assert again.nodes.tree.leaves.pins.oldest is None
        await again.check_device()


@pytest.mark.parametrize("seed", range(2))
async def test_few_leaves_in_memory_hold_as_much(seed: int) -> None:
    bound = 60_000
    story = await IndexStory.begin(seed, sectors=4, limit_bytes=bound)
    async with company(story):
        for number in range(1500):
            await story.insert(story.some_key(sectors=SECTORS, size_max=6))
            if number % 5 == 0:
                await asyncio.sleep(0)
    await story.write_back.trim()
    assert story.nodes.tree.leaves.memory_bytes <= bound
    assert len(story.buckets.in_use) > 2 * len(story.nodes.tree.leaves)
    await story.check_memory()
    assert story.nodes.io.nodes_read > 20
    await story.check_device()


async def test_no_leaf_is_written_before_the_entry_of_its_newest_key() -> None:
    story = await IndexStory.begin(3, sectors=2)
    written_ahead = []
    real = story.nodes.io.append

    async def append(node: Leaf | Interior, parts: Sequence[bytes]) -> None:
        if isinstance(node, Leaf):
            assert node.writing is not None
            written_ahead.append(node.writing.newest_seq <= story.journal.durable_seq)
        await real(node, parts)

    story.nodes.io.append = append  # type: ignore[method-assign]
    async with company(story):
        for _ in range(400):
            await story.insert(story.some_key(sectors=SECTORS))
            await asyncio.sleep(0)
    assert len(written_ahead) > 3
    assert all(written_ahead)


async def test_an_old_entry_is_let_go_once_its_leaves_are_written() -> None:
    story = await IndexStory.begin(5, sectors=4)
    for _ in range(300):
        await story.insert(story.some_key(sectors=SECTORS))
    oldest = story.nodes.tree.leaves.pins.oldest
    assert oldest is not None
    await story.write_back.write_through(150)
    assert (story.nodes.tree.leaves.pins.oldest or 999) > 150
    await story.check_device()


async def test_a_gen_that_cannot_go_up_has_the_parent_rewritten_instead() -> None:
    story = await IndexStory.begin(6, sectors=2)
    story.buckets.bumpable = False
    await live(story, 600)
    assert not any(interior.replaced for interior in interiors(story.nodes.tree.root))
    await story.check_memory()
    await story.check_device()


async def test_freed_gens_wait_for_the_parents_write() -> None:
    story = await IndexStory.begin(7, sectors=2)
    seen = []
    real = story.nodes.io.append

    async def append(node: Leaf | Interior, parts: Sequence[bytes]) -> None:
        if isinstance(node, Interior):
            seen.append(story.buckets.blocked)
        await real(node, parts)

    story.nodes.io.append = append  # type: ignore[method-assign]
    await live(story, 600)
    assert seen
    assert min(seen) > 0
    assert story.buckets.blocked == 0


async def test_a_torn_leaf_that_the_journal_knows_nothing_of_is_damage() -> None:
    story = await IndexStory.begin(8, sectors=8, block_sectors=2)
    await live(story, 300, sectors=3000)
    await story.write_back.write_all()
    leaf = next(leaf for leaf in story.nodes.tree.leaves if leaf.blocks_used > 1)
    place = leaf.key.pointers[0].sector * 512 + (leaf.blocks_used - 1) * story.block_bytes
    story.nodes.tree.evict(leaf)
    disk = story.log_device().disk
    disk.contents[place + 40] ^= 1
    with pytest.raises(BadChecksum):
        await story.nodes.load([(leaf.key.inode, leaf.key.end - 1, leaf.key.end)])
    disk.contents[place + 40] ^= 1
    await story.check_memory()


async def test_after_a_failed_write_nothing_is_written_any_more() -> None:
    story = await IndexStory.begin(9, sectors=2)
    await live(story, 100)
    real = story.nodes.io.append

    async def fail(node: Leaf | Interior, parts: Sequence[bytes]) -> None:
        raise DeviceError("memory", "no")

    story.nodes.io.append = fail  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="no"):
        await live(story, 100)
    story.nodes.io.append = real  # type: ignore[method-assign]
    writes = len(story.log.entries)
    with pytest.raises(DeviceError, match="memory: no"):
        await story.write_back.write_all()
    assert len(story.log.entries) == writes
    assert await story.nodes.lookup(0, 0, SECTORS) != []


async def test_a_stale_key_that_was_dropped_is_not_in_the_leaf_that_is_rewritten() -> None:
    story = await IndexStory.begin(10)
    keys = [story.key_at(0, start, 4) for start in range(0, 400, 8)]
    for key in keys:
        await story.insert(key)
    await story.write_back.write_all()
    leaf = await story.nodes.leaf_at(0, 0)
    stale = keys[3]
    assert leaf.drop(stale)
    assert not leaf.drop(stale)
    await story.insert(story.key_at(0, keys[5].offset, 2))
    assert not leaf.drop(keys[5]), "it was overwritten meanwhile"
    await story.write_back.rewrite(leaf)
    expected = dict(story.model)
    lay(expected, Key(0, stale.offset, stale.sectors, False, ()))
    story.model = expected
    assert model_of(await story.nodes.lookup(0, 0, 500)) == expected
    await story.check_device()


async def test_a_leaf_that_was_let_go_is_not_rewritten() -> None:
    story = await IndexStory.begin(12, sectors=2)
    await live(story, 200)
    await story.write_back.write_all()
    leaf = await story.nodes.leaf_at(0, 0)
    story.nodes.tree.evict(leaf)
    writes = len(story.log.entries)
    await story.write_back.rewrite(leaf)
    await story.write_back.write_out(leaf)
    assert len(story.log.entries) == writes
    await story.check_memory()


async def test_far_more_keys_than_a_node_holds_are_written_at_once() -> None:
    story = await IndexStory.begin(13, sectors=2)
    for _ in range(1500):
        await story.insert(story.some_key(sectors=SECTORS, size_max=2))
    assert isinstance(story.nodes.tree.root, Leaf)
    await story.write_back.write_wanted()
    assert story.nodes.tree.root.level > 1
    await story.check_memory()
    await story.check_device()


async def test_a_change_waits_for_buckets_while_others_go_on() -> None:
    story = await IndexStory.begin(14, sectors=2)
    await live(story, 300)
    await story.write_back.write_all()
    held, story.buckets.ready = story.buckets.ready, []
    asked: list[tuple[int, int]] = []
    seen: list[list[Key]] = []

    async def wait_for(count: int, growth: int) -> None:
        asked.append((count, growth))
        seen.append(await story.nodes.lookup(0, 0, SECTORS))
        await story.insert(story.some_key(sectors=SECTORS))
        story.buckets.ready = held

    story.buckets.wait_for = wait_for  # type: ignore[method-assign]
    leaf = await story.nodes.leaf_at(0, 0)
    await story.write_back.rewrite(leaf)
    assert len(asked) == 1
    assert asked[0][1] == 0, "one for one, be it with its parent"
    assert seen[0]
    assert leaf.is_detached
    await story.check_memory()
    await story.check_device()


async def test_where_the_tree_may_not_grow_a_leaf_gets_full_and_one_too_full_waits() -> None:
    story = await IndexStory.begin(15)
    tree, take = story.nodes.tree, story.buckets.take

    def take_for_no_growth(count: int, growth: int) -> list[Pointer] | None:
        return None if growth > 0 else take(count, growth)

    story.buckets.take = take_for_no_growth  # type: ignore[method-assign]
    assert isinstance(tree.root, Leaf)
    while tree.root.live.word_count + 2 * KEY_WORDS_MAX < tree.shape.node_words:
        await story.insert(story.some_key(sectors=SECTORS, size_max=2))
    assert tree.shape.division(tree.root.live.word_count), "it would be split"
    await story.write_back.write_all()
    assert isinstance(tree.root, Leaf)
    assert tree.root.is_clean
    assert not tree.leaves.oversize
    while not tree.leaves.oversize:
        await story.insert(story.some_key(sectors=SECTORS, size_max=2))
    assert tree.root in tree.leaves.wanted

    async def wait_for(count: int, growth: int) -> None:
        assert growth > 0
        story.buckets.take = take  # type: ignore[method-assign]

    story.buckets.wait_for = wait_for  # type: ignore[method-assign]
    await story.write_back.write_wanted()
    assert tree.root.level == 1
    assert not tree.leaves.oversize
    await story.check_memory()
    await story.check_device()
