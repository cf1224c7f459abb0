# SPDX-License-Identifier: GPL-2.0-only
"""The filters of leaves that are evicted: made within a limit, and never older than what the leaf holds."""

import pytest

from bcached.keys import Key, Pointer
from bcached.state.index.region_filter import REGION_SHIFT
from bcached.state.index.tree import Tree
from instruments.samples.small_trees import a_tree, load

REGION = 1 << REGION_SHIFT
BOUND = 100


def at(offset: int) -> Key:
    return Key(0, offset, 1, True, (Pointer(0, 64000, 1),))


def excludes(tree: Tree) -> bool:
    return tree.leaves.filters.excludes(BOUND, 0, 0, 1)


def test_filters_are_made_within_a_limit_and_dropped_when_the_leaf_is_loaded() -> None:
    tree, _ = a_tree()
    filters = tree.leaves.filters
    tree.evict(load(tree, 0, 0))
    assert not excludes(tree), "no memory is granted"
    filters.limit_bytes = 1
    tree.evict(load(tree, 0, 0))
    tree.evict(load(tree, 0, 100))
    assert excludes(tree)
    assert not filters.excludes(200, 0, 0, 1), "beyond the limit"
    assert filters.bytes > 0
    load(tree, 0, 0)
    assert filters.bytes == 0
    assert not excludes(tree)


def test_a_filter_is_kept_while_nothing_is_changed() -> None:
    tree, _ = a_tree()
    tree.leaves.filters.limit_bytes = 1000
    tree.evict(load(tree, 0, 0, [at(10)]))
    made = tree.leaves.filters._by_bound[BOUND]
    tree.evict(load(tree, 0, 0, [at(10)]))
    assert tree.leaves.filters._by_bound[BOUND] is made


@pytest.mark.parametrize("is_written", [True, False])
def test_a_changed_leaf_has_another_filter(is_written: bool) -> None:
    tree, _ = a_tree()
    tree.leaves.filters.limit_bytes = 1000
    tree.evict(load(tree, 0, 0))
    assert excludes(tree)
    leaf = load(tree, 0, 0)
    tree.insert(at(10), 7)
    if is_written:
        tree.leaves.begin_write(leaf)
        tree.leaves.end_write(leaf, 1)
        tree.evict(leaf)
    else:
        tree.defer(leaf)
    assert not excludes(tree)
    tree.evict(load(tree, 0, 0, [at(10)])) if is_written else tree.defer(load(tree, 0, 0))
    assert not excludes(tree)
