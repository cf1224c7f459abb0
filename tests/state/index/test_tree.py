# SPDX-License-Identifier: GPL-2.0-only
"""Questions to a tree of which not all is loaded."""

from bcached.keys import Key
from bcached.state.index.tree import Missing
from instruments.samples.small_trees import a_tree, data, leaf_of, load


def test_what_is_not_loaded_is_named() -> None:
    tree, keys = a_tree()
    for sector, key in ((0, keys[0]), (150, keys[1]), (200, keys[2])):
        missing = tree.find(0, sector)
        assert isinstance(missing, Missing)
        assert (missing.key, missing.level) == (key, 0)


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


def test_a_scan_ends_at_a_leaf_that_is_not_loaded_or_at_its_limits() -> None:
    tree, _ = a_tree()
    load(tree, 0, 0)
    load(tree, 0, 100)
    tree.insert(data(10, 5), 1)
    tree.insert(data(110, 5), 2)
    assert tree.scan(0, 0, 50) == ([data(10, 5)], 50)
    assert tree.scan(0, 0, 500) == ([data(10, 5), data(110, 5)], 200), "the third leaf is not loaded"
    assert tree.scan(0, 0, 500, leaves_max=1) == ([data(10, 5)], 100)
    assert tree.scan(0, 0, 500, 1) == ([data(10, 5)], 100)
    assert tree.scan(0, 300, 400) == ([], 300)


def test_what_fits_in_every_leaf_of_a_range_fits() -> None:
    tree, _ = a_tree()
    for sector in (0, 100, 200):
        load(tree, 0, sector)
    words = tree.shape.node_words
    assert tree.fits(0, 0, 300, words)
    tree.insert(data(150, 1), 1)
    assert tree.fits(0, 0, 100, words)
    assert not tree.fits(0, 0, 300, words)
    assert tree.fits(0, 0, 300, words - 3)


def test_a_tree_says_what_of_it_is_in_memory() -> None:
    tree, _ = a_tree()
    whole = []
    for sector in (0, 100, 200):
        whole.append(tree.is_whole)
        load(tree, 0, sector)
    assert [*whole, tree.is_whole] == [False, False, False, True]
    assert "2 levels" in repr(tree)
    assert "3 of 3 loaded" in repr(tree.root)
    assert "clean" in repr(next(iter(tree.leaves)))
