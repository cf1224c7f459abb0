# SPDX-License-Identifier: GPL-2.0-only
"""Questions to a tree of which not all is loaded."""

from bcached.format.bkey import END_MAX
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.state.index.extents import Extents
from bcached.state.index.node import Interior, Leaf
from bcached.state.index.node_paths import are_siblings, low_of
from bcached.state.index.node_shape import NodeShape
from bcached.state.index.tree import Missing, Tree

BUCKET = 64
SHAPE = NodeShape(node_sectors=8, block_bytes=512, bucket_sectors=BUCKET)
LAST = (INODE_MAX, END_MAX)


def node_key(inode: int, end: int, bucket: int) -> Key:
    return Key(inode, end - 8, 8, False, (Pointer(0, bucket * BUCKET, 1),))


def data(start: int, size: int) -> Key:
    return Key(0, start, size, True, (Pointer(0, 64000 + start, 1),))


def leaf_of(key: Key) -> Leaf:
    return Leaf(key, 1, 1, Extents(merge_within=BUCKET))


def a_tree() -> tuple[Tree, list[Key]]:
    """Three leaves, none of them loaded: up to 0:100, up to 0:200, the rest."""
    keys = [node_key(0, 100, 10), node_key(0, 200, 11), node_key(*LAST, 12)]
    return Tree(Interior(node_key(*LAST, 13), 1, 1, 1, list(keys)), SHAPE), keys


def load(tree: Tree, inode: int, sector: int) -> Leaf:
    missing = tree.find(inode, sector)
    assert isinstance(missing, Missing)
    leaf = leaf_of(missing.key)
    assert tree.attach(missing, leaf)
    return leaf


def test_what_is_not_loaded_is_named() -> None:
    tree, keys = a_tree()
    for sector, key in ((0, keys[0]), (150, keys[1]), (200, keys[2])):
        missing = tree.find(0, sector)
        assert isinstance(missing, Missing)
        assert (missing.key, missing.level) == (key, 0)
    assert [low_of(tree.root, key) for key in keys] == [(0, 0), (0, 100), (0, 200)]


def test_a_range_misses_its_first_leaf_that_is_not_loaded() -> None:
    tree, keys = a_tree()
    load(tree, 0, 0)
    assert tree.missing(0, 20, 100) is None
    missing = tree.missing(0, 20, 101)
    assert missing is not None
    assert missing.key == keys[1]
    found = tree.lookup(0, 20, 300)
    assert isinstance(found, Missing)


def test_a_key_that_crosses_leaves_is_in_each_with_its_part() -> None:
    tree, _ = a_tree()
    leaves = [load(tree, 0, sector) for sector in (0, 100, 200)]
    assert tree.insert(data(90, 130), 1) == []
    assert [list(leaf.live) for leaf in leaves] == [[data(90, 10)], [data(100, 100)], [data(200, 20)]]
    assert tree.lookup(0, 95, 205) == [data(95, 5), data(100, 100), data(200, 5)]
    assert tree.lookup(0, 95, 205, 2) == [data(95, 5), data(100, 100)]
    removed = tree.insert(Key(0, 50, 500, False, ()), 2)
    assert removed == [data(90, 10), data(100, 100), data(200, 20)]
    assert tree.leaves.pins.oldest == 1


def test_a_node_that_was_read_is_not_put_where_another_is() -> None:
    tree, _ = a_tree()
    missing = tree.find(0, 0)
    assert isinstance(missing, Missing)
    assert tree.attach(missing, leaf_of(missing.key))
    assert not tree.attach(missing, leaf_of(missing.key))
    again = tree.find(0, 150)
    assert isinstance(again, Missing)
    again.parent.is_detached = True
    assert not tree.attach(again, leaf_of(again.key))


def test_the_leaf_used_longest_ago_goes_first_and_can_be_loaded_again() -> None:
    tree, keys = a_tree()
    first, second = load(tree, 0, 0), load(tree, 0, 100)
    assert next(tree.evictable()) is first
    tree.find(0, 5)
    assert next(tree.evictable()) is second
    second.pins += 1
    assert list(tree.evictable()) == [first]
    tree.evict(first)
    missing = tree.find(0, 5)
    assert isinstance(missing, Missing)
    assert missing.key is keys[0]
    assert list(tree.leaves) == [second]


def test_leaves_with_a_blocks_worth_of_keys_want_to_be_written() -> None:
    tree, _ = a_tree()
    leaf = load(tree, 0, 100)
    for number in range(17):
        tree.insert(Key(0, 100 + 3 * number, 1, True, (Pointer(0, 64000 + 128 * number, 1),)), number + 1)
    assert not tree.leaves.wanted
    tree.insert(Key(0, 170, 1, True, (Pointer(0, 64000, 1),)), 18)
    assert list(tree.leaves.wanted) == [leaf]
    assert tree.leaves.unwritten_words == 18 * 3
    assert tree.leaves.cached_words == 2 * 18 * 3
    tree.leaves.begin_write(leaf)
    assert not tree.leaves.wanted
    assert tree.leaves.unwritten(1) == [leaf]
    tree.leaves.end_write(leaf, 1)
    assert tree.leaves.unwritten() == []
    assert tree.leaves.pins.oldest is None
    assert (tree.leaves.unwritten_words, tree.leaves.cached_words) == (0, 18 * 3)


def test_siblings_stand_side_by_side_under_one_parent() -> None:
    tree, _ = a_tree()
    leaves = [load(tree, 0, sector) for sector in (0, 100, 200)]
    assert are_siblings(tree.root, leaves)
    assert are_siblings(tree.root, leaves[1:])
    assert not are_siblings(tree.root, [leaves[0], leaves[2]])
    alone = Tree(leaf_of(node_key(*LAST, 1)), SHAPE)
    assert are_siblings(alone.root, [alone.root])
