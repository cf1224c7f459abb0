# SPDX-License-Identifier: GPL-2.0-only
"""Ways through a tree of which not all is loaded."""

from bcached.state.index.node_paths import are_siblings, interiors, low_of, node_at, path_to
from bcached.state.index.tree import Tree
from instruments.samples.small_trees import LAST, SHAPE, a_tree, leaf_of, load, node_key


def test_a_nodes_range_begins_where_the_one_before_ends() -> None:
    tree, keys = a_tree()
    assert [low_of(tree.root, key) for key in keys] == [(0, 0), (0, 100), (0, 200)]


def test_the_path_to_a_node_ends_at_its_parent() -> None:
    tree, _ = a_tree()
    leaf = load(tree, 0, 100)
    assert path_to(tree.root, leaf) == [(tree.root, 1)]
    assert path_to(tree.root, tree.root) == []
    assert list(interiors(tree.root)) == [tree.root]


def test_a_level_above_the_root_is_the_root() -> None:
    tree, _ = a_tree()
    leaf = load(tree, 0, 100)
    assert node_at(tree.root, 0, 0, 150) is leaf
    assert node_at(tree.root, 3, 0, 150) is tree.root


def test_siblings_stand_side_by_side_under_one_parent() -> None:
    tree, _ = a_tree()
    leaves = [load(tree, 0, sector) for sector in (0, 100, 200)]
    assert are_siblings(tree.root, leaves)
    assert are_siblings(tree.root, leaves[1:])
    assert not are_siblings(tree.root, [leaves[0], leaves[2]])
    alone = Tree(leaf_of(node_key(*LAST, 1)), SHAPE)
    assert are_siblings(alone.root, [alone.root])
