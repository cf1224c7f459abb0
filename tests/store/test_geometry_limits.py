# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.errors import GeometryRefused
from bcached.state.buckets.geometry import Geometry
from bcached.store.geometry_limits import buckets_needed, check_block, check_bucket, fit, geometry_for

EVERY_BUCKET_SIZE = [1 << power for power in range(3, 16)]


def test_buckets_may_be_4k_to_16m() -> None:
    assert [check_bucket(sectors * 512) for sectors in EVERY_BUCKET_SIZE] == EVERY_BUCKET_SIZE


@pytest.mark.parametrize(
    ("bucket_bytes", "message"),
    [
        (0, "invalid bucket size 0: must be a power of two from 4k to 16M, such as 4k"),
        (2048, "invalid bucket size 2k: must be a power of two from 4k to 16M, such as 4k"),
        (100 << 10, "invalid bucket size 100k: must be a power of two from 4k to 16M, such as 64k"),
        (32 << 20, "invalid bucket size 32M: must be a power of two from 4k to 16M, such as 16M"),
    ],
)
def test_other_buckets_are_refused_with_one_that_would_do(bucket_bytes: int, message: str) -> None:
    with pytest.raises(GeometryRefused) as caught:
        check_bucket(bucket_bytes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("block_bytes", "logical", "message"),
    [
        (256, 512, "invalid block size 256: must be a power of two from 512 to 4k, such as 512"),
        (3072, 512, "invalid block size 3k: must be a power of two from 512 to 4k, such as 2k"),
        (8192, 512, "invalid block size 8k: must be a power of two from 512 to 4k, such as 4k"),
        (512, 4096, "here: a block of 512 is smaller than the device's logical block: use 4k"),
        (4096, 8192, "here: its logical block is 8k, and a block has at most 4k: no block size is possible"),
    ],
)
def test_other_blocks_are_refused_with_one_that_would_do(
    block_bytes: int, logical: int, message: str
) -> None:
    with pytest.raises(GeometryRefused) as caught:
        check_block("here", block_bytes, logical)
    assert str(caught.value) == message


def test_blocks_may_be_512_to_4k() -> None:
    assert [check_block("here", size, 512) for size in (512, 1024, 2048, 4096)] == [1, 2, 4, 8]


@pytest.mark.parametrize("bucket_sectors", EVERY_BUCKET_SIZE)
def test_513_buckets_are_enough_and_512_are_not(bucket_sectors: int) -> None:
    bucket_bytes = bucket_sectors * 512
    assert fit("here", 513 * bucket_bytes, bucket_sectors, 8).bucket_count == 513
    with pytest.raises(GeometryRefused, match=r"512 buckets of .*, and at least 513 are needed"):
        fit("here", 513 * bucket_bytes - 512, bucket_sectors, 8)


@pytest.mark.parametrize("bucket_sectors", EVERY_BUCKET_SIZE)
@pytest.mark.parametrize("power", range(9, 29))
def test_whatever_the_count_the_lists_never_take_all_buckets(bucket_sectors: int, power: int) -> None:
    for bucket_count in ((1 << power) + 1, (1 << power) - 1 + 512):
        geometry = geometry_for(bucket_count * bucket_sectors * 512, bucket_sectors, 8)
        assert buckets_needed(geometry) <= bucket_count


def test_what_is_needed_is_every_list_all_metadata_and_a_bucket_of_data() -> None:
    geometry = Geometry(
        bucket_count=1 << 20, first_bucket=3, bucket_sectors=8, block_sectors=8, journal_bucket_count=256
    )
    assert geometry.prio_bucket_count == 776
    reserves = 255 + 776 + 1023 + 1023
    assert buckets_needed(geometry) == 3 + 256 + (1 + 2 + 2 * 776) + reserves + 4095 + 1


@pytest.mark.parametrize(
    ("size_bytes", "bucket_sectors", "message"),
    [
        (
            256 << 20,
            1024,
            "at least 513 are needed: use buckets of 256k, or a device of 262656k",
        ),
        (
            1 << 20,
            128,
            "here: 1M has 16 buckets of 64k, and at least 513 are needed: use a device of 32832k",
        ),
        (
            3 << 20,
            128,
            "at least 513 are needed: use buckets of 4k, or a device of 32832k",
        ),
    ],
)
def test_a_device_too_small_is_told_what_would_do(size_bytes: int, bucket_sectors: int, message: str) -> None:
    with pytest.raises(GeometryRefused) as caught:
        fit("here", size_bytes, bucket_sectors, 8)
    assert str(caught.value).startswith("here: ")
    assert str(caught.value).endswith(message)


def test_what_would_do_does() -> None:
    assert fit("here", 256 << 20, 512, 8).bucket_count == 1024
    assert fit("here", 262656 << 10, 1024, 8).bucket_count == 513


def test_a_device_larger_than_pointers_reach_is_refused() -> None:
    most = 512 << 43
    assert fit("here", most, 32768, 8).bucket_count == 1 << 28
    with pytest.raises(GeometryRefused, match="is more than a key can point into: use at most 4096T"):
        fit("here", most + (16 << 20), 32768, 8)
