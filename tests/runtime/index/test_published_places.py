# SPDX-License-Identifier: GPL-2.0-only
"""Which keys are published: those that are alone in their regions."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bcached.keys import Key, Pointer
from bcached.runtime.index.published_places import PublishedPlaces
from bcached.wire.change_map import ChangeMap, file_bytes
from bcached.wire.place_map import Placed

REGION, COUNT = 1 << 4, 1 << 10
OFFSETS = st.integers(0, 6 * REGION - 1)


def change_map() -> ChangeMap:
    memory = memoryview(bytearray(file_bytes(COUNT)))
    return ChangeMap.lay_out(memory, COUNT, 7, shift=4)


def key(offset: int, copies: int = 1) -> Key:
    pointers = tuple(Pointer(device, 8 + offset, 1) for device in range(copies))
    return Key(1, offset, 1, False, pointers)


@given(st.lists(st.tuples(OFFSETS, st.integers(1, 2)), max_size=8), st.sets(st.integers(0, 5), max_size=6))
def test_only_a_key_that_is_all_of_a_replaced_region_has_a_place(
    wanted: list[tuple[int, int]], regions: set[int]
) -> None:
    changes = change_map()
    keys = [key(*one) for one in wanted]
    replaced = [(1, region * REGION, (region + 1) * REGION) for region in regions]
    changes.count(keys)
    PublishedPlaces(changes).committed(keys, [*replaced, (1, 7, 8), (1, REGION, 3 * REGION)])
    those = Counter(one.offset // REGION for one in keys)
    expected = {
        one.offset // REGION
        for one in keys
        if those[one.offset // REGION] == 1 and not one.offset % REGION and len(one.pointers) == 1
    } & regions
    assert {region for region in range(6) if changes.place(1, region * REGION)} == expected


def test_a_key_that_was_found_alone_has_a_place() -> None:
    changes = change_map()
    places = PublishedPlaces(changes)
    places.found(REGION, key(REGION + 1))
    places.found(REGION + 1, key(REGION + 1))
    places.found(REGION, key(REGION, copies=2))
    assert changes.place(1, REGION) is None
    places.found(REGION, key(REGION))
    assert changes.place(1, REGION) == Placed(0, 1, key(REGION).pointers[0], 0)
