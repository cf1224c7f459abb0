# SPDX-License-Identifier: GPL-2.0-only
"""Unwritten changes: merged from their log when they are needed, with the same result as at once."""

from hypothesis import given
from hypothesis import strategies as st

from bcached.keys import Key, Pointer
from bcached.state.index.keys.extents import Extents, row_of
from bcached.state.index.keys.unwritten import FEW_KEYS, Unwritten

BUCKET = 64
KEYS = st.builds(
    lambda inode, start, sectors, sector, kind: Key(
        inode,
        start,
        sectors,
        kind == 1,
        () if kind == 2 else tuple(Pointer(0, sector + number * 640, 1) for number in range(1 + (kind == 3))),
    ),
    st.integers(0, 1),
    st.integers(0, 200),
    st.integers(1, 20),
    st.sampled_from([64, 70, 76, 128, 640, 648]),
    st.sampled_from([0, 0, 0, 0, 1, 2, 3]),
)


@given(st.lists(KEYS, max_size=60), st.lists(KEYS, max_size=30), st.booleans())
def test_the_log_is_merged_as_if_each_key_had_been_inserted(
    first: list[Key], second: list[Key], plain: bool
) -> None:
    unwritten = Unwritten(Extents(keep_deletions=True, merge_within=BUCKET))
    expected = Extents(keep_deletions=True, merge_within=BUCKET)
    for part in (first, second):
        for key in part:
            if plain and len(key.pointers) != 1:
                continue
            unwritten.add(row_of(key))
            expected.insert(key)
        assert list(unwritten.extents) == list(expected)
        assert unwritten.extents.word_count == expected.word_count
    unwritten.recount()
    assert unwritten.word_count == expected.word_count


def test_words_are_counted_before_the_merge_and_corrected_only_on_request() -> None:
    unwritten = Unwritten(Extents(keep_deletions=True))
    for _ in range(FEW_KEYS + 3):
        unwritten.add(row_of(Key(0, 8, 8, False, (Pointer(0, 640, 1),))))
    assert len(unwritten.extents) == 1
    assert unwritten.word_count == 3 * (FEW_KEYS + 3)
    unwritten.recount()
    assert unwritten.word_count == 3


def test_an_exact_insert_tells_what_it_cut_of_the_log() -> None:
    unwritten = Unwritten(Extents(keep_deletions=True))
    old = Key(0, 0, 8, False, (Pointer(0, 640, 1),))
    unwritten.add(row_of(old))
    assert unwritten.insert(Key(0, 0, 8, False, (Pointer(0, 704, 1),))) == [old]
    assert unwritten.word_count == 3
