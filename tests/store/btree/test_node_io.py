# SPDX-License-Identifier: GPL-2.0-only
"""Nodes that others wrote: the kernel's, damaged ones, and odd ones."""

from random import Random

import numpy as np
import pytest

from bcached.errors import BadField, FormatError
from bcached.format.bkey import END_MAX, Bounds
from bcached.format.bset import Bset, pack_bset
from bcached.format.sizes import node_sectors
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.interior_keys import START
from bcached.state.index.node import Interior, Leaf
from bcached.state.index.node_shape import NodeShape
from bcached.store.btree.node_cache import NodeCache
from bcached.store.btree.node_io import NodeIo
from bcached.store.check.checker import check_set
from bcached.store.membership import MemberFound
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.kernel_images import NAMES, kernel_image
from instruments.stories.index_story import ToyBuckets, bounds_of, model_of, superblock_of

SUPERBLOCK = superblock_of(8, 1)
BOUNDS = bounds_of(SUPERBLOCK)
LAST = (INODE_MAX, END_MAX)


@pytest.mark.parametrize("name", NAMES)
async def test_the_kernel_s_tree_is_read_as_the_checker_reads_it(name: str) -> None:
    device = kernel_image(name).device()
    found = await check_set([device])
    assert found.tree is not None
    assert found.journal is not None
    superblock, newest = found.members[0].superblock, found.journal.newest
    buckets = ToyBuckets(superblock.bucket_sectors, Random(1))
    buckets.gens = np.array(found.censuses[0].gens_on_disk)
    sectors = superblock.bucket_sectors
    shape = NodeShape(node_sectors(sectors), superblock.block_sectors * 512, sectors)
    io = NodeIo(found.members, shape, Bounds(sectors, superblock.first_bucket, (superblock.bucket_count,)))
    nodes = await NodeCache.open(newest.root, newest.level, io, buckets, 1 << 30)
    for entry in found.journal.entries:
        for key in entry.keys:
            await nodes.load([(key.inode, key.offset, key.end)])
            nodes.tree.insert(key, entry.seq)
    keys = [key async for leaf in nodes.leaves() for key in list(leaf.live)]
    expected = [key for rows in found.tree.rows.chunks() for key in rows]
    assert len(keys) > 500
    assert model_of(keys) == model_of(expected)
    await device.close()


def node_key(position: tuple[int, int], bucket: int) -> Key:
    inode, end = position
    return Key(inode, end - 8, 8, False, (Pointer(0, bucket * 8, 1),))


def data(start: int, size: int, *, bucket: int = 4000, copies: int = 1) -> Key:
    return Key(0, start, size, False, tuple(Pointer(0, (bucket + number) * 8, 0) for number in range(copies)))


async def read(
    key: Key, level: int, *bsets: list[Key], low: tuple[int, int] = START, buckets: ToyBuckets | None = None
) -> Leaf | Interior:
    """A node of these bsets, as it is read."""
    device = MemoryDevice(1 << 20)
    raw = b"".join(pack_bset(Bset(5, tuple(bset)), key, SUPERBLOCK.set_magic, 512) for bset in bsets)
    await device.write(key.pointers[0].sector * 512, raw)
    io = NodeIo([MemberFound(device, SUPERBLOCK)], NodeShape(8, 512, 8), BOUNDS)
    return await io.read(key, level, low, buckets or ToyBuckets(8, Random(1)))


async def test_a_leaf_with_several_copies_is_read_key_by_key() -> None:
    leaf = await read(node_key(LAST, 9), 0, [data(0, 8), data(20, 4, copies=3)], [data(2, 2, bucket=5000)])
    assert isinstance(leaf, Leaf)
    assert [(key.offset, key.sectors, len(key.pointers)) for key in leaf.live] == [
        (0, 2, 1),
        (2, 2, 1),
        (4, 4, 1),
        (20, 4, 3),
    ]
    assert (leaf.blocks_used, leaf.seq) == (2, 5)


@pytest.mark.parametrize(
    "odd",
    [
        data(20, 8, bucket=2),  # in front of the first bucket
        Key(0, 20, 8, False, (Pointer(0, 32004, 0),)),  # crosses a bucket
        data(90, 8, copies=2),  # begins before the leaf does
        Key(1, 20, 8, False, (Pointer(3, 32000, 0),)),  # on a device there is not
    ],
)
async def test_a_leaf_with_a_key_that_cannot_be_is_refused(odd: Key) -> None:
    sound = data(200, 8) if (odd.inode, odd.offset) < (0, 200) else data(100, 8)
    low = (0, 100) if odd.offset == 90 else START
    await read(node_key(LAST, 9), 0, [sound], low=low)
    with pytest.raises(FormatError):
        await read(node_key(LAST, 9), 0, [sound], [odd], low=low)


async def test_a_child_that_was_freed_is_none() -> None:
    old, new, last = node_key((0, 100), 20), node_key((0, 100), 21), node_key(LAST, 22)
    freeing = Key(0, -8, 8, False, (Pointer(0, 20 * 8, 2),))
    node = await read(node_key(LAST, 9), 1, [old, last], [freeing, new])
    assert isinstance(node, Interior)
    assert node.children == [new, last]
    assert sorted(node.replaced, key=lambda key: key.end) == [freeing, old]


async def test_of_two_live_leaves_at_one_position_the_newer_comes_first() -> None:
    old, new, last = node_key((0, 100), 20), node_key((0, 100), 21), node_key(LAST, 22)
    for bsets in ([old, last], [new]), ([new, old, last],):
        node = await read(node_key(LAST, 9), 1, *bsets)
        assert isinstance(node, Interior)
        assert node.children == [new, old, last]
        assert (node.index_of_key(old), node.below(0), node.below(1), node.below(2)) == (0, [old], [], [])
        assert node.replaced == []


async def test_two_live_interior_nodes_at_one_position_are_refused() -> None:
    keys = [node_key((0, 100), 20), node_key(LAST, 22)], [node_key((0, 100), 21)]
    with pytest.raises(BadField, match="one at a position"):
        await read(node_key(LAST, 9), 2, *keys)


async def test_an_interior_that_ends_before_its_range_does_is_refused() -> None:
    with pytest.raises(BadField, match="last child"):
        await read(node_key(LAST, 9), 1, [node_key((0, 100), 20)])
    with pytest.raises(BadField, match="last child"):
        await read(node_key(LAST, 9), 1, [])


async def test_extents_of_a_leaf_go_on_merging_within_a_bucket() -> None:
    leaf = await read(node_key(LAST, 9), 0, [data(0, 4)])
    assert isinstance(leaf, Leaf)
    leaf.insert(Key(0, 4, 4, False, (Pointer(0, 32004, 0),)), 1)
    merged = Extents()
    merged.insert(data(0, 8))
    assert list(leaf.live) == list(merged)
