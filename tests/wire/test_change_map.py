# SPDX-License-Identifier: GPL-2.0-only
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.errors import BadField, BadMagic
from bcached.keys import KEY_SECTORS_MAX, OFFSET_MAX, Key, Pointer
from bcached.wire.change_map import COUNTER_LIMIT, REGION_SHIFT, ChangeMap, file_bytes
from bcached.wire.map_header import HEADER_BYTES
from bcached.wire.place_map import PLACE_BYTES, Placed

COUNT = 64
REGION = 1 << REGION_SHIFT


def fresh(life: int = 7) -> bytearray:
    memory = bytearray(file_bytes(COUNT))
    ChangeMap.lay_out(memoryview(memory), COUNT, life).release()
    return memory


def key(offset: int, sectors: int = 8, inode: int = 0) -> Key:
    return Key(inode, offset, sectors, False, ())


def test_the_header_is_seven_little_endian_words_and_the_counters_follow_the_page() -> None:
    memory = fresh(life=0x0102030405060708)
    assert memory[:8] == b"bccdchng"
    words = [int.from_bytes(memory[at : at + 8], "little") for at in range(8, 56, 8)]
    places_at = HEADER_BYTES + 4 * COUNT
    assert words == [1, COUNT, 0x0102030405060708, REGION_SHIFT, places_at, COUNT]
    assert len(memory) == places_at + PLACE_BYTES * COUNT


def test_a_counter_is_where_the_interface_says() -> None:
    memory = fresh()
    ours = ChangeMap(memoryview(memory), COUNT, REGION_SHIFT)
    ours.count([key(5 * REGION + 8, inode=3)])
    at = HEADER_BYTES + 4 * ((5 + 3 * 2654435761) % COUNT)
    assert int.from_bytes(memory[at : at + 4], sys.byteorder) == 1
    assert sum(memory[HEADER_BYTES:]) == 1


@given(
    inode=st.integers(0, (1 << 20) - 1),
    offset=st.integers(0, OFFSET_MAX - KEY_SECTORS_MAX),
    sectors=st.integers(1, KEY_SECTORS_MAX),
    shift=st.integers(3, 20),
)
def test_a_change_counts_once_in_each_region_that_it_touches(
    inode: int, offset: int, sectors: int, shift: int
) -> None:
    count = 1 << 14
    ours = ChangeMap(memoryview(bytearray(file_bytes(count))), count, shift)
    ours.count([key(offset, sectors, inode)])
    regions = {
        sector >> shift for sector in (*range(offset, offset + sectors, 1 << shift), offset + sectors - 1)
    }
    assert sum(ours.counters) == len(regions)
    assert all(ours.counter(inode, region << shift) == 1 for region in regions)


def test_a_counter_wraps() -> None:
    ours = ChangeMap(memoryview(fresh()), COUNT, REGION_SHIFT)
    ours.counters[0] = COUNTER_LIMIT
    ours.count([key(0)])
    assert ours.counter(0, 0) == 0


def test_what_the_daemon_counts_the_reader_sees_and_cannot_change() -> None:
    memory = fresh()
    ours = ChangeMap(memoryview(memory), COUNT, REGION_SHIFT)
    theirs = ChangeMap.parse(memoryview(memory).toreadonly(), "map")
    ours.count([key(0), key(8)])
    assert (theirs.counter(0, 0), theirs.life, theirs.shift) == (2, 7, REGION_SHIFT)
    ours.retire()
    assert theirs.life == 0
    with pytest.raises(TypeError):
        theirs.count([key(0)])


@pytest.mark.parametrize(
    ("at", "error", "words"),
    [
        (0, BadMagic, "change map at x"),
        (8, BadField, "version"),
        (16, BadField, "count"),
        (16 + 7, BadField, "count"),
        (32 + 1, BadField, "shift"),
        (40, BadField, "places_at"),
        (48, BadField, "places"),
        (48 + 7, BadField, "places"),
    ],
)
def test_a_header_with_one_field_wrong_is_refused(at: int, error: type[Exception], words: str) -> None:
    memory = fresh()
    memory[at] ^= 0x21
    with pytest.raises(error, match=words):
        ChangeMap.parse(memoryview(memory), "x")


def test_a_file_without_places_has_none() -> None:
    memory = fresh()[: HEADER_BYTES + 4 * COUNT]
    memory[40:56] = bytes(16)
    theirs = ChangeMap.parse(memoryview(memory), "x")
    theirs.put_places([Key(0, 0, 8, False, (Pointer(0, 8, 1),))])
    assert theirs.place(0, 0) is None


def test_a_place_holds_until_the_next_change_in_its_region() -> None:
    ours = ChangeMap.parse(memoryview(fresh()), "x")
    one = Key(3, 5 * REGION, 8, False, (Pointer(7, 1 << 40, 255),))
    ours.count([one])
    ours.put_places([one])
    ours.note_collection()
    assert ours.place(3, 5 * REGION) == Placed(1, 8, one.pointers[0], 0)
    assert ours.place(3, 6 * REGION) is ours.place(2, 5 * REGION) is None
    ours.put_places([one])
    assert ours.place(3, 5 * REGION) == Placed(1, 8, one.pointers[0], 1)
    ours.count([key(5 * REGION + 100, inode=3)])
    assert ours.place(3, 5 * REGION) is None


def test_a_file_that_is_too_short_is_refused() -> None:
    with pytest.raises(BadField, match="length"):
        ChangeMap.parse(memoryview(bytearray(100)), "x")
