# SPDX-License-Identifier: GPL-2.0-only
"""Ranges: what is wanted and not cached, in whole blocks, against a model of single sectors."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bcached.runtime.warming.ranges import Range, gaps, merged

BLOCK = 4
each_range = st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda pair: Range(pair[0], sum(pair)))
some_ranges = st.lists(each_range, max_size=6)


def sectors(ranges: list[Range]) -> set[int]:
    return {sector for each in ranges for sector in range(each.first, each.end)}


@given(some_ranges)
def test_merged_ranges_are_the_same_sectors_in_order_and_apart(ranges: list[Range]) -> None:
    found = merged(ranges)
    assert sectors(found) == sectors(ranges)
    assert all(before.end < after.first for before, after in pairwise(found))


@given(some_ranges, some_ranges)
def test_a_gap_is_a_block_that_is_wanted_and_of_which_nothing_is_cached(
    wanted: list[Range], cached: list[Range]
) -> None:
    missing = sectors(merged(wanted)) - sectors(cached)
    blocks = {
        sector
        for sector in missing
        if set(range(sector // BLOCK * BLOCK, (sector // BLOCK + 1) * BLOCK)) <= missing
    }
    found = list(gaps(merged(wanted), merged(cached), BLOCK))
    assert sectors(found) == blocks
    assert all(each.first % BLOCK == each.sectors % BLOCK == 0 for each in found)
