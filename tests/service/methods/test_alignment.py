# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.errors import InvalidParameter
from bcached.keys import Key, Pointer
from bcached.service.methods.alignment import check_blocks

BLOCK_MASK = 7


def key(offset: int = 8, sectors: int = 16, sector: int = 1024) -> Key:
    return Key(1, offset, sectors, False, (Pointer(0, 2048, 0), Pointer(1, sector, 0)))


def test_a_key_of_whole_blocks_passes() -> None:
    check_blocks("keys", [key(), key()], BLOCK_MASK)
    check_blocks("keys", [], BLOCK_MASK)


@pytest.mark.parametrize("bad", [key(offset=4), key(sectors=4), key(sector=1028)])
def test_a_key_of_part_of_a_block_is_refused(bad: Key) -> None:
    for keys in ([bad], [key(), bad, key()], [key(), bad, key(offset=12)]):
        with pytest.raises(InvalidParameter, match="keys: expected multiples of 8 sectors, found") as raised:
            check_blocks("keys", keys, BLOCK_MASK)
        assert str(bad) in str(raised.value)  # the first of them


def test_blocks_of_a_sector_align_everything() -> None:
    check_blocks("keys", [key(offset=3, sectors=5, sector=7)], 0)
