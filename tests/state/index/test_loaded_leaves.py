# SPDX-License-Identifier: GPL-2.0-only
"""The counts of loaded leaves, and which of them are to be written."""

from bcached.keys import Key, Pointer
from bcached.state.index.key_batch import KeyBatch
from bcached.state.index.keys.key_ranges import cut_to
from bcached.state.index.node_shape import KEY_WORDS_MAX
from instruments.samples.small_trees import a_tree, data, load


def test_leaves_with_a_blocks_worth_of_keys_want_to_be_written() -> None:
    tree, _ = a_tree()
    leaf = load(tree, 0, 100)
    for number in range(17):
        tree.insert(Key(0, 100 + 3 * number, 1, True, (Pointer(0, 64000 + 128 * number, 1),)), number + 1)
    assert not tree.leaves.wanted
    tree.insert(Key(0, 170, 1, True, (Pointer(0, 64000, 1),)), 18)
    assert list(tree.leaves.wanted) == [leaf]
    assert tree.leaves.unwritten_words == 18 * 3
    assert tree.leaves.memory_words == 2 * 18 * 3
    tree.leaves.begin_write(leaf)
    assert not tree.leaves.wanted
    assert tree.leaves.unwritten(1) == [leaf]
    tree.leaves.end_write(leaf, 1)
    assert tree.leaves.unwritten() == []
    assert tree.leaves.pins.oldest is None
    assert (tree.leaves.unwritten_words, tree.leaves.memory_words) == (0, 18 * 3)


def test_changes_of_an_evicted_leaf_are_deferred_until_it_is_read_again() -> None:
    tree, _ = a_tree()
    first = load(tree, 0, 0)
    tree.insert(data(10, 5), 7)
    tree.defer(first)
    assert (len(tree.leaves), tree.leaves.unwritten_words, tree.leaves.memory_words) == (0, 0, 0)
    assert tree.leaves.needs(7), "its entry is still pinned"
    assert list(tree.leaves.deferred_bounds(7)) == [100]
    assert list(tree.leaves.deferred_bounds(6)) == []
    again = load(tree, 0, 0)
    assert list(again.live) == [data(10, 5)]
    assert not tree.leaves.deferred
    assert tree.leaves.pins.oldest == 7


def test_a_leaf_too_large_for_a_node_is_oversize_until_keys_are_removed() -> None:
    tree, _ = a_tree()
    leaf = load(tree, 0, 200)
    while leaf.live.word_count <= tree.shape.node_words:
        number = len(leaf.live)
        tree.insert(Key(0, 200 + 4 * number, 1, True, (Pointer(0, 64000 + 128 * number, 1),)), number + 1)
    assert tree.leaves.oversize == {leaf}
    assert leaf in tree.leaves.wanted
    tree.insert(Key(0, 200, 8, False, ()), 900)
    assert not tree.leaves.oversize


def test_a_stale_key_is_dropped_only_if_it_is_unchanged() -> None:
    tree, _ = a_tree()
    leaf = load(tree, 0, 0)
    leaf.live.insert(data(10, 5))
    tree.leaves.memory_words += 3
    assert not tree.leaves.drop(leaf, data(9, 5))
    assert tree.leaves.drop(leaf, data(10, 5))
    assert (len(leaf.live), tree.leaves.memory_words) == (0, 0)


def test_unpinning_follows_removal() -> None:
    tree, _ = a_tree()
    leaf = load(tree, 0, 0)
    tree.insert(data(10, 5), 3)
    tree.leaves.remove(leaf)
    assert tree.leaves.pins.oldest == 3
    tree.leaves.unpin(leaf)
    assert tree.leaves.pins.oldest is None


def test_changes_wait_for_a_leaf_that_is_not_in_memory() -> None:
    tree, _ = a_tree()
    leaf = load(tree, 0, 0)
    tree.insert(data(10, 5), 7)
    tree.leaves.begin_write(leaf)
    tree.leaves.end_write(leaf, 1)
    tree.leaves.waiting.limit_words = 1000
    tree.evict(leaf)
    merged: list[Key] = []
    tree.leaves.waiting.on_merged = merged.extend
    over, again = (Key(0, 12, size, True, (Pointer(0, 70000, size),)) for size in (5, 2))
    batch = KeyBatch([over, again])
    assert tree.place(batch) is not None, "its leaf would have to be read"
    assert tree.place_or_wait(batch) is None
    assert tree.insert_batch(batch, 8) == [(1, [cut_to(over, again)])], "only what waits is known"
    assert tree.leaves.needs(8)
    assert list(tree.leaves.deferred_bounds(8)) == [100]
    leaf = load(tree, 0, 0, [data(10, 5)])
    assert merged == [data(12, 2), data(14, 1)]
    rest = Key(0, 14, 3, True, (Pointer(0, 70002, 5),))
    assert list(leaf.live) == [data(10, 2), again, rest]
    assert tree.leaves.pins.oldest == 8
    assert (tree.leaves.unwritten_words, tree.leaves.waiting.keys) == (leaf.unwritten.word_count, 0)


def test_deletions_of_nothing_are_not_merged() -> None:
    tree, _ = a_tree()
    tree.leaves.waiting.limit_words = 1000
    tree.evict(load(tree, 0, 0))
    gone, nothing = Key(0, 8, 4, False, ()), Key(0, 30, 40, False, ())
    batch = KeyBatch([gone, nothing])
    assert tree.place_or_wait(batch) is None
    tree.insert_batch(batch, 8)
    leaf = load(tree, 0, 0, [data(10, 5)])
    assert list(leaf.live) == [data(12, 3)]
    assert list(leaf.unwritten.extents) == [gone]
    assert leaf.oldest_seq == tree.leaves.pins.oldest == 8


def test_a_leaf_takes_no_more_than_fits_with_what_is_on_disk_only() -> None:
    tree, _ = a_tree()
    leaf = load(tree, 0, 0, [data(10, 5)])
    tree.leaves.drop(leaf, data(10, 5))
    tree.leaves.waiting.limit_words = 1000
    tree.evict(leaf)
    most = tree.shape.node_words - 3 - KEY_WORDS_MAX
    assert tree.leaves.waiting.may_take(100, most, 1)
    assert not tree.leaves.waiting.may_take(100, most + 1, 1)
    assert not tree.leaves.waiting.may_take(200, 3, 1), "how full it is has to be known"
