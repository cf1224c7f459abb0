# SPDX-License-Identifier: GPL-2.0-only
import numpy as np
import pytest

from bcached.state.accounting.check_counts import Census, Use
from bcached.state.buckets.bucket_table import Mark
from bcached.state.buckets.geometry import Geometry

GEOMETRY = Geometry(
    bucket_count=600, first_bucket=1, bucket_sectors=64, block_sectors=8, journal_bucket_count=4
)


def census(**gens: int) -> Census:
    on_disk = np.zeros(600, np.uint8)
    for name, gen in gens.items():
        on_disk[int(name.removeprefix("b"))] = gen
    return Census(GEOMETRY, on_disk)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("bucket", "pointer", "behind"),
    [(5, 5, 0), (6, 5, 1), (5, 6, 0), (3, 250, 9), (250, 3, 0), (128, 0, 128), (129, 0, 0), (0, 1, 0)],
)
def test_staleness_is_the_kernel_s_gen_after(bucket: int, pointer: int, behind: int) -> None:
    found = census(b9=bucket).behind(numbers(9), numbers(pointer))
    assert found.tolist() == [behind]


def test_the_newest_pointer_raises_the_gen_whatever_the_order() -> None:
    for order in ([3, 7, 5], [7, 5, 3], [5, 3, 7]):
        columns = census(b9=1)
        columns.raise_gens(numbers(9, 9, 9), numbers(*order))
        assert columns.gens[9] == 7
        assert columns.ahead_of_disk()[9] == 6
        assert columns.gens_on_disk[9] == 1


def test_a_pointer_half_the_circle_away_is_old_and_raises_nothing() -> None:
    columns = census(b9=0)
    columns.raise_gens(numbers(9, 9), numbers(128, 200))
    assert columns.gens[9] == 0
    columns.raise_gens(numbers(9), numbers(127))
    assert columns.gens[9] == 127


def test_only_live_keys_are_counted_and_old_ones_remembered() -> None:
    columns = census(b9=3)
    buckets, gens = numbers(9, 9, 10), numbers(3, 1, 0)
    columns.count(buckets, columns.behind(buckets, gens), numbers(8, 16, 32), np.array([True, True, False]))
    assert (columns.sectors[9], columns.dirty_sectors[9], columns.oldest[9]) == (8, 8, 1)
    assert (columns.sectors[10], columns.dirty_sectors[10], columns.oldest[10]) == (32, 0, 0)
    assert [columns.marks[bucket] for bucket in (8, 9, 10)] == [Mark.NONE, Mark.DIRTY, Mark.RECLAIMABLE]


def test_a_bucket_has_one_use() -> None:
    columns = census()
    assert columns.claim(9, Use.PRIO) == Use.FREE
    assert columns.claim(9, Use.BTREE) == Use.PRIO
    assert columns.claim(2, Use.UUID) == Use.JOURNAL
    assert columns.claim(0, Use.UUID) == Use.RESERVED
    assert [Use(int(columns.uses[bucket])) for bucket in (0, 1, 4, 5, 9)] == [
        Use.RESERVED,
        Use.JOURNAL,
        Use.JOURNAL,
        Use.FREE,
        Use.PRIO,
    ]
    assert columns.marks[9] == Mark.METADATA


def test_a_bucket_of_unknown_gen_believes_the_first_pointer() -> None:
    known = np.ones(600, bool)
    known[9:11] = False
    columns = Census(GEOMETRY, np.zeros(600, np.uint8), known)
    columns.raise_gens(numbers(9, 8), numbers(200, 200))
    assert (columns.gens[9], columns.gens[8]) == (200, 0)
    columns.raise_gens(numbers(9), numbers(201))
    assert columns.gens[9] == 201
    assert columns.ahead_of_disk()[9] == 1
