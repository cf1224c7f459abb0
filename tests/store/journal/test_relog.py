# SPDX-License-Identifier: GPL-2.0-only
"""Keys that are still needed: what they come to, and how many words that can be at most."""

from random import Random

import pytest

from bcached.format.bkey import key_words, pack_keys, parse_keys
from bcached.keys import Key, Pointer
from bcached.store.journal.relog import NeededKeys, Record

Model = dict[int, tuple[int, ...]]


def data(offset: int, sectors: int, at: int = 0, copies: int = 1) -> Key:
    return Key(0, offset, sectors, False, tuple(Pointer(n, at, 1) for n in range(copies)))


def record(seq: int, *keys: Key) -> Record:
    return Record(seq, seq, pack_keys(keys), len(keys))


def needed(*records: Record, members: int = 1) -> NeededKeys:
    found = NeededKeys(members)
    for one in records:
        found.add(one)
    return found


def model_of(keys: list[Key]) -> Model:
    """Of each sector where it lies; nowhere if it was deleted."""
    model: Model = {}
    for key in keys:
        for step in range(key.sectors):
            model[key.offset + step] = tuple(pointer.sector + step for pointer in key.pointers)
    return model


def test_what_is_released_is_forgotten_and_the_rest_is_there_in_order() -> None:
    keys = [data(10 * number, 5, number) for number in range(6)]
    found = needed(record(3, *keys[:2]), record(5, keys[2]), record(6, *keys[3:]))
    assert found.words == 18
    found.release(4)
    assert found.words == 12
    oldest = found.oldest
    assert oldest == record(5, keys[2])
    found.release(5)
    assert parse_keys(found.packed(), "here") == tuple(keys[2:])
    found.release(7)
    assert found.oldest is None
    assert (found.words, found.cuts, found.packed()) == (0, 0, b"")


def test_when_nothing_is_needed_all_is_forgotten() -> None:
    found = needed(record(3, data(0, 5)))
    found.release(None)
    assert found.oldest is None


def test_of_what_lies_over_each_other_the_last_is_there() -> None:
    found = needed(record(1, data(0, 100, 1000)), record(2, Key(0, 40, 20, False, ()), data(50, 5, 7)))
    (part,) = found.merged(100)
    assert parse_keys(part, "here") == (
        data(0, 40, 1000),
        Key(0, 40, 10, False, ()),
        data(50, 5, 7),
        Key(0, 55, 5, False, ()),
        data(60, 40, 1060),
    )


@pytest.mark.parametrize("members", [1, 3])
def test_it_never_comes_to_more_words_than_was_said_and_to_the_same_sectors(members: int) -> None:
    for seed in range(60):
        random = Random(seed)
        found, keys = NeededKeys(members), list[Key]()
        width = random.choice([30, 300, 3000])
        for seq in range(1, 40):
            some = []
            for _ in range(random.randint(1, 4)):
                sectors = random.randint(1, random.choice([2, 28]))
                copies = random.randint(0, members)
                some.append(data(random.randrange(width - sectors), sectors, random.randrange(9999), copies))
            at_most = found.merged_words_max(sum(map(key_words, some)), len(some))
            found.add(record(seq, *some))
            assert found.merged_words_max() == at_most
            keys += some
            if random.random() < 0.7:
                continue
            parts = found.merged(20)
            assert all(len(part) <= 160 for part in parts)
            assert sum(map(len, parts)) <= 8 * at_most
            pieces = [key for part in parts for key in parse_keys(part, "here")]
            assert model_of(pieces) == model_of(keys)
            if random.random() < 0.15:
                # Relogged: keys merged by one relog divide each other no more.
                found.replace([Record(seq, 1, part, 0) for part in parts])
                assert found.words == found.merged_words_max() == sum(map(len, parts)) // 8
