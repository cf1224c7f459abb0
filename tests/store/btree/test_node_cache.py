# SPDX-License-Identifier: GPL-2.0-only
"""Nodes that are read when they are needed, and evicted when there are too many."""

import asyncio

from bcached.state.index.tree import Missing
from instruments.stories.index_story import IndexStory

SECTORS = 3000


async def several_leaves(seed: int = 1) -> IndexStory:
    """A tree of several clean leaves, all of them evicted."""
    story = await IndexStory.begin(seed, sectors=2)
    for _ in range(300):
        await story.insert(story.some_key(inodes=1, sectors=SECTORS))
    await story.write_back.write_all()
    for leaf in list(story.nodes.tree.evictable()):
        story.nodes.tree.evict(leaf)
    return story


async def test_a_node_that_is_being_read_is_not_read_twice() -> None:
    story = await several_leaves()
    before = story.nodes.io.nodes_read
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(story.nodes.leaf_at(0, 10))
    assert story.nodes.io.nodes_read == before + 1
    assert not isinstance(story.nodes.tree.find(0, 10), Missing)


async def test_a_look_up_reads_the_leaves_of_its_range() -> None:
    story = await several_leaves()
    everything = await story.nodes.lookup(0, 0, SECTORS * 2)
    assert len(everything) > 50
    for leaf in list(story.nodes.tree.evictable()):
        story.nodes.tree.evict(leaf)
    assert await story.nodes.lookup(0, 0, SECTORS * 2, 7) == everything[:7]
    assert "loading" in repr(story.nodes)


async def test_every_leaf_comes_once_and_in_order() -> None:
    story = await several_leaves()
    bounds = [leaf.bound async for leaf in story.nodes.leaves()]
    assert len(bounds) > 3
    assert bounds == sorted(set(bounds))


async def test_eviction_spares_leaves_that_are_not_clean() -> None:
    story = await several_leaves()
    await story.insert(story.key_at(0, 10, 2))
    await story.nodes.leaf_at(0, SECTORS)
    assert len(story.nodes.tree.leaves) == 2
    story.nodes.limit_bytes = 0
    assert not story.nodes.evict()
    assert [leaf.is_clean for leaf in story.nodes.tree.leaves] == [False]
    assert story.nodes.is_over_limit


async def test_a_leaf_that_others_are_about_to_use_stays() -> None:
    story = await several_leaves()
    spans = [(0, start, start + 1) for start in range(0, SECTORS, 100)]
    story.nodes.limit_bytes = story.nodes.tree.leaves.filters.limit_bytes = 0
    await story.nodes.load(spans)
    assert all(story.nodes.tree.missing(*span) is None for span in spans)
    assert story.nodes.evict()
    assert len(story.nodes.tree.leaves) == 0
