# SPDX-License-Identifier: GPL-2.0-only
"""Filters of the regions in which a leaf has keys: an empty one may be unknown, no key is hidden."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from bcached.keys import KEY_SECTORS_MAX, Key, Pointer
from bcached.state.index.keys.extents import Extents
from bcached.state.index.region_filter import REGION_SHIFT, REGIONS_MAX, RegionFilter

REGION = 1 << REGION_SHIFT
KEYS = st.builds(
    lambda inode, offset, sectors: Key(inode, offset, sectors, False, (Pointer(0, 1024, 1),)),
    st.integers(0, (1 << 20) - 1),
    st.integers(0, 1 << 60),
    st.integers(1, KEY_SECTORS_MAX),
)


def extents_of(*keys: Key) -> Extents:
    extents = Extents()
    for key in keys:
        extents.insert(key)
    return extents


def at(region: int, inode: int = 0) -> Key:
    return Key(inode, region * REGION, 8, False, (Pointer(0, 1024, 1),))


@given(st.lists(KEYS, min_size=1, max_size=20), st.data())
def test_no_sector_of_a_key_is_excluded(keys: list[Key], data: st.DataObject) -> None:
    extents = extents_of(*keys)
    made = RegionFilter(extents)
    for key in extents:
        sector = data.draw(st.integers(key.offset, key.end - 1))
        before, behind = (data.draw(st.integers(0, 2 * REGION)) for _ in range(2))
        assert not made.excludes(key.inode, max(sector - before, 0), sector + 1 + behind)


def test_nearly_all_other_regions_are_excluded() -> None:
    random = Random(1)
    regions = random.sample(range(1 << 40), 3000)
    made = RegionFilter(extents_of(*map(at, sorted(regions[:2000]))))
    excluded = [made.excludes(0, region * REGION, (region + 1) * REGION) for region in regions]
    assert not any(excluded[:2000])
    assert excluded[2000:].count(False) < 30
    others = [made.excludes(1, region * REGION, (region + 1) * REGION) for region in regions]
    assert others.count(False) < 90, "of another volume"


def test_a_long_range_is_never_excluded() -> None:
    made = RegionFilter(extents_of(at(7)))
    assert made.excludes(0, 100 * REGION, (100 + REGIONS_MAX) * REGION)
    assert not made.excludes(0, 100 * REGION, (100 + REGIONS_MAX) * REGION + 1)


def test_a_leaf_without_keys_excludes_all() -> None:
    assert RegionFilter(Extents()).excludes(0, 0, REGION)
