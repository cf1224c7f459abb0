# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.format.prio_set import prio_bucket_count, prios_per_bucket
from bcached.format.sizes import metadata_bytes, node_sectors, uuid_slots
from bcached.format.superblock import first_bucket_for, journal_bucket_count_for

TABLE = [  # bucket sectors, metadata bytes, node sectors, uuid slots, prios of a bucket
    (8, 4096, 8, 32, 1352),
    (16, 8192, 16, 64, 2717),
    (32, 16384, 32, 128, 5448),
    (64, 32768, 64, 256, 10909),
    (128, 65536, 128, 512, 21832),
    (256, 131072, 256, 1024, 43677),
    (512, 262144, 512, 2048, 87368),
    (1024, 524288, 512, 4096, 174749),
    (2048, 1048576, 512, 8192, 349512),
    (4096, 2097152, 1024, 16384, 699037),
    (8192, 4194304, 2048, 32768, 1398088),
    (16384, 4194304, 2048, 32768, 1398088),
    (32768, 4194304, 2048, 32768, 1398088),
]


@pytest.mark.parametrize(("bucket", "metadata", "node", "slots", "prios"), TABLE)
def test_metadata_is_as_large_as_the_kernel_makes_it(
    bucket: int, metadata: int, node: int, slots: int, prios: int
) -> None:
    assert metadata_bytes(bucket) == metadata
    assert node_sectors(bucket) == node
    assert uuid_slots(bucket) == slots
    assert prios_per_bucket(metadata) == prios


@pytest.mark.parametrize(("bucket_count", "chain"), [(513, 1), (1352, 1), (1353, 2), (10_000, 8)])
def test_a_prio_chain_is_as_long_as_the_buckets_need(bucket_count: int, chain: int) -> None:
    assert prio_bucket_count(bucket_count, bucket_sectors=8) == chain


@pytest.mark.parametrize(
    ("bucket_count", "journal"), [(128, 2), (513, 4), (1024, 8), (4096, 32), (32768, 256), (1 << 20, 256)]
)
def test_the_journal_is_one_bucket_in_128_within_bounds(bucket_count: int, journal: int) -> None:
    assert journal_bucket_count_for(bucket_count) == journal


@pytest.mark.parametrize(("bucket", "first"), [(8, 3), (16, 2), (32, 1), (1024, 1), (32768, 1)])
def test_the_first_bucket_is_clear_of_both_superblocks(bucket: int, first: int) -> None:
    assert first_bucket_for(bucket) == first
    assert first * bucket >= 24
