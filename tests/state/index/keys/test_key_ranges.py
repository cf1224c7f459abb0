# SPDX-License-Identifier: GPL-2.0-only
"""Keys cut to ranges, and what keys take."""

from bcached.keys import Key, Pointer
from bcached.state.index.keys.key_ranges import cut_at, cut_to, spans_of, words_of


def data(start: int, size: int) -> Key:
    return Key(0, start, size, True, (Pointer(0, 64000 + start, 1),))


def test_a_key_is_cut_with_its_pointers() -> None:
    assert cut_at(data(10, 20), 15) == (data(10, 5), data(15, 15))
    assert cut_at(data(10, 20), 30) == (data(10, 20), None)


def test_a_key_is_cut_to_a_piece_of_its_range() -> None:
    assert cut_to(data(10, 20), data(10, 20)) == data(10, 20)
    assert cut_to(data(10, 20), data(15, 5)) == data(15, 5)
    assert cut_to(data(10, 20), data(25, 5)) == data(25, 5)


def test_keys_have_a_word_for_each_pointer_besides_their_head() -> None:
    keys = [data(0, 4), Key(1, 8, 4, False, ())]
    assert words_of(keys) == 3 + 2
    assert spans_of(keys) == [(0, 0, 4), (1, 8, 12)]
