# SPDX-License-Identifier: GPL-2.0-only
"""One run of extents: cut, extended, divided and split."""

import pytest

from bcached.format.bkey import head_word, pointer_word
from bcached.keys import KEY_SECTORS_MAX, Key, Pointer
from bcached.state.index.keys.extent_run import Run

BUCKET = 64
INODE = 5


def key_of(start: int, size: int, *sectors: int) -> Key:
    return Key(INODE, start, size, True, tuple(Pointer(0, sector, 1) for sector in sectors))


def run_of(*keys: Key) -> Run:
    run = Run(INODE)
    for index, key in enumerate(keys):
        words = tuple(map(pointer_word, key.pointers))
        run.insert(index, key.end, head_word(INODE, key.sectors, key.dirty, len(words)), words)
    return run


def extended(run: Run, key: Key) -> bool:
    words = tuple(map(pointer_word, key.pointers))
    head = head_word(INODE, key.sectors, key.dirty, len(words))
    return run.extend(len(run) - 1, head, words, BUCKET)


def test_a_cut_out_of_the_middle_leaves_two() -> None:
    run = run_of(key_of(0, 10, 640))
    assert run.cut(0, 4, 6) == [key_of(4, 2, 644)]
    assert list(run.keys()) == [key_of(0, 4, 640), key_of(6, 4, 646)]
    assert run.word_count == 6


def test_a_cut_over_several_gives_their_pieces_in_order() -> None:
    run = run_of(key_of(0, 10, 640), key_of(10, 10, 700), key_of(30, 10, 800))
    assert run.cut(0, 5, 35) == [key_of(5, 5, 645), key_of(10, 10, 700), key_of(30, 5, 800)]
    assert list(run.keys()) == [key_of(0, 5, 640), key_of(35, 5, 805)]


def test_the_front_of_an_extent_is_taken_from_every_copy() -> None:
    run = run_of(key_of(0, 10, 640), key_of(10, 10, 700, 1400))
    assert run.take_front(1, 13) == key_of(10, 3, 700, 1400)
    assert list(run.keys()) == [key_of(0, 10, 640), key_of(13, 7, 703, 1403)]
    assert run.word_count == 7


@pytest.mark.parametrize("end", [0, 10], ids=["nothing", "all"])
def test_a_front_is_some_of_an_extent_and_not_all(end: int) -> None:
    run = run_of(key_of(0, 10, 640))
    with pytest.raises(AssertionError):
        run.take_front(0, end)


def test_an_extent_goes_on_only_where_every_copy_does() -> None:
    run = run_of(key_of(0, 10, 640, 1280))
    assert not extended(run, key_of(10, 2, 650, 1291)), "the second copy is elsewhere"
    assert not extended(run, key_of(10, 2, 650)), "one copy less"
    assert extended(run, key_of(10, 2, 650, 1290))
    assert list(run.keys()) == [key_of(0, 12, 640, 1280)]


def test_no_extent_goes_on_into_the_next_bucket() -> None:
    run = run_of(key_of(0, 4, BUCKET - 4))
    assert not extended(run, key_of(4, 4, BUCKET))


def test_no_extent_gets_more_sectors_than_a_key_can_have() -> None:
    run = run_of(key_of(0, KEY_SECTORS_MAX, 1))
    words = (pointer_word(Pointer(0, 1 + KEY_SECTORS_MAX, 1)),)
    assert not run.extend(0, head_word(INODE, 1, True, 1), words, 1 << 20)


def test_a_run_with_a_second_copy_has_a_second_column() -> None:
    run = run_of(key_of(0, 10, 640), key_of(10, 10, 700, 1400), key_of(30, 10, 800))
    assert [list(column)[1] for column in run.pointers] == [pointer_word(p) for p in run.key(1).pointers]
    assert run.keys_in(0, 3) == list(run.keys())
    assert run.word_count == 3 + 4 + 3


def test_a_deletion_has_no_pointer() -> None:
    run = run_of(key_of(0, 10), key_of(10, 10, 640))
    assert run.keys_in(0, 2) == [key_of(0, 10), key_of(10, 10, 640)]
    assert run.word_count == 2 + 3


def test_dividing_cuts_what_crosses_the_sector() -> None:
    run = run_of(key_of(0, 10, 640), key_of(20, 10, 700))
    assert run.divide(15) == 1
    assert run.divide(25) == 2
    assert list(run.keys()) == [key_of(0, 10, 640), key_of(20, 5, 700), key_of(25, 5, 705)]


def test_the_upper_half_is_split_off_with_its_words() -> None:
    keys = [key_of(10 * number, 10, 640 + 20 * number) for number in range(5)]
    run = run_of(*keys)
    upper = run.split()
    assert (list(run.keys()), list(upper.keys())) == (keys[:2], keys[2:])
    assert (run.word_count, upper.word_count) == (6, 9)
    assert "3 extents in [20, 50)" in repr(upper)
