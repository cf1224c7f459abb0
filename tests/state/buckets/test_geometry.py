# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.state.buckets.geometry import Geometry, fifo_capacity, roundup_power_of_two


@pytest.mark.parametrize(
    ("wanted", "held"), [(0, 0), (1, 1), (4, 4), (5, 7), (7, 7), (8, 7), (9, 15), (16, 15), (256, 255)]
)
def test_a_fifo_holds_what_the_kernels_would(wanted: int, held: int) -> None:
    assert fifo_capacity(wanted) == held


@pytest.mark.parametrize(("number", "power"), [(1, 1), (2, 2), (3, 4), (1024, 1024), (1025, 2048)])
def test_rounding_up_stops_at_the_first_power_of_two(number: int, power: int) -> None:
    assert roundup_power_of_two(number) == power


@pytest.mark.parametrize(
    ("buckets", "journal", "none", "free_inc", "heap", "btree"),
    [
        (513, 4, 1, 4, 8, 7),
        (1024, 8, 1, 4, 8, 7),
        (1025, 8, 2, 7, 16, 7),
        (2048, 16, 2, 7, 16, 15),
        (4096, 32, 4, 15, 32, 31),
        (8192, 64, 7, 31, 64, 63),
        (65536, 256, 63, 255, 512, 255),
        (1 << 20, 256, 1023, 4095, 8192, 255),
    ],
)
def test_lists_are_as_long_as_the_kernels(
    buckets: int, journal: int, none: int, free_inc: int, heap: int, btree: int
) -> None:
    geometry = Geometry(buckets, 1, 1024, 8, journal)
    capacities = geometry.reserve_capacities
    assert capacities["none"] == capacities["movinggc"] == none
    assert capacities["btree"] == btree
    assert capacities["prio"] == geometry.prio_bucket_count
    assert geometry.free_inc_capacity == geometry.unused_capacity == free_inc
    assert geometry.heap_size == heap


@pytest.mark.parametrize(
    ("bucket_sectors", "buckets", "per_set", "sets"),
    [
        (8, 1352, 1352, 1),
        (8, 1353, 1352, 2),
        (1024, 174_749, 174_749, 1),
        (32768, 1_398_088, 1_398_088, 1),  # a prio set uses 4 MiB of a bucket at most
        (32768, 1_398_089, 1_398_088, 2),
    ],
)
def test_a_prio_chain_is_as_long_as_it_takes(
    bucket_sectors: int, buckets: int, per_set: int, sets: int
) -> None:
    geometry = Geometry(buckets, 1, bucket_sectors, 8, 8)
    assert geometry.prios_per_bucket == per_set
    assert geometry.prio_bucket_count == sets


def test_sectors_and_buckets_are_told_from_each_other() -> None:
    geometry = Geometry(1024, 2, 16, 8, 8)
    assert geometry.bucket_bytes == 8192
    assert geometry.block_bytes == 4096
    assert geometry.metadata_bytes == 8192
    assert geometry.journal_buckets == range(2, 10)
    assert [geometry.bucket_of(sector) for sector in (0, 15, 16, 47)] == [0, 0, 1, 2]
    assert geometry.sector_of(3) == 48
    assert geometry.byte_of(3) == 48 * 512
