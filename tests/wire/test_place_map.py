# SPDX-License-Identifier: GPL-2.0-only
"""Places of keys, as the daemon writes and clients read them."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from bcached.keys import INODE_MAX, KEY_SECTORS_MAX, Key, Pointer
from bcached.wire.place_map import INODE_SHIFT, PLACE_BYTES, Placed, PlaceMap

POINTERS = st.builds(
    Pointer, st.integers(0, (1 << 12) - 1), st.integers(0, (1 << 43) - 1), st.integers(0, 255)
)
VERSIONS = st.integers(0, (1 << 32) - 1)
SECTORS = st.integers(1, KEY_SECTORS_MAX)
REGIONS = st.integers(0, (1 << INODE_SHIFT) - 1)


SHIFT = 3


def place_map(count: int = 1) -> tuple[bytearray, PlaceMap]:
    memory = bytearray(PLACE_BYTES * count)
    return memory, PlaceMap(memoryview(memory))


def put(places: PlaceMap, inode: int, region: int, version: int, sectors: int, pointer: Pointer) -> None:
    counters = memoryview(bytearray(4)).cast("I")
    counters[0] = version
    places.put_keys([Key(inode, region << SHIFT, sectors, False, (pointer,))], counters, 0, SHIFT)


@given(st.integers(0, INODE_MAX), REGIONS, VERSIONS, SECTORS, POINTERS, VERSIONS)
def test_what_was_put_is_found_by_its_region_only(
    inode: int, region: int, version: int, sectors: int, pointer: Pointer, gc_epoch: int
) -> None:
    _, places = place_map()
    places.gc_epoch = gc_epoch
    put(places, inode, region, version, sectors, pointer)
    assert places.get(9, inode, region) == Placed(version, sectors, pointer, gc_epoch)
    assert places.get(9, inode ^ 1, region) is places.get(9, inode, region ^ 1) is None


def test_the_form_is_that_of_the_interface() -> None:
    memory, places = place_map(4)
    places.gc_epoch = 2
    put(places, 3, 77, 11, 8, Pointer(1, 4096, 200))
    at = (77 + 3 * 2654435761) % 4 * PLACE_BYTES
    first, where, pointed, last = struct.unpack_from("=QQQQ", memory, at)
    assert (first, where) == (11 | 8 << 32, 77 | 3 << 44)
    assert pointed == 200 | 4096 << 8 | 1 << 51
    mixed = first * 0x9E3779B97F4A7C15 ^ where * 0xC2B2AE3D27D4EB4F
    mixed ^= pointed * 0x165667B19E3779F9 ^ 2 * 0xD6E8FEB86659FD93
    assert last == 2 | (mixed % (1 << 64) >> 32) << 32


@given(st.lists(st.tuples(VERSIONS, SECTORS, POINTERS), min_size=2, max_size=2), st.data())
def test_a_place_that_is_part_old_and_part_new_is_none(
    two: list[tuple[int, int, Pointer]], data: st.DataObject
) -> None:
    memory, places = place_map()
    images = []
    for version, sectors, pointer in two:
        put(places, 0, 5, version, sectors, pointer)
        images.append(struct.unpack("=QQQQ", memory))
    torn = [images[data.draw(st.integers(0, 1))][word] for word in range(4)]
    struct.pack_into("=QQQQ", memory, 0, *torn)
    found = places.get(0, 0, 5)
    assert (found is not None) == (tuple(torn) in images)


def test_no_place_is_put_for_a_region_beyond_them() -> None:
    memory, places = place_map()
    put(places, 0, 1 << INODE_SHIFT, 1, 8, Pointer(0, 8, 0))
    assert not any(memory)
    assert places.get(0, 0, 0) is None
