# SPDX-License-Identifier: GPL-2.0-only
from random import Random

import pytest

from bcached.keys import Key, Pointer
from bcached.state.index.keys.bset_merge import Columns
from bcached.state.index.keys.extent_columns import columns_of_rows, extents_of_parts
from bcached.state.index.keys.extents import RUN_KEYS_MAX, Extents
from bcached.state.index.keys.key_rows import KeyRows

BUCKET = 64


def parts_of(keys: list[Key], size: int = 100) -> list[Columns]:
    """The keys in parts, as they are read."""
    parts = list[Columns]()
    for begin in range(0, len(keys), size):
        rows = KeyRows()
        for key in keys[begin : begin + size]:
            rows.add_key(key)
        parts += map(columns_of_rows, rows.chunks())
    return parts


def inserted(keys: list[Key]) -> Extents:
    extents = Extents(merge_within=BUCKET)
    for key in keys:
        extents.insert(key)
    return extents


def sectors_of(extents: Extents) -> list[tuple[object, ...]]:
    """Each sector by itself: inserting does not merge across the ends of runs."""
    return [
        (key.inode, key.offset + number, key.dirty, pointer.device, pointer.sector + number, pointer.gen)
        for key in extents
        for (pointer,) in [key.pointers]
        for number in range(key.sectors)
    ]


def random_keys(random: Random, *, overlapping: bool) -> list[Key]:
    keys, end, place = [], 0, 0
    for _ in range(random.choice((0, 1, 30, 3 * RUN_KEYS_MAX))):
        sectors = random.choice((1, 8, 16))
        end += random.choice((0, 0, 0, 8))
        place = place if random.random() < 0.7 else random.randrange(1000) * BUCKET
        place += -place % BUCKET if place % BUCKET + sectors > BUCKET else 0
        start = random.randrange(2000) if overlapping else end
        pointer = Pointer(random.choice((0, 0, 0, 1)), place, random.choice((3, 3, 3, 4)))
        keys.append(Key(7 if end > 500 else 0, start, sectors, random.random() < 0.9, (pointer,)))
        end, place = end + sectors, place + sectors
    return keys


@pytest.mark.parametrize("seed", range(20))
def test_they_are_what_inserting_each_key_gives(seed: int) -> None:
    keys = random_keys(Random(seed), overlapping=False)
    extents = inserted(keys)
    if seed % 2:
        Random(seed).shuffle(keys)
    parts = parts_of(keys)
    found = extents_of_parts(parts, BUCKET)
    assert not parts
    assert sectors_of(found) == sectors_of(extents)
    assert (found.key_count, found.word_count) == (len(list(found)), 3 * len(list(found)))
    assert seed % 2 == 0 or len(found) <= len(extents)  # nor does this across the ends of parts
    assert all(0 < len(run) <= RUN_KEYS_MAX for run in found.runs)
    for key in random_keys(Random(seed + 100), overlapping=True):
        found.insert(key)
        extents.insert(key)
    assert sectors_of(found) == sectors_of(extents)


@pytest.mark.parametrize("seed", range(5))
def test_later_rows_cut_earlier_ones(seed: int) -> None:
    keys = random_keys(Random(seed), overlapping=True)
    assert list(extents_of_parts(parts_of(keys), BUCKET)) == list(inserted(keys))
