# SPDX-License-Identifier: GPL-2.0-only
"""Bsets of 40 keys, of which some sectors were not written, or were damaged later."""

from collections.abc import Callable
from random import Random

import pytest

from bcached.format.bset import Bset, PlacedBset, pack_bset
from bcached.keys import Key, Pointer
from bcached.store.btree.node_reader import NodeFound
from bcached.store.reading.torn_append import MappedSectors, may_be_torn

NODE = Key(1, 0, 512, False, (Pointer(0, 1024, 0),))
OLD = Key(0, 0, 1000, True, (Pointer(0, 100_000, 3),))


def key(number: int, sector: int = 0) -> Key:
    """A key of its own, which the next one does not continue."""
    return Key(0, 1000 + 10 * number, 8, True, (Pointer(0, sector or 4096 + 16 * number, 3),))


KEYS = tuple(map(key, range(40)))
LATER = (KEYS[0], *map(key, range(100, 140)))  # of another attempt at the same append


def bset_of(keys: tuple[Key, ...]) -> bytearray:
    """As it is on the device, up to the end of its block."""
    return bytearray(pack_bset(Bset(7, keys), NODE, 1, 4096))


def node_with(raw: bytes | bytearray) -> NodeFound:
    """A leaf with an older bset, and these bytes of the last one."""
    words = int.from_bytes(raw[28:32], "little")
    older = [PlacedBset(0, 1, Bset(7, (OLD,)))]
    return NodeFound(NODE, 0, (0, 0), bsets=older, is_torn=True, torn=bytes(raw[: 32 + 8 * words]))


def is_torn(raw: bytes | bytearray, journaled: tuple[Key, ...] = KEYS) -> bool:
    return may_be_torn(node_with(raw), MappedSectors(journaled))


@pytest.mark.parametrize("written", [{0}, {0, 1}, {0, 2}])
@pytest.mark.parametrize("old", [bytes(512), Random(1).randbytes(512)])
def test_any_sectors_behind_the_first_may_be_missing(written: set[int], old: bytes) -> None:
    raw = bset_of(KEYS)
    for sector in {1, 2} - written:
        raw[512 * sector : 512 * (sector + 1)] = old
    assert is_torn(raw)


def test_a_sector_may_be_that_of_an_earlier_attempt() -> None:
    raw = bset_of(LATER)
    raw[512:1024] = bset_of(KEYS)[504:1016]  # the keys are at other bytes
    assert is_torn(raw, KEYS + LATER)


def zeros_within(raw: bytearray) -> None:
    raw[600:640] = bytes(40)


def another_key(raw: bytearray) -> None:
    raw[32 + 24 * 25 : 32 + 24 * 26] = bset_of((key(25, sector=9000),))[32:56]


def a_bit_of_the_first_sector(raw: bytearray) -> None:
    raw[100] ^= 4


def another_count(raw: bytearray) -> None:
    raw[28] = 3 * 12


@pytest.mark.parametrize("damage", [zeros_within, another_key, a_bit_of_the_first_sector, another_count])
def test_what_no_missing_sector_explains_is_damage(damage: Callable[[bytearray], None]) -> None:
    raw = bset_of(KEYS)
    damage(raw)
    assert not is_torn(raw)


@pytest.mark.parametrize("lacking", range(20))
def test_a_key_of_the_first_sector_that_the_journal_lacks_was_not_being_written(lacking: int) -> None:
    raw = bset_of(KEYS)
    raw[512:] = bytes(len(raw) - 512)
    assert is_torn(raw)
    journaled = tuple(it for number, it in enumerate(KEYS) if number != lacking)
    assert not is_torn(raw, journaled)
    assert not is_torn(raw, (*journaled, key(lacking, sector=9000)))  # it maps the sectors to others


def test_what_a_key_left_of_one_in_an_older_bset_is_in_no_journal_entry() -> None:
    rest = Key(0, 600, 400, True, (Pointer(0, 100_600, 3),))
    raw = bset_of((rest, *KEYS))
    raw[1024:] = bytes(len(raw) - 1024)
    assert is_torn(raw)
    raw = bset_of((Key(0, 600, 401, True, rest.pointers), *KEYS))  # more than there was
    assert not is_torn(raw)


def test_a_deletion_is_known_by_its_range_and_a_placeholder_always() -> None:
    gone, reserved = Key(0, 500, 8, False, ()), Key(0, 700, 8, False, (Pointer(4095, 0, 0),))
    raw = bset_of((gone, reserved, *KEYS))
    raw[512:] = bytes(len(raw) - 512)
    assert is_torn(raw, (Key(0, 496, 16, False, ()), *KEYS))
    assert not is_torn(raw, (Key(0, 496, 8, False, ()), *KEYS))


def test_keys_of_another_leaf_are_none_of_the_append() -> None:
    raw = bset_of((Key(1, 600, 8, True, (Pointer(0, 4096, 3),)), *KEYS))
    assert not is_torn(raw, (Key(1, 600, 8, True, (Pointer(0, 4096, 3),)), *KEYS))
