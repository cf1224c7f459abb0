# SPDX-License-Identifier: GPL-2.0-only
"""What a change of the tree's shape takes, before anything of it is done."""

from itertools import count

import pytest

from bcached.format.bkey import END_MAX, pack_keys, parse_keys
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.interior_keys import is_freeing
from bcached.state.index.node import Interior, Leaf, key_of
from bcached.state.index.node_shape import NodeShape
from bcached.state.index.tree import Tree
from bcached.state.index.tree_change import (
    CHILDREN_A_PART,
    NewNode,
    TreeChange,
    install,
    replace_interiors,
    replace_leaves,
)

BUCKET = 64
SHAPE = NodeShape(node_sectors=4, block_bytes=512, bucket_sectors=BUCKET)  # 188 words in three blocks
LAST = (INODE_MAX, END_MAX)


def node_key(inode: int, end: int, bucket: int) -> Key:
    return Key(inode, end - 4, 4, False, (Pointer(0, bucket * BUCKET, 1),))


def data(start: int) -> Key:
    return Key(0, start, 1, True, (Pointer(0, 64000 + start * BUCKET, 1),))


def leaf_with(key: Key, starts: range) -> Leaf:
    leaf = Leaf(key, 1, 1, Extents(merge_within=BUCKET))
    for start in starts:
        leaf.live.insert(data(start))
    return leaf


def tree_of(*sizes: int, blocks_used: int = 1) -> tuple[Tree, list[Leaf]]:
    """A root over leaves with so many keys each, 1000 sectors apart."""
    leaves = [
        leaf_with(
            node_key(*LAST, 20 + number)
            if number == len(sizes) - 1
            else node_key(0, (number + 1) * 1000, 20 + number),
            range(number * 1000, number * 1000 + size * 2, 2),
        )
        for number, size in enumerate(sizes)
    ]
    tree = Tree(Interior(node_key(*LAST, 10), 1, 1, blocks_used, list(leaves)), SHAPE)
    for leaf in leaves:
        tree.leaves.add(leaf)
    return tree, leaves


def carry_out(tree: Tree, change: TreeChange) -> list[Key]:
    """As store/btree/node_replacement.py does it, without a device; the freeing keys."""
    change.assign_buckets(
        [Pointer(0, (100 + number) * BUCKET, 1) for number in range(len(change.new_nodes))], SHAPE, count(1)
    )
    freeing = change.append.freeing([2] * len(change.append.replaced)) if change.append else []
    install(tree, change, freeing)
    return freeing


def yes(_: Key) -> bool:
    return True


def test_a_leaf_that_fits_is_replaced_by_one_and_told_in_one_bset() -> None:
    tree, leaves = tree_of(50, 10)
    change = replace_leaves(tree, [leaves[0]], yes)
    assert change is not None
    assert (len(change.new_nodes), change.growth, change.root) == (1, 0, None)
    assert change.freed() == [leaves[0].key]
    (freeing,) = carry_out(tree, change)
    assert is_freeing(freeing)
    assert freeing.pointers[0].gen == 2
    assert leaves[0].is_detached
    root = tree.root
    assert isinstance(root, Interior)
    assert root.replaced == [leaves[0].key, freeing]
    assert root.blocks_used == 2
    assert [key.offset for leaf in root.children if isinstance(leaf, Leaf) for key in leaf.live] == [
        *range(0, 100, 2),
        *range(1000, 1020, 2),
    ]


def test_a_leaf_that_is_too_full_becomes_two() -> None:
    tree, leaves = tree_of(70, 10)
    change = replace_leaves(tree, [leaves[0]], yes)
    assert change is not None
    assert (len(change.new_nodes), change.growth) == (2, 1)
    lower, upper = change.new_nodes
    assert lower.position == (0, 83), "the end of its last key"
    assert upper.position == (0, 1000), "the end of what it was before"
    assert [key.offset for key in parse_keys(lower.keys, "lower")] == list(range(0, 84, 2))


def test_what_comes_in_meanwhile_is_divided_among_the_new_leaves() -> None:
    tree, leaves = tree_of(70)
    tree.leaves.begin_write(leaves[0])
    change = replace_leaves(tree, leaves, yes)
    assert change is not None
    crossing = Key(0, 80, 6, False, (Pointer(0, 640, 1),))
    tree.insert(crossing, 5)
    carry_out(tree, change)
    lower, upper = list(tree.leaves)
    assert list(lower.unwritten.extents) == [Key(0, 80, 3, False, (Pointer(0, 640, 1),))]
    assert list(upper.unwritten.extents) == [Key(0, 83, 3, False, (Pointer(0, 643, 1),))]
    assert tree.lookup(0, 80, 86) == [*lower.unwritten.extents, *upper.unwritten.extents]
    assert (lower.oldest_seq, upper.oldest_seq, tree.leaves.pins.oldest) == (5, 5, 5)


def test_a_parent_without_room_is_replaced_too_and_the_root_is_named_anew() -> None:
    tree, leaves = tree_of(70, 10, blocks_used=SHAPE.blocks)
    old = tree.root
    change = replace_leaves(tree, [leaves[0]], yes)
    assert change is not None
    assert change.append is None
    assert change.freed() == [leaves[0].key, old.key]
    assert change.growth == 1
    assert carry_out(tree, change) == []
    root = tree.root
    assert isinstance(root, Interior)
    assert root is not old
    assert [len(child.live) for child in root.children if isinstance(child, Leaf)] == [42, 28, 10]
    assert root.children[2] is leaves[1]
    assert root.replaced == []


def test_a_gen_that_may_not_go_up_has_the_parent_replaced_too() -> None:
    tree, leaves = tree_of(70, 10)
    change = replace_leaves(tree, [leaves[0]], lambda key: False)
    assert change is not None
    assert change.root is not None


def test_a_root_that_is_a_leaf_grows_a_level() -> None:
    tree, leaves = tree_of(70)
    alone = Tree(leaves[0], SHAPE)
    change = replace_leaves(alone, leaves, yes)
    assert change is not None
    assert [piece.level for piece in change.new_nodes] == [0, 0, 1]
    carry_out(alone, change)
    assert alone.root.level == 1
    assert tree.root.level == 1


def test_neighbours_become_fewer_or_stay() -> None:
    tree, leaves = tree_of(20, 0, 20, 60)
    change = replace_leaves(tree, leaves[:3], yes, coalesce=True)
    assert change is not None
    assert (len(change.new_nodes), change.growth) == (1, -2)
    assert replace_leaves(tree, leaves[2:], yes, coalesce=True) is None
    freeing = carry_out(tree, change)
    assert len(freeing) == 3
    root = tree.root
    assert isinstance(root, Interior)
    assert [key_of(child).end for child in root.children] == [3000, END_MAX]
    assert len(tree.leaves) == 2


def test_interiors_are_replaced_with_the_children_they_have_then() -> None:
    tree, leaves = tree_of(5, 6, 7)
    root = tree.root
    assert isinstance(root, Interior)
    change = replace_interiors(tree, [root], yes)
    assert change is not None
    tree.evict(leaves[1])
    carry_out(tree, change)
    assert isinstance(tree.root, Interior)
    assert tree.root.children == [leaves[0], leaves[1].key, leaves[2]]
    assert root.is_detached


@pytest.mark.parametrize("keys", [0, 1, 62, 63, 300, 1000, 5000])
def test_every_piece_fits_its_node(keys: int) -> None:
    _, leaves = tree_of(keys)
    tree = Tree(leaves[0], SHAPE)
    change = replace_leaves(tree, leaves, yes)
    assert change is not None
    pieces = [piece for piece in change.new_nodes if piece.level == 0]
    assert all(SHAPE.blocks_for(piece.word_count) <= SHAPE.blocks for piece in pieces)
    assert sum(piece.word_count for piece in pieces) == 3 * keys
    assert (len(pieces) == 1) == (keys <= 62)
    carry_out(tree, change)
    assert tree.root.level == (0 if keys <= 62 else 1 if keys <= 1000 else 2)
    found = tree.lookup(0, 0, 1 << 20)
    assert isinstance(found, list)
    assert [key.offset for key in found] == list(range(0, keys * 2, 2))


def test_an_interior_node_with_very_many_children_is_packed_in_parts() -> None:
    keys = [node_key(0, 1000 * number, number) for number in range(1, 1000)] + [node_key(*LAST, 1)]
    interior = Interior(node_key(*LAST, 10), 1, 1, 1, list(keys))
    piece = NewNode(1, LAST, 3 * len(keys), children=[(interior, index) for index in range(len(keys))])
    parts = list(piece.packed())
    assert b"".join(parts) == pack_keys(tuple(keys))
    assert len(parts) == -(-len(keys) // CHILDREN_A_PART)
