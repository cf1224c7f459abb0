# SPDX-License-Identifier: GPL-2.0-only
"""What makes one whole set of devices; each breach has its line."""

from dataclasses import replace
from uuid import UUID

import pytest

from bcached.errors import GeometryRefused, SetRefused
from bcached.format.superblock import (
    FEATURE_INCOMPAT_BCACHED_SET,
    FEATURE_INCOMPAT_LOG_LARGE_BUCKET,
    Superblock,
)
from bcached.store.membership import MemberFound, check_members, with_new_journal
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.format_samples import SUPERBLOCK

ONE = replace(SUPERBLOCK, synchronous=True, version=3, journal_buckets=tuple(range(1, 9)))
TWO = [
    replace(ONE, members=2, member=number, version=5, feature_incompat=FEATURE_INCOMPAT_BCACHED_SET)
    for number in range(2)
]


def check(*superblocks: Superblock) -> None:
    check_members([MemberFound(MemoryDevice(512, path=f"d{n}"), one) for n, one in enumerate(superblocks)])


@pytest.mark.parametrize("superblocks", [[SUPERBLOCK], [ONE], TWO], ids=["fresh", "one", "two"])
def test_a_whole_set_passes(superblocks: list[Superblock]) -> None:
    check(*superblocks)


def test_a_logarithmic_bucket_size_is_only_another_way_to_write_it() -> None:
    check(replace(ONE, version=5, feature_incompat=FEATURE_INCOMPAT_LOG_LARGE_BUCKET))


@pytest.mark.parametrize(
    ("superblocks", "says"),
    [
        ([TWO[0], replace(TWO[1], set_uuid=UUID(int=1))], "d1: is of set .*0001, but d0 is of"),
        ([TWO[0]], "d0: its set has 2 members, but 1 were given"),
        ([ONE, ONE], "d0: its set has 1 members, but 2 were given"),
        ([TWO[0], TWO[0]], "d1: is member 0 of its set, and member 1 is missing"),
        ([TWO[1], TWO[1]], "d0: is member 1 of its set, and member 0 is missing"),
        ([TWO[0], replace(TWO[1], bucket_sectors=512)], "d1: bucket_sectors is 512, but 1024 on d0"),
        ([TWO[0], replace(TWO[1], block_sectors=1)], "d1: block_sectors is 1, but 8 on d0"),
        ([TWO[0], replace(TWO[1], feature_incompat=0)], "d1: feature_incompat is 0x0, expected 0x4"),
        ([replace(one, version=3) for one in TWO], "d0: feature_incompat is 0x0, expected 0x4"),
        ([replace(TWO[0], members=1)], "d0: feature_incompat is 0x4.* expected 0x0"),
    ],
)
def test_what_is_not_a_whole_set_of_ours_is_refused(superblocks: list[Superblock], says: str) -> None:
    with pytest.raises(SetRefused, match=says):
        check(*superblocks)


def test_a_journal_of_one_bucket_is_refused_and_one_of_two_is_not() -> None:
    check(replace(ONE, journal_buckets=(1, 2)))
    with pytest.raises(GeometryRefused, match="has a journal of 1 bucket, and at least 2 are needed"):
        check(replace(ONE, journal_buckets=(1,)))


def test_too_few_buckets_behind_the_first_are_refused() -> None:
    check(replace(SUPERBLOCK, first_bucket=900))
    with pytest.raises(GeometryRefused, match="has 1024 buckets, the first one 1000, and at least"):
        check(replace(SUPERBLOCK, first_bucket=1000))


def test_a_fresh_member_gets_the_journal_the_kernel_would_give_it() -> None:
    assert with_new_journal(SUPERBLOCK).journal_buckets == tuple(range(1, 9))
    assert with_new_journal(replace(SUPERBLOCK, bucket_count=1 << 20)).journal_buckets == tuple(range(1, 257))
