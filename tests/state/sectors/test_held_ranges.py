# SPDX-License-Identifier: GPL-2.0-only
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.state.sectors.held_ranges import HeldRanges


def some(*runs: tuple[int, int]) -> HeldRanges:
    pieces = HeldRanges()
    for start, end in runs:
        pieces.add(start, end, start)
    return pieces


def test_pieces_lie_in_order_however_they_came() -> None:
    pieces = some((20, 24), (0, 8), (8, 16), (24, 30), (16, 20))
    assert list(pieces) == [(0, 8, 0), (8, 16, 8), (16, 20, 16), (20, 24, 20), (24, 30, 24)]
    assert len(pieces) == 5


@pytest.mark.parametrize("bounds", [[24, 28, 36], [30, 31], [8, 10, 12], [14, 16, 18, 20]])
def test_a_row_is_added_as_its_pieces_are(bounds: list[int]) -> None:
    row, one_by_one = some((0, 8), (12, 14), (20, 24)), some((0, 8), (12, 14), (20, 24))
    row.add_row(bounds, 7)
    for start, end in pairwise(bounds):
        one_by_one.add(start, end, 7)
    assert list(row) == list(one_by_one)


def test_a_row_overlaps_nothing() -> None:
    with pytest.raises(AssertionError, match="overlap"):
        some((0, 8), (12, 14), (20, 24)).add_row([8, 10, 12, 14], 7)


@pytest.mark.parametrize("run", [(6, 9), (0, 8), (7, 8), (9, 13), (5, 20), (14, 21), (21, 22)])
def test_pieces_do_not_overlap(run: tuple[int, int]) -> None:
    pieces = some((0, 8), (12, 14), (20, 24))
    with pytest.raises(AssertionError, match="overlap"):
        pieces.add(*run, 0)
    assert list(pieces) == [(0, 8, 0), (12, 14, 12), (20, 24, 20)]


@pytest.mark.parametrize(
    ("run", "index"),
    [
        ((0, 8), 0),
        ((2, 4), 0),
        ((12, 13), 1),
        ((13, 14), 1),
        ((7, 9), None),
        ((8, 9), None),
        ((12, 21), None),
        ((24, 25), None),
    ],
)
def test_a_run_is_found_in_the_one_piece_that_holds_all_of_it(
    run: tuple[int, int], index: int | None
) -> None:
    assert some((0, 8), (12, 14), (20, 24)).find(*run) == index


def test_neighbouring_pieces_are_not_one() -> None:
    assert some((0, 8), (8, 16)).find(4, 12) is None


@pytest.mark.parametrize(
    ("run", "left"),
    [
        ((8, 16), []),
        ((8, 10), [(10, 16, 8)]),
        ((14, 16), [(8, 14, 8)]),
        ((10, 12), [(8, 10, 8), (12, 16, 8)]),
    ],
)
def test_a_cut_leaves_what_is_in_front_and_behind(
    run: tuple[int, int], left: list[tuple[int, int, int]]
) -> None:
    pieces = some((0, 8), (8, 16), (16, 24))
    removed = pieces.remove(*run)
    assert removed is not None
    assert removed.left == len(left)
    assert list(pieces) == [(0, 8, 0), *left, (16, 24, 16)]
    pieces.restore(removed)
    assert list(pieces) == [(0, 8, 0), (8, 16, 8), (16, 24, 16)]


def test_what_is_not_there_is_not_cut() -> None:
    pieces = some((0, 8), (16, 24))
    assert pieces.remove(4, 9) is None
    assert pieces.remove(8, 16) is None
    assert list(pieces) == [(0, 8, 0), (16, 24, 16)]


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8)), max_size=20),
)
def test_cuts_take_away_their_sectors_and_mending_brings_all_back(
    sizes: list[int], removals: list[tuple[int, int]]
) -> None:
    pieces, start = HeldRanges(), 0
    for size in sizes:
        pieces.add(start, start + size, size)
        start += size + size % 2  # some touch, some do not
    before = list(pieces)
    done, sectors = [], {sector for first, end, _ in before for sector in range(first, end)}
    for first, size in removals:
        removed = pieces.remove(first, first + size)
        if removed is not None:
            assert set(range(first, first + size)) <= sectors
            sectors -= set(range(first, first + size))
            done.append(removed)
        assert {sector for first, end, _ in pieces for sector in range(first, end)} == sectors
    for removed in reversed(done):
        pieces.restore(removed)
    assert list(pieces) == before
