# SPDX-License-Identifier: GPL-2.0-only
"""Batches: packed as single keys are, and placed and inserted like these."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.format.bkey import CHECK_DEVICE, pack_keys
from bcached.keys import KEY_SECTORS_MAX, Key, Pointer
from bcached.state.index.key_batch import KeyBatch
from bcached.state.index.keys.extents import row_of
from bcached.state.index.tree import Missing, Tree
from instruments.samples.small_trees import a_tree, load

POINTERS = st.builds(
    Pointer, st.sampled_from([0, 1, CHECK_DEVICE]), st.integers(64, 6400), st.integers(0, 255)
)
KEYS = st.builds(
    Key,
    st.integers(0, 1),
    st.integers(0, 280),
    st.integers(1, 30),
    st.booleans(),
    st.one_of(st.tuples(POINTERS), st.tuples(POINTERS), st.tuples(), st.tuples(POINTERS, POINTERS)),
)


def loaded_tree() -> Tree:
    tree, _ = a_tree()
    while missing := tree.missing(0, 0, 1 << 40):
        load(tree, *at(missing))
    while missing := tree.missing(1, 0, 1 << 40):
        load(tree, *at(missing))
    return tree


def at(missing: Missing) -> tuple[int, int]:
    key = missing.key
    return key.inode, key.end - 1


@given(st.lists(KEYS, max_size=20))
def test_a_batch_has_the_words_and_rows_of_its_keys(keys: list[Key]) -> None:
    batch = KeyBatch(keys)
    assert batch.packed() == pack_keys(tuple(keys))
    assert batch.rows == [row_of(key) for key in keys]


@given(st.lists(KEYS, max_size=20))
def test_a_batch_sums_up_what_is_to_be_checked_of_its_keys(keys: list[Key]) -> None:
    batch = KeyBatch(keys)
    assert batch.inodes == {key.inode for key in keys}
    assert batch.is_dirty == any(key.dirty for key in keys)
    assert batch.end_bits >= max((key.end for key in keys), default=0)
    assert batch.end_bits.bit_length() == max((key.end.bit_length() for key in keys), default=0)


@pytest.mark.parametrize(
    "wrong",
    [
        Key(0, -8, 8, False, (Pointer(0, 64, 0),)),
        Key(0, 8, -8, False, (Pointer(0, 64, 0),)),
        Key(0, 0, KEY_SECTORS_MAX + 1, False, (Pointer(0, 64, 0),)),
        Key(0, 0, 8, False, (Pointer(0, -64, 0),)),
        Key(0, 0, 8, False, (Pointer(0, 1 << 43, 0),)),
        Key(0, 0, 8, False, (Pointer(0, 64, 256),)),
    ],
    ids=str,
)
def test_a_field_that_would_reach_into_another_is_packed_in_no_batch(wrong: Key) -> None:
    right = Key(0, 64, 8, False, (Pointer(0, 64, 0),))
    with pytest.raises(AssertionError):
        KeyBatch([right, wrong, right])


@given(st.lists(st.lists(KEYS, max_size=12), max_size=5))
def test_a_batch_changes_the_tree_as_its_keys_do_one_by_one(batches: list[list[Key]]) -> None:
    ours, other = loaded_tree(), loaded_tree()
    for seq, keys in enumerate(batches, 1):
        batch = KeyBatch(keys)
        assert ours.place(batch) is None
        cut = dict(ours.insert_batch(batch, seq))
        for number, key in enumerate(keys):
            assert list(cut.get(number, ())) == list(other.insert(key, seq))
    for inode in (0, 1):
        assert ours.lookup(inode, 0, 1 << 40) == other.lookup(inode, 0, 1 << 40)
    assert ours.leaves.memory_words == other.leaves.memory_words
    assert ours.leaves.pins.oldest == other.leaves.pins.oldest


def test_a_batch_is_placed_only_when_all_its_leaves_are_loaded() -> None:
    tree, _ = a_tree()
    first = load(tree, 0, 0)
    inside, crossing = (Key(0, start, 8, False, (Pointer(0, 64, 1),)) for start in (10, 96))
    batch = KeyBatch([inside])
    assert tree.place(batch) is None
    assert batch.leaves == [first]
    missing = tree.place(KeyBatch([inside, crossing]))
    assert isinstance(missing, Missing)
    load(tree, *at(missing))
    batch = KeyBatch([inside, crossing])
    assert tree.place(batch) is None
    assert batch.leaves == [first, None]


@given(st.lists(KEYS, max_size=20), st.lists(KEYS, min_size=1, max_size=12), st.integers(0, 60))
def test_a_range_that_holds_what_its_key_does_not_cover_is_not_left_out(
    older: list[Key], keys: list[Key], more: int
) -> None:
    tree = loaded_tree()
    for key in older:
        tree.insert(key, 1)
    batch = KeyBatch(keys)
    assert tree.place(batch) is None
    spans = [(key.inode, key.offset, key.end + more) for key in keys]
    others = tree.uncovered([*spans, (1, 0, 9)], batch)
    assert others[-1] == (1, 0, 9), "it has no key of its own"
    for span, key in zip(spans, keys, strict=True):
        found = tree.lookup(*span)
        assert not isinstance(found, Missing)
        rests = [it for it in found if it.offset < key.offset or it.end > key.end]
        assert span in others or not rests


def test_ranges_of_new_keys_and_of_those_stored_again_are_left_out() -> None:
    tree = loaded_tree()
    new, again = Key(0, 1 << 20, 8, False, (Pointer(0, 64, 1),)), Key(0, 90, 8, False, (Pointer(0, 80, 1),))
    tree.insert(again, 1)
    for keys in ([new, again], [again, new]):
        batch = KeyBatch(keys)
        assert tree.place(batch) is None
        assert not tree.uncovered([(key.inode, key.offset, key.end) for key in keys], batch)
        assert tree.uncovered([(key.inode, key.offset + 1, key.end) for key in keys], batch)
        crossed = [(key.inode, key.offset, key.end) for key in reversed(keys)]
        assert tree.uncovered(crossed, batch) == crossed


def test_ranges_looked_up_together_are_those_that_hold_keys() -> None:
    tree = loaded_tree()
    key = Key(0, 96, 8, False, (Pointer(0, 64, 1),))
    tree.insert(key, 1)
    found = tree.lookup_several([(0, 0, 90), (0, 90, 120), (0, 104, 130), (1, 0, 9)], 10)
    assert not isinstance(found, Missing)
    assert list(found) == [(0, 90, 120)]
    assert tree.lookup_several([(0, 90, 120)], 10) == {(0, 90, 120): tree.lookup(0, 90, 120)}
    unloaded, _ = a_tree()
    assert isinstance(unloaded.lookup_several([(0, 90, 120)], 10), Missing)
