# SPDX-License-Identifier: GPL-2.0-only
"""Names and their slots."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.client.cache.values.names import ALL_SECTORS, NAME_BYTES_MAX, SLOT_SECTORS, name_bytes, offset_of
from bcached.keys import OFFSET_MAX


@given(st.binary(max_size=50))
def test_a_slot_is_a_whole_one_within_the_volume(name: bytes) -> None:
    offset = offset_of(name)
    assert offset % SLOT_SECTORS == 0
    assert 0 <= offset < ALL_SECTORS <= OFFSET_MAX


def test_the_hash_is_part_of_the_format() -> None:
    assert offset_of(b"") == 0xB4B2797457A << 17
    assert offset_of(b"cat.jpg") == offset_of(name_bytes("cat.jpg"))
    assert len({offset_of(b"%d" % number) for number in range(10_000)}) == 10_000


def test_a_str_and_its_bytes_are_one_name() -> None:
    assert name_bytes("é") == name_bytes("é".encode()) == b"\xc3\xa9"


def test_other_names_are_refused() -> None:
    with pytest.raises(TypeError, match="not int"):
        name_bytes(7)  # type: ignore[arg-type]
    assert len(name_bytes("n" * NAME_BYTES_MAX)) == NAME_BYTES_MAX
    with pytest.raises(ValueError, match="at most 4000 bytes, this one 4001"):
        name_bytes("n" * (NAME_BYTES_MAX + 1))
