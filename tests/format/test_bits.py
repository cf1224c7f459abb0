# SPDX-License-Identifier: GPL-2.0-only
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.format.bits import BitField

words = st.integers(0, (1 << 64) - 1)
fields = st.integers(0, 63).flatmap(
    lambda shift: st.builds(BitField, st.just(shift), st.integers(1, 64 - shift))
)


@given(fields, words, words)
def test_what_was_put_is_got_and_the_other_bits_stay(field: BitField, word: int, value: int) -> None:
    fitting = value & field.limit
    changed = field.put(word, fitting)
    assert field.get(changed) == fitting
    assert changed & ~field.mask == word & ~field.mask


@given(st.lists(words))
def test_a_column_s_fields_are_those_of_its_words(row: list[int]) -> None:
    for field in (BitField(0, 20), BitField(20, 16), BitField(36, 1), BitField(51, 12), BitField(60, 3)):
        assert field.of_column(np.array(row, np.uint64)).tolist() == [field.get(word) for word in row]


@given(fields, words)
def test_a_value_too_wide_is_our_own_bug(field: BitField, word: int) -> None:
    for value in (field.limit + 1, -1):
        with pytest.raises(AssertionError):
            field.put(word, value)
