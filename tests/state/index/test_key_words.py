# SPDX-License-Identifier: GPL-2.0-only
"""The words of packed extents against the format's own packing."""

from hypothesis import given
from hypothesis import strategies as st

from bcached.format.bkey import head_word, parse_pointer, pointer_word
from bcached.keys import KEY_SECTORS_MAX, Pointer
from bcached.state.index.key_words import moved, pointer_count, resized, sectors_of

sizes = st.integers(1, KEY_SECTORS_MAX)


@given(sizes, sizes, st.booleans(), st.integers(0, 3))
def test_a_resized_head_differs_in_its_sectors_only(before: int, after: int, dirty: bool, count: int) -> None:
    head = head_word(7, before, dirty, count)
    assert (sectors_of(head), pointer_count(head)) == (before, count)
    assert resized(head, after - before) == head_word(7, after, dirty, count)


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 16))
def test_a_moved_pointer_differs_in_its_sector_only(sector: int, skipped: int) -> None:
    pointer = Pointer(3, sector, 200)
    assert parse_pointer(moved(pointer_word(pointer), skipped)) == Pointer(3, sector + skipped, 200)
