# SPDX-License-Identifier: GPL-2.0-only
from itertools import pairwise

import pytest

from bcached.keys import Key, Pointer
from bcached.state.index.keys import key_rows as key_rows_module
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.key_rows import KeyRows


def key(offset: int, *pointers: Pointer, dirty: bool = False, inode: int = 0) -> Key:
    return Key(inode, offset, 8, dirty, pointers)


KEYS = [
    key(0, Pointer(0, 1 << 42, 255), dirty=True),
    key(8, Pointer(0, 64, 1), Pointer(1, 72, 2), Pointer(2, 80, 3)),
    key(100, Pointer(3, 64, 4)),
    key((1 << 62) - 8, Pointer(0, 8, 0), inode=(1 << 20) - 1),
]


def rows_of(*leaves: list[Key]) -> KeyRows:
    rows = KeyRows()
    for leaf in leaves:
        extents = Extents()
        for each in leaf:
            extents.insert(each)
        rows.add(extents)
    return rows


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_each_pointer_has_a_row_and_the_rows_of_a_key_stay_together(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_rows_module, "CHUNK_ROWS", chunk)
    rows = rows_of(KEYS[:2], KEYS[2:])
    assert rows.key_count == 4
    chunks = list(rows.chunks())
    expected = [
        (number, Key(each.inode, each.offset, each.sectors, each.dirty, (pointer,)))
        for number, each in enumerate(KEYS)
        for pointer in each.pointers
    ]
    assert [row for some in chunks for row in zip(some.keys.tolist(), some, strict=True)] == expected
    numbers = [set(some.keys.tolist()) for some in chunks]
    assert all(a.isdisjoint(b) for a, b in pairwise(numbers))


def test_nothing_has_no_rows() -> None:
    assert list(rows_of([]).chunks()) == []


@pytest.mark.parametrize("taken", [[], [1], [0, 3], [1, 2], [0, 1, 2, 3]])
def test_keys_that_are_taken_out_come_back_whole_and_the_others_keep_their_numbers(taken: list[int]) -> None:
    rows = rows_of(KEYS[:2], KEYS[2:])
    assert rows.take(taken) == [KEYS[number] for number in taken]
    left = {number for chunk in rows.chunks() for number in chunk.keys.tolist()}
    assert left == set(range(4)) - set(taken)
    assert rows.row_count == sum(len(KEYS[number].pointers) for number in left)
    rows.add_key(KEYS[0])
    assert rows.key_count == 5
    assert [number for chunk in rows.chunks() for number in chunk.keys.tolist()][-1] == 4
