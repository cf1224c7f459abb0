# SPDX-License-Identifier: GPL-2.0-only
"""Extents cut from leased buckets."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from bcached.client.cache.carving import PAGE_SECTORS, SMALL_SHARE, Carver
from bcached.keys import Key, Pointer

BUCKET = 128


def bucket(number: int, copies: int = 1) -> Key:
    pointers = tuple(Pointer(device, number * BUCKET, 7) for device in range(copies))
    return Key(0, 0, BUCKET, False, pointers)


def cut_all(carver: Carver, offset: int, sectors: int, lease: Callable[[], Key]) -> list[Key]:
    """All keys of an object, with a bucket leased whenever one is needed."""
    keys = []
    while sectors:
        if carver.needs_lease(sectors):
            carver.lease(lease())
        keys.append(carver.cut(3, offset, sectors))
        offset, sectors = keys[-1].end, sectors - keys[-1].sectors
    return keys


@given(st.lists(st.integers(1, 5 * BUCKET), max_size=40), st.integers(1, 3))
def test_every_sector_is_cut_once_and_belongs_to_a_lease(wanted: list[int], copies: int) -> None:
    carver, leased = Carver(BUCKET), 0
    used: set[int] = set()

    def lease() -> Key:
        nonlocal leased
        leased += 1
        return bucket(leased - 1, copies)

    for sectors in wanted:
        keys, offset = cut_all(carver, 1000, sectors, lease), 1000
        for key in keys:
            assert (key.inode, key.offset, key.dirty, len(key.pointers)) == (3, offset, False, copies)
            offset = key.end
        assert offset == 1000 + sectors
        if sectors <= BUCKET // SMALL_SHARE:
            assert len(keys) == 1
        for key in [*keys, *carver.take_unused()]:
            first, those = key.pointers[0].sector, range(key.sectors)
            assert first // BUCKET == (first + key.sectors - 1) // BUCKET
            assert {one.sector for one in key.pointers} == {first}
            assert used.isdisjoint(first + at for at in those)
            used |= {first + at for at in those}
    assert len(used) + carver.sectors_left == leased * BUCKET


def test_no_more_is_leased_than_needed() -> None:
    carver = Carver(BUCKET)
    carver.lease(bucket(0))
    assert carver.cut(0, 0, 120).sectors == 120
    assert (carver.needs_lease(8), carver.needs_lease(9), carver.needs_lease(17)) == (False, True, False)


def test_a_small_object_begins_in_the_next_bucket_and_the_rest_is_released() -> None:
    carver = Carver(BUCKET)
    carver.lease(bucket(0))
    carver.cut(0, 0, 120)
    carver.lease(bucket(1))
    assert carver.cut(0, 0, 16).pointers == (Pointer(0, BUCKET, 7),)
    (unused,) = carver.take_unused()
    assert (unused.sectors, unused.pointers) == (8, (Pointer(0, 120, 7),))
    assert carver.take_unused() == ()


def test_a_page_is_begun_behind_what_is_in_use() -> None:
    carver = Carver(BUCKET)
    carver.begin_page()  # nothing is leased
    carver.lease(bucket(0))
    carver.begin_page()
    assert carver.cut(0, 0, 3).pointers == (Pointer(0, 0, 7),)
    carver.begin_page()
    assert [(one.sectors, one.pointers[0].sector) for one in carver.take_unused()] == [(PAGE_SECTORS - 3, 3)]
    carver.begin_page()
    assert carver.take_unused() == ()
    assert carver.cut(0, 0, BUCKET - PAGE_SECTORS - 1).pointers == (Pointer(0, PAGE_SECTORS, 7),)
    carver.begin_page()  # takes the bucket's last sector
    assert (carver.sectors_left, carver.needs_lease(1)) == (0, True)
