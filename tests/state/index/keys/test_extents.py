# SPDX-License-Identifier: GPL-2.0-only
"""Extents against a model that knows every sector by itself."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcached.format.bkey import CHECK_DEVICE, key_words, pack_keys
from bcached.keys import Key, Pointer
from bcached.state.index.keys import extents as extents_module
from bcached.state.index.keys.extents import Extents

BUCKET = 32
Sector = tuple[int, int]  # inode, sector
Held = tuple[bool, tuple[tuple[int, int, int], ...]]  # dirty, and where: device, sector, gen
Model = dict[Sector, Held]


def sectors_of(key: Key) -> Model:
    """What a key says of each of its sectors."""
    return {
        (key.inode, key.offset + step): (
            key.dirty,
            tuple((pointer.device, pointer.sector + step, pointer.gen) for pointer in key.pointers),
        )
        for step in range(key.sectors)
    }


def holds_data(key: Key) -> bool:
    return any(pointer.device != CHECK_DEVICE for pointer in key.pointers)


def as_kept(key: Key) -> Key:
    """A placeholder is kept, where deletions are, as one of them."""
    return key if holds_data(key) else Key(key.inode, key.offset, key.sectors, key.dirty, ())


def model_of(keys: list[Key]) -> Model:
    model: Model = {}
    for key in keys:
        of_key = sectors_of(key)
        assert model.keys().isdisjoint(of_key)
        model |= of_key
    return model


def check_columns(extents: Extents) -> None:
    """What must hold of the columns whatever was done."""
    keys = list(extents)
    assert len(extents) == len(keys)
    assert extents.word_count == sum(map(key_words, keys))
    for left, right in pairwise(keys):
        assert (left.inode, left.end) <= (right.inode, right.offset)
    assert all(0 < len(run) <= extents_module.RUN_KEYS_MAX for run in extents.runs)
    assert all(len(run) == len(list(run.keys())) for run in extents.runs)
    assert [run.inode << 64 | run.ends[-1] for run in extents.runs] == extents._lasts
    assert sum(run.word_count for run in extents.runs) == extents.word_count


pointers = st.builds(
    Pointer,
    device=st.sampled_from([0, 0, 0, 1, CHECK_DEVICE]),
    # A multiple and a bit: so that some keys continue others and some cross into another bucket.
    sector=st.integers(0, 40).map(lambda number: BUCKET * 4 + number),
    gen=st.integers(1, 2),
)
keys = st.builds(
    Key,
    inode=st.sampled_from([0, 0, 0, 1, 7]),
    offset=st.integers(0, 60),
    sectors=st.integers(0, 24),
    dirty=st.booleans(),
    pointers=st.lists(pointers, max_size=3).map(tuple),
)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a few keys, so that what concerns several of them happens."""
    monkeypatch.setattr(extents_module, "RUN_KEYS_MAX", 4)


def apply(extents: Extents, model: Model, key: Key, *, keep_deletions: bool) -> None:
    """Insert into both, and compare what is said to be gone."""
    removed = model_of(list(extents.insert(key)))
    if key.sectors == 0:
        assert removed == {}
        return
    places = sectors_of(key)
    assert removed == {place: model[place] for place in places if place in model}
    for place in places:
        model.pop(place, None)
    if holds_data(key) or keep_deletions:
        model |= sectors_of(as_kept(key))


@settings(derandomize=True, max_examples=300)
@given(st.lists(keys, max_size=40), st.booleans(), st.sampled_from([0, BUCKET]))
def test_later_keys_cut_earlier_ones(row: list[Key], keep_deletions: bool, merge_within: int) -> None:
    extents = Extents(keep_deletions=keep_deletions, merge_within=merge_within)
    model: Model = {}
    for key in row:
        apply(extents, model, key, keep_deletions=keep_deletions)
        check_columns(extents)
        assert model_of(list(extents)) == model


@settings(derandomize=True, max_examples=200)
@given(st.lists(keys, max_size=30), keys, st.integers(1, 5))
def test_a_look_up_gives_what_lies_in_the_range_cut_to_it(row: list[Key], asked: Key, limit: int) -> None:
    extents = Extents()
    for key in row:
        extents.insert(key)
    found = extents.lookup(asked.inode, asked.offset, asked.end)
    wanted = {(asked.inode, sector) for sector in range(asked.offset, asked.end)}
    whole = model_of(list(extents))
    assert model_of(found) == {place: held for place, held in whole.items() if place in wanted}
    assert [key.offset for key in found] == sorted(key.offset for key in found)
    assert extents.lookup(asked.inode, asked.offset, asked.end, limit) == found[:limit]


@settings(derandomize=True, max_examples=200)
@given(st.lists(keys, max_size=30), keys)
def test_a_removal_is_an_insert_of_nothing(row: list[Key], gone: Key) -> None:
    removing, inserting = Extents(), Extents()
    for key in row:
        assert removing.insert(key) == inserting.insert(key)
    if gone.sectors:
        removed = removing.remove(gone.inode, gone.offset, gone.end)
        deletion = Key(gone.inode, gone.offset, gone.sectors, False, ())
        assert removed == inserting.insert(deletion)
    assert list(removing) == list(inserting)
    check_columns(removing)


@settings(derandomize=True, max_examples=100)
@given(st.lists(keys, max_size=30))
def test_packed_it_is_what_a_bset_holds(row: list[Key]) -> None:
    extents = Extents(keep_deletions=True)
    for key in row:
        extents.insert(key)
    assert extents.packed() == pack_keys(tuple(extents))
    assert len(extents.packed()) == 8 * extents.word_count


def extent(offset: int, sectors: int, sector: int, *, dirty: bool = False, gen: int = 1) -> Key:
    return Key(0, offset, sectors, dirty, (Pointer(0, sector, gen),))


def test_the_middle_of_an_extent_is_cut_out_and_both_ends_stay() -> None:
    extents = Extents()
    extents.insert(extent(100, 30, 1000))
    assert list(extents.insert(extent(110, 5, 2000))) == [extent(110, 5, 1010)]
    assert list(extents) == [extent(100, 10, 1000), extent(110, 5, 2000), extent(115, 15, 1015)]


def test_a_rewrite_from_the_beginning_takes_the_front_of_what_was_there() -> None:
    extents = Extents(merge_within=1 << 10)
    extents.insert(Key(0, 0, 64, False, (Pointer(0, 0, 1),)))
    for offset in (0, 8):
        cut = extents.insert(Key(0, offset, 8, False, (Pointer(0, 512 + offset, 1),)))
        assert cut == [Key(0, offset, 8, False, (Pointer(0, offset, 1),))]
        assert not extents.was_divided
    assert list(extents) == [
        Key(0, 0, 16, False, (Pointer(0, 512, 1),)),
        Key(0, 16, 48, False, (Pointer(0, 16, 1),)),
    ]
    assert extents.word_count == 6


@pytest.mark.parametrize("behind", [16, 17])
def test_a_rewrite_of_a_whole_extent_replaces_it_and_merges_with_what_it_touches(behind: int) -> None:
    extents = Extents(merge_within=1 << 10)
    for offset, sector in ((8, 100), (behind, 520)):
        extents.insert(Key(0, offset, 8, False, (Pointer(0, sector, 1),)))
    cut = extents.insert(Key(0, 8, 8, False, (Pointer(0, 512, 1),)))
    assert cut == [Key(0, 8, 8, False, (Pointer(0, 100, 1),))]
    apart = [Key(0, 8, 8, False, (Pointer(0, 512, 1),)), Key(0, 17, 8, False, (Pointer(0, 520, 1),))]
    assert list(extents) == (apart if behind == 17 else [Key(0, 8, 16, False, (Pointer(0, 512, 1),))])
    assert (len(extents), extents.word_count) == ((2, 6) if behind == 17 else (1, 3))
    assert not extents.was_divided


def test_a_cut_over_many_extents_gives_each_piece() -> None:
    extents = Extents()
    for number in range(20):
        extents.insert(extent(10 * number, 10, 1000 + 20 * number))
    removed = extents.remove(0, 5, 195)
    assert list(removed) == [
        extent(5, 5, 1005),
        *(extent(10 * number, 10, 1000 + 20 * number) for number in range(1, 19)),
        extent(190, 5, 1380),
    ]
    assert list(extents) == [extent(0, 5, 1000), extent(195, 5, 1385)]


def test_a_stale_key_cuts_as_any_other() -> None:
    extents = Extents()
    extents.insert(extent(0, 8, 100, gen=9))
    extents.insert(extent(0, 8, 200, gen=1))
    assert list(extents) == [extent(0, 8, 200, gen=1)]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (extent(0, 8, 64), extent(8, 8, 72)),
        (extent(0, 8, 64, dirty=True), extent(8, 8, 72, dirty=True)),
        (
            Key(0, 0, 8, True, (Pointer(0, 64, 1), Pointer(1, 96, 2))),
            Key(0, 8, 8, True, (Pointer(0, 72, 1), Pointer(1, 104, 2))),
        ),
    ],
)
def test_neighbours_that_continue_each_other_become_one(left: Key, right: Key) -> None:
    for first, second in ((left, right), (right, left)):
        extents = Extents(merge_within=BUCKET)
        extents.insert(first)
        extents.insert(second)
        assert list(extents) == [Key(0, 0, 16, left.dirty, left.pointers)]
        check_columns(extents)


def test_what_fills_a_gap_makes_one_of_three() -> None:
    extents = Extents(merge_within=BUCKET)
    for offset in (0, 16, 8):
        extents.insert(extent(offset, 8, 64 + offset))
    assert list(extents) == [extent(0, 24, 64)]
    check_columns(extents)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (extent(0, 8, 64), extent(9, 8, 72)),  # a gap between
        (extent(0, 8, 64), extent(8, 8, 73)),  # elsewhere on the device
        (extent(0, 8, 64), extent(8, 8, 72, dirty=True)),
        (extent(0, 8, 64), extent(8, 8, 72, gen=2)),
        (extent(0, 8, 88), extent(8, 8, 96)),  # the next bucket
        (extent(0, 8, 64), Key(0, 8, 8, False, (Pointer(0, 72, 1), Pointer(1, 72, 1)))),
        (extent(0, 8, 64), Key(0, 8, 8, False, (Pointer(1, 72, 1),))),
        (extent(0, 8, 64), Key(1, 8, 8, False, (Pointer(0, 72, 1),))),
    ],
)
def test_others_stay_as_they_are(left: Key, right: Key) -> None:
    extents = Extents(merge_within=BUCKET)
    extents.insert(left)
    extents.insert(right)
    assert list(extents) == [left, right]


def test_no_key_grows_beyond_what_its_size_field_holds() -> None:
    bucket = 1 << 20
    extents = Extents(merge_within=bucket)
    extents.insert(extent(0, 65535, 1))
    extents.insert(extent(65535, 1, 65536))
    assert [key.sectors for key in extents] == [65535, 1]


def test_without_being_told_to_nothing_is_merged() -> None:
    extents = Extents()
    extents.insert(extent(0, 8, 64))
    extents.insert(extent(8, 8, 72))
    assert len(extents) == 2


def test_a_hundred_thousand_keys_take_few_bytes_and_runs_of_the_right_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extents_module, "RUN_KEYS_MAX", 512)
    row = [extent(16 * number, 8, 8 * number) for number in range(100_000)]
    Random(1).shuffle(row)
    extents = Extents()
    for key in row:
        extents.insert(key)
    assert len(extents) == 100_000
    columns = [column for run in extents.runs for column in (run.ends, run.heads, *run.pointers)]
    assert sum(column.__sizeof__() for column in columns) <= 40 * 100_000
    assert len(extents.runs) < 100_000 // 200


@settings(derandomize=True, max_examples=200)
@given(
    st.lists(keys, max_size=30),
    st.tuples(st.integers(0, 8), st.integers(0, 80)),
    st.tuples(st.integers(0, 8), st.integers(0, 80)),
)
def test_between_two_positions_lies_what_a_model_says(
    row: list[Key], low: tuple[int, int], high: tuple[int, int]
) -> None:
    extents = Extents()
    for key in row:
        extents.insert(key)
    found = list(extents.between(low, high))
    whole = model_of(list(extents))
    assert model_of(found) == {place: held for place, held in whole.items() if low <= place < high}
    assert [(key.inode, key.offset) for key in found] == sorted((key.inode, key.offset) for key in found)


@settings(derandomize=True, max_examples=200)
@given(st.lists(keys, max_size=40), st.sampled_from([0, 1, 5, 7]), st.integers(0, 90), st.booleans())
def test_what_is_split_off_lies_behind_the_position_and_can_be_joined_again(
    row: list[Key], inode: int, sector: int, keep_deletions: bool
) -> None:
    lower = Extents(keep_deletions=keep_deletions)
    for key in row:
        lower.insert(key)
    whole = model_of(list(lower))
    upper = lower.split_off(inode, sector)
    for part in (lower, upper):
        check_columns(part)
    below, above = model_of(list(lower)), model_of(list(upper))
    assert below | above == whole
    assert all(place < (inode, sector) for place in below)
    assert all(place >= (inode, sector) for place in above)
    lower.join(upper)
    check_columns(lower)
    assert model_of(list(lower)) == whole
    again = Key(inode, sector, 3, False, ())
    assert model_of(list(lower.insert(again))) == {
        place: whole[place] for place in sectors_of(again) if place in whole
    }
