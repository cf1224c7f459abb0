# SPDX-License-Identifier: GPL-2.0-only
"""Keys packed in columns stand as keys packed one by one."""

from itertools import pairwise
from random import Random

import pytest

from bcached.format.bkey import key_words, pack_keys, parse_keys
from bcached.keys import Key, Pointer
from bcached.state.index.keys.bset_packing import PackedKeys
from bcached.state.index.keys.extents import Extents


def some_extents(seed: int, keys: int, *, inodes: int = 3) -> Extents:
    """Extents of several inodes with none to three pointers."""
    rng = Random(seed)
    extents = Extents(keep_deletions=True)
    for _ in range(keys):
        pointers = tuple(
            Pointer(rng.randrange(4), rng.randrange(1 << 20), rng.randrange(256))
            for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))
        )
        extents.insert(Key(rng.randrange(inodes), rng.randrange(1 << 16), rng.randint(1, 30), True, pointers))
    return extents


@pytest.mark.parametrize("keys", [0, 1, 7, 2000])
def test_all_keys_stand_one_behind_the_other(keys: int) -> None:
    extents = some_extents(keys, keys)
    packed = PackedKeys([extents])
    assert packed.cut(0, len(packed)) == pack_keys(tuple(extents))
    assert packed.word_count == extents.word_count
    assert len(packed) == len(extents)


def test_several_parts_are_packed_as_one() -> None:
    whole = some_extents(3, 900)
    expected = pack_keys(tuple(whole))
    upper = whole.split_off(1, 1 << 15)
    packed = PackedKeys([whole, upper])
    assert len(upper) > 100
    assert 0 <= len(packed.cut(0, len(packed))) - len(expected) <= 5 * 8, "one key may have been cut in two"


def test_parts_are_as_full_as_whole_keys_allow() -> None:
    extents = some_extents(5, 500)
    packed = PackedKeys([extents])
    parts = packed.filled(60)
    assert b"".join(parts) == packed.cut(0, len(packed))
    keys = [parse_keys(part, "part") for part in parts]
    for part, following in pairwise(keys):
        words = sum(map(key_words, part))
        assert words <= 60
        assert words + key_words(following[0]) > 60


def test_the_cut_behind_some_words_is_at_the_end_of_a_key() -> None:
    extents = some_extents(6, 300)
    packed, keys = PackedKeys([extents]), list(extents)
    for words in range(0, packed.word_count, 17):
        number = packed.behind(words)
        assert sum(map(key_words, keys[:number])) >= words
        assert number == 0 or sum(map(key_words, keys[: number - 1])) < words
    assert packed.end_of(10) == (keys[10].inode, keys[10].end)
