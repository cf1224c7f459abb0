# SPDX-License-Identifier: GPL-2.0-only
"""A leaf read column by column is the leaf read key by key."""

from random import Random

import pytest

from bcached.format.bkey import CHECK_DEVICE, Bounds, pack_key, pack_keys
from bcached.keys import Key, Pointer
from bcached.state.index.keys.bset_merge import merge_bsets
from bcached.state.index.keys.extents import RUN_KEYS_MAX, Extents

BUCKET = 32
BOUNDS = Bounds(BUCKET, 4, (1000, 1000))
LOW, HIGH = (0, 0), (9, 1 << 40)
Bset = list[Key]


def some_bset(
    rng: Random, *, keys: int, sectors: int, deletions: bool, inodes: tuple[int, ...] = (0, 3)
) -> Bset:
    """Keys in order that do not overlap each other."""
    extents = Extents(keep_deletions=True)
    for _ in range(keys):
        size = rng.choice([4, 4, 4, rng.randint(1, 20)])
        start = rng.randrange(sectors) * 4 if size == 4 else rng.randrange(sectors * 4)
        pointer = Pointer(rng.randrange(2), rng.randrange(4, 1000) * BUCKET, rng.randrange(3))
        if rng.randrange(2):  # as if written in order, so that neighbours continue each other
            start = start // BUCKET * BUCKET + min(start % BUCKET, BUCKET - size)
            pointer = Pointer(0, 4 * BUCKET + start % (900 * BUCKET), 0)
        pointers = () if deletions and not rng.randrange(4) else (pointer,)
        extents.insert(Key(rng.choice(inodes), start, size, rng.random() < 0.5, pointers))
    return list(extents)


def key_by_key(bsets: list[Bset]) -> list[Key]:
    extents = Extents(merge_within=BUCKET)
    for bset in bsets:
        for key in bset:
            extents.insert(key)
    return list(extents)


def laid_over(bsets: list[Bset], low: tuple[int, int] = LOW, high: tuple[int, int] = HIGH) -> Extents | None:
    return merge_bsets([pack_keys(tuple(bset)) for bset in bsets], low, high, BOUNDS, BUCKET)


@pytest.mark.parametrize("seed", range(60))
def test_columns_give_what_keys_one_by_one_give(seed: int) -> None:
    rng = Random(seed)
    bsets = [
        some_bset(rng, keys=rng.randrange(80), sectors=rng.choice([20, 200, 2000]), deletions=number > 0)
        for number in range(rng.randint(1, 6))
    ]
    found = laid_over(bsets)
    assert found is not None
    assert list(found) == key_by_key(bsets)
    assert found.key_count == len(list(found))
    assert found.word_count == 3 * found.key_count


def test_a_leaf_of_thousands_of_keys_can_be_changed_afterwards() -> None:
    rng = Random(1)
    keys = [Key(0, number * 4, 4, False, (Pointer(0, 4 * BUCKET, 0),)) for number in range(5000)]
    found = laid_over([keys])
    assert found is not None
    assert all(len(run) <= RUN_KEYS_MAX for run in found.runs)
    same = Extents(merge_within=BUCKET)
    for key in keys:
        same.insert(key)
    for _ in range(500):
        start = rng.randrange(20000)
        new = Key(0, start, rng.randint(1, 30), True, (Pointer(1, 5 * BUCKET, 1),))
        assert found.insert(new) == same.insert(new)
    assert list(found) == list(same)


def test_keys_of_several_bsets_that_continue_each_other_are_one() -> None:
    place = 4 * BUCKET
    first, second, third = (Key(0, at, 4, True, (Pointer(0, place + at, 0),)) for at in (0, 4, 8))
    found = laid_over([[second], [first, third]])
    assert found is not None
    assert list(found) == [Key(0, 0, 12, True, first.pointers)]
    for stranger in (
        Key(0, 4, 4, False, second.pointers),
        Key(0, 4, 4, True, (Pointer(0, place + 4, 1),)),
        Key(0, 4, 4, True, (Pointer(1, place + 4, 0),)),
        Key(0, 4, 4, True, (Pointer(0, place + 5, 0),)),
    ):
        apart = laid_over([[first, stranger, third]])
        assert apart is not None
        assert list(apart) == [first, stranger, third]
    edge = BUCKET - 4
    behind = [Key(0, at, 4, True, (Pointer(0, place + at, 0),)) for at in (edge, BUCKET)]
    of_two_buckets = laid_over([behind])
    assert of_two_buckets is not None
    assert list(of_two_buckets) == behind


def test_an_empty_leaf_is_one() -> None:
    found = laid_over([[]])
    assert found is not None
    assert list(found) == []


def test_a_key_cut_to_nothing_is_skipped() -> None:
    nothing = Key(0, 50, 0, False, (Pointer(0, 4 * BUCKET, 0),))
    key = Key(0, 60, 4, False, (Pointer(0, 4 * BUCKET, 0),))
    found = laid_over([[nothing, key]])
    assert found is not None
    assert list(found) == [key]


GOOD = Pointer(0, 4 * BUCKET, 0)
ODD = {
    "two pointers": [Key(0, 0, 4, False, (GOOD, GOOD))],
    "a placeholder": [Key(0, 0, 4, False, (Pointer(CHECK_DEVICE, 0, 0),))],
    "a device there is not": [Key(0, 0, 4, False, (Pointer(2, 4 * BUCKET, 0),))],
    "a bucket in front": [Key(0, 0, 4, False, (Pointer(0, 3 * BUCKET, 0),))],
    "a bucket behind": [Key(0, 0, 4, False, (Pointer(0, 1000 * BUCKET, 0),))],
    "crossing a bucket": [Key(0, 0, 4, False, (Pointer(0, 5 * BUCKET - 2, 0),))],
    "below the leaf": [Key(0, -4, 8, False, (GOOD,))],
    "beyond the leaf": [Key(9, (1 << 40) - 2, 4, False, (GOOD,))],
    "out of order": [Key(0, 40, 4, False, (GOOD,)), Key(0, 0, 4, False, (GOOD,))],
    "overlapping in a bset": [Key(0, 0, 8, False, (GOOD,)), Key(0, 4, 8, False, (GOOD,))],
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_odd_is_left_to_a_closer_look(odd: str) -> None:
    plain = [Key(0, 100, 4, False, (GOOD,))]
    assert laid_over([plain]) is not None
    assert laid_over([plain, ODD[odd]]) is None


def test_a_key_that_is_cut_off_is_left_to_a_closer_look() -> None:
    raw = pack_key(Key(0, 100, 4, False, (GOOD,)))
    assert merge_bsets([raw + raw[:16]], LOW, HIGH, BOUNDS, BUCKET) is None
    assert merge_bsets([raw[:16]], LOW, HIGH, BOUNDS, BUCKET) is None
