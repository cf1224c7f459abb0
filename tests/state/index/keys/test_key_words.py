# SPDX-License-Identifier: GPL-2.0-only
"""The words of packed extents, changed in place, against the format's own packing."""

from hypothesis import given
from hypothesis import strategies as st

from bcached.format.bkey import head_word, pointer_word
from bcached.keys import KEY_SECTORS_MAX, Pointer
from bcached.state.index.keys.key_words import (
    SECTOR_LIMIT,
    SECTOR_SHIFT,
    SIZE_LIMIT,
    SIZE_SHIFT,
    pointer_count,
)

sizes = st.integers(1, KEY_SECTORS_MAX)


@given(sizes, sizes, st.booleans(), st.integers(0, 3))
def test_a_head_that_is_cut_differs_in_its_sectors_only(
    one: int, other: int, dirty: bool, count: int
) -> None:
    head = head_word(7, max(one, other), dirty, count)
    assert (head >> SIZE_SHIFT & SIZE_LIMIT, pointer_count(head)) == (max(one, other), count)
    assert head - (abs(one - other) << SIZE_SHIFT) == head_word(7, min(one, other), dirty, count)


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 16))
def test_a_pointer_that_is_moved_differs_in_its_sector_only(sector: int, skipped: int) -> None:
    word = pointer_word(Pointer(3, sector, 200))
    assert word >> SECTOR_SHIFT & SECTOR_LIMIT == sector
    assert word + (skipped << SECTOR_SHIFT) == pointer_word(Pointer(3, sector + skipped, 200))
