# SPDX-License-Identifier: GPL-2.0-only
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.errors import BadField, FormatError
from bcached.format.bkey import (
    CHECK_DEVICE,
    END_MAX,
    Bounds,
    check_extent,
    check_node_key,
    is_available,
    key_words,
    pack_key,
    pack_keys,
    pack_padded_key,
    parse_key,
    parse_keys,
    parse_padded_key,
    parse_pointer,
    pointer_word,
)
from bcached.keys import INODE_MAX, Key, Pointer
from instruments.samples.format_samples import EXTENT, ROOT_KEY, UUID_KEY, keys

BOUNDS = Bounds(bucket_sectors=1024, first_bucket=1, bucket_counts=(600, 700))
ZERO = Key(inode=0, offset=0, sectors=0, dirty=False, pointers=())
MAX = Key(inode=INODE_MAX, offset=END_MAX, sectors=0, dirty=False, pointers=())
EXTENT_HEX = "0000800010000090 a81a020000000000 0180200000000000"


def extent(sector: int, sectors: int = 8, device: int = 0, offset: int = 100) -> Key:
    return Key(1, offset, sectors, False, (Pointer(device, sector, 3),))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (UUID_KEY, [0x9000000040000000, 0, 0x580001]),
        (ROOT_KEY, [0x90000000200FFFFF, END_MAX, 0x540001]),
        (EXTENT, [0x9000001000800000, 0x21AA8, 0x208001]),
        (ZERO, [1 << 63, 0]),
        (MAX, [1 << 63 | 0xFFFFF, END_MAX]),
        (Key(7, 0, 65535, False, ()), [1 << 63 | 0xFFFF << 20 | 7, 65535]),  # a deletion
        (
            Key(7, 8, 8, False, (Pointer(CHECK_DEVICE, 0, 0),)),  # a miss that is being filled
            [0x9000000000800007, 16, 0x7FF8000000000000],
        ),
    ],
)
def test_keys_are_the_words_the_kernel_makes(key: Key, words: list[int]) -> None:
    assert pack_key(key) == b"".join(word.to_bytes(8, "little") for word in words)
    assert key_words(key) == len(words)


@given(keys())
def test_a_key_comes_back(key: Key) -> None:
    assert parse_key(pack_key(key), 0, "here") == (key, 8 * key_words(key))
    assert parse_padded_key(b"before.." + pack_padded_key(key), 8, "here") == key
    assert len(pack_padded_key(key)) == 64


@given(st.lists(keys()).map(tuple))
def test_a_row_of_keys_comes_back(row: tuple[Key, ...]) -> None:
    assert parse_keys(pack_keys(row), "here") == row


@given(st.integers(0, (1 << 63) - 1))
def test_a_pointer_word_comes_back(word: int) -> None:
    assert pointer_word(parse_pointer(word)) == word


def test_bits_the_kernel_ignores_are_ignored() -> None:
    raw = bytearray.fromhex(EXTENT_HEX)
    for bit in (63, 59, 58, 55, 54, 37):
        raw[bit // 8] ^= 1 << bit % 8
    raw[23] ^= 0x80  # bit 63 of the pointer, which placeholders fill at random
    assert parse_keys(raw, "here") == (EXTENT,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([1 << 63], "key at here, word 0: expected 2 words or more, found 1 to the end"),
        ([9 << 60, 5], "key at here, word 0, pointers: expected at most 0 to the end, found 1"),
        ([15 << 60, 5] + [0] * 7, "key at here, word 0, pointers: expected at most 6, found 7"),
        ([1 << 63 | 1 << 56, 5], "key at here, word 0, csum: expected 0, found 1"),
        (
            [1 << 63, 1 << 63],
            "key at here, word 0, offset: expected at most 0x7fffffffffffffff, found 0x8000",
        ),
        ([1 << 63, 0, 1 << 63, 1 << 63], "key at here, word 2, offset"),
    ],
)
def test_words_that_are_no_key_are_named(words: list[int], message: str) -> None:
    with pytest.raises(BadField) as caught:
        parse_keys(b"".join(word.to_bytes(8, "little") for word in words), "here")
    assert message in str(caught.value)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_random_bytes_are_keys_or_refused(raw: bytes, offset: int) -> None:
    with suppress(FormatError):
        parse_keys(raw, "here")
    with suppress(FormatError):
        parse_key(raw, offset, "here")


def test_an_extent_inside_its_bucket_passes() -> None:
    for key in (
        extent(1024),
        extent(2048 - 8),
        extent(600 * 1024 - 8),
        extent(700 * 1024 - 8, device=1),
        extent(1024, 1024),
        Key(1, 5, 8, False, ()),
        extent(0, sectors=0),
        extent(0, device=CHECK_DEVICE),
    ):
        check_extent(key, BOUNDS, "here")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (extent(1024, offset=-1), "extent at here, start: expected at least 0, found -1"),
        (extent(2040, 9), "here, sectors: expected an end inside its bucket of 1024 sectors, found 1016 + 9"),
        (extent(1016), "extent at here, bucket: expected at least 1, found 0"),
        (extent(600 * 1024), "extent at here, bucket: expected below 600, found 600"),
        (extent(700 * 1024, device=1), "extent at here, bucket: expected below 700, found 700"),
        (extent(1024, device=2), "extent at here, device: expected below 2, found 2"),
    ],
)
def test_an_extent_that_leaves_its_bucket_is_refused(key: Key, message: str) -> None:
    with pytest.raises(BadField) as caught:
        check_extent(key, BOUNDS, "here")
    assert message in str(caught.value)


def test_a_second_copy_is_checked_too() -> None:
    key = Key(1, 0, 8, False, (Pointer(0, 1024, 0), Pointer(1, 0, 0)))
    with pytest.raises(BadField, match="bucket: expected at least 1, found 0"):
        check_extent(key, BOUNDS, "here")


def test_keys_of_nodes_and_of_the_uuid_table_pass() -> None:
    check_node_key(ROOT_KEY, BOUNDS, "here")
    check_node_key(UUID_KEY, BOUNDS, "here")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (MAX, "node key at here, pointers: expected at least 1, found 0"),
        (extent(1024, 0), "node key at here, sectors: expected at least 1, found 0"),
        (EXTENT, "node key at here, dirty: expected not dirty, found dirty"),
        (extent(0, 512), "node key at here, bucket: expected at least 1, found 0"),
        (extent(1025, 1024), "node key at here, sectors: expected an end inside its bucket"),
        (extent(1024, device=CHECK_DEVICE), "node key at here, device: expected below 2"),
    ],
)
def test_a_key_that_can_be_no_node_s_is_refused(key: Key, message: str) -> None:
    with pytest.raises(BadField) as caught:
        check_node_key(key, BOUNDS, "here")
    assert message in str(caught.value)


def test_only_real_devices_hold_data() -> None:
    assert is_available(Pointer(7, 0, 0))
    assert not is_available(Pointer(CHECK_DEVICE, 0, 0))
