# SPDX-License-Identifier: GPL-2.0-only
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bcached.format.checksum import ALL_ONES, crc64_seeded, crc64_we

CHECK = b"123456789"


def test_the_catalogue_s_check_value() -> None:
    assert crc64_we(CHECK) == 0x62EC59E3F1A4F00A


def test_known_values_of_nothing_and_of_zeros() -> None:
    assert crc64_we(b"") == 0
    assert crc64_we(bytes(32)) == 0x30CCAB3E861F5A93


def test_a_seed_is_the_register_s_first_value() -> None:
    assert crc64_seeded(CHECK, 0x1234) == 0x3C170413537CB7E9
    assert crc64_seeded(CHECK, ALL_ONES) == crc64_we(CHECK)


@given(st.binary(max_size=64), st.integers(0, ALL_ONES))
def test_it_is_the_polynomial_division_bit_by_bit(data: bytes, seed: int) -> None:
    register = seed
    for byte in data:
        register ^= byte << 56
        for _ in range(8):
            register = (register << 1) ^ (0x42F0E1EBA9EA3693 if register >> 63 else 0)
            register &= ALL_ONES
    assert crc64_seeded(data, seed) == register ^ ALL_ONES


def test_every_kind_of_buffer_is_taken() -> None:
    array = np.frombuffer(CHECK, dtype=np.uint8)
    for data in (bytearray(CHECK), memoryview(CHECK), memoryview(array.data)):
        assert crc64_we(data) == crc64_we(CHECK)
