# SPDX-License-Identifier: GPL-2.0-only
"""The gen of a node, from its first bset alone."""

import pytest

from bcached.format.bset import Bset, pack_bset
from bcached.format.node_gen import gen_of_node
from bcached.keys import Key, Pointer

MAGIC = 0x1234
EXTENT = Key(0, 64, 8, True, (Pointer(0, 8192, 3),))


def packed(gen: int, keys: tuple[Key, ...] = (EXTENT,), version: int = 1) -> bytes:
    key = Key(0, 0, 64, False, (Pointer(1, 4096, gen),))
    return pack_bset(Bset(77, keys, version), key, MAGIC, 512)


@pytest.mark.parametrize("gen", [0, 1, 2, 97, 128, 254, 255])
@pytest.mark.parametrize("keys", [(), (EXTENT,)])
def test_it_is_the_one_that_the_checksum_was_begun_with(gen: int, keys: tuple[Key, ...]) -> None:
    assert gen_of_node(packed(gen, keys), 1, 4096, MAGIC) == gen


def test_there_is_none_of_another_set_sector_or_device_or_of_damaged_keys() -> None:
    raw = packed(7)
    assert gen_of_node(raw, 1, 4096, MAGIC + 1) is None
    assert gen_of_node(raw, 1, 4160, MAGIC) is None
    assert gen_of_node(raw, 0, 4096, MAGIC) is None
    assert gen_of_node(raw[:40] + b"\1" + raw[41:], 1, 4096, MAGIC) is None


def test_there_is_none_without_a_seed_or_beyond_the_end() -> None:
    assert gen_of_node(packed(7, version=0), 1, 4096, MAGIC) is None
    assert gen_of_node(packed(7)[:48], 1, 4096, MAGIC) is None
