# SPDX-License-Identifier: GPL-2.0-only
"""Objects as bytes: what is decoded is what was encoded, and anything else is none."""

import pytest
from fastcrc import crc64
from hypothesis import given
from hypothesis import strategies as st

from bcached.client.cache.values.object_format import (
    CHECKED_AT,
    HEADER_BYTES,
    ON_A_PAGE_BYTES,
    PAGE_BYTES,
    bytes_needed,
    decoded,
    encoded,
    value_at,
)

NAMES, BLOCKS = st.binary(max_size=4000), st.sampled_from([512, 1024, 4096, 16384])


def stored(name: bytes = b"cat", value: bytes = b"meow", block_bytes: int = 512) -> bytes:
    return b"".join(encoded(name, 3, value, 1111, 2222, block_bytes)[0])


def test_the_layout() -> None:
    data = stored()
    assert (len(data), data[:8], data[16:24]) == (512, b"bccdobjt", b"\x01\0\x03\0\x03\0\0\0")
    assert data[24:48] == b"\x04".ljust(8, b"\0") + b"\x57\x04".ljust(8, b"\0") + b"\xae\x08".ljust(8, b"\0")
    assert data[48:] == b"catmeow".ljust(512 - 48, b"\0")
    assert data[8:16].hex() == "319ef825ab61e227"


@given(NAMES, st.binary(max_size=9000), BLOCKS)
def test_what_was_encoded_is_decoded(name: bytes, value: bytes, block_bytes: int) -> None:
    data = stored(name, value, block_bytes)
    found = decoded(data, name)
    assert found is not None
    assert (found.seal.codec, found.value, found.seal.expires_at_us) == (3, value, 2222)
    assert found.seal == encoded(name, 3, value, 1111, 2222, block_bytes)[1]
    assert crc64.xz(data[CHECKED_AT : found.seal.length]) == found.seal.crc
    assert data[CHECKED_AT:].startswith(found.seal.head + value)
    assert len(data) % block_bytes == 0
    assert bytes_needed(data) == value_at(len(name), len(value)) + len(value) <= len(data)


@pytest.mark.parametrize("length", [ON_A_PAGE_BYTES - 1, ON_A_PAGE_BYTES, ON_A_PAGE_BYTES + 4095, 1 << 20])
@pytest.mark.parametrize("name", [b"", b"n" * 4000])
def test_a_long_value_begins_on_a_page_and_none_is_copied(length: int, name: bytes) -> None:
    value = bytes(range(256)) * (length // 256 + 1)
    parts, seal = encoded(name, 0, memoryview(value)[:length], 1, 0, 4096)
    found = decoded(b"".join(parts), name)
    assert found is not None
    assert found.value == value[:length]
    assert found.seal == seal
    begins = PAGE_BYTES if length >= ON_A_PAGE_BYTES else HEADER_BYTES + len(name)
    assert value_at(len(name), length) == len(parts[0]) == begins
    assert getattr(parts[1], "obj", None) is value


@given(st.integers(0, HEADER_BYTES + 6), st.integers(0, 7))
def test_one_changed_bit_makes_it_none(at: int, bit: int) -> None:
    data = bytearray(stored())
    data[at] ^= 1 << bit
    assert decoded(bytes(data), b"cat") is None


@given(st.binary(max_size=600))
def test_other_bytes_are_none(data: bytes) -> None:
    assert decoded(data, b"cat") is None
    assert decoded(b"bccdobjt" + data, b"cat") is None


def test_another_name_and_a_part_are_none() -> None:
    data = stored(value=b"v" * 3000)
    assert decoded(data, b"dog") is None
    assert decoded(data, b"catv") is None
    assert decoded(data[:1024], b"cat") is None
    assert bytes_needed(data[:48]) == 3051
    assert bytes_needed(data[:47]) == 0


@given(NAMES, st.binary(max_size=300))
def test_a_part_of_one_and_a_part_of_another_are_none(name: bytes, value: bytes) -> None:
    old, new = stored(name, b"1" + value * 9, 512), stored(name, b"2" + value * 9, 512)
    if len(new) > 512:
        assert decoded(new[:512] + old[512:], name) in (None, decoded(new, name))
    assert (new[512:] == old[512:]) or decoded(old[:512] + new[512:], name) is None
