# SPDX-License-Identifier: GPL-2.0-only
"""One pass over pointers, whatever their order, tells each bucket's gen, its oldest, and what is live."""

from itertools import permutations

import numpy as np
import pytest

from bcached.state.accounting.check_counts import Census
from bcached.state.accounting.opening_counts import Recount
from bcached.state.buckets.geometry import Geometry

GEOMETRY = Geometry(
    bucket_count=600, first_bucket=1, bucket_sectors=64, block_sectors=8, journal_bucket_count=4
)
BUCKET = 9


def recount_of(base: int) -> Recount:
    on_disk = np.zeros(600, np.uint8)
    on_disk[BUCKET] = base
    return Recount(on_disk.copy(), on_disk)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize("base", [0, 100, 200, 255])
@pytest.mark.parametrize("offsets", [(0, 1, 2), (-3, 0, 5), (90, -50, 0), (127, -128, 1), (60, 90, -90)])
def test_the_order_in_which_pointers_are_met_does_not_matter(base: int, offsets: tuple[int, ...]) -> None:
    for order in permutations(offsets):
        gens = [base + offset & 255 for offset in order]
        one, together, singly = recount_of(base), recount_of(base), recount_of(base)
        census = Census(GEOMETRY, one.gens_on_disk)
        for gen in gens:
            one.add(numbers(BUCKET), numbers(gen), numbers(8), np.array([True]))
            singly.name_one(BUCKET, gen)
            census.raise_gen(BUCKET, gen)
        together.name(numbers(*[BUCKET] * len(gens)), numbers(*gens))
        expected = base + max(0, *offsets) & 255, base + min(0, *offsets) & 255
        for found in (one, together, singly):
            assert (found.gens[BUCKET], found.oldest[BUCKET]) == expected
        assert census.gens[BUCKET] == expected[0]
        assert one.sectors[BUCKET] == 8 * offsets.count(max(0, *offsets))
        assert singly.is_named.tolist() == together.is_named.tolist()
