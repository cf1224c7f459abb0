# SPDX-License-Identifier: GPL-2.0-only
"""Superblocks of sets that begin elsewhere than make-bcache's: found again, where nothing is overwritten."""

from dataclasses import replace

import pytest

from bcached.errors import SetRefused
from bcached.keys import Key, Pointer
from bcached.store.repair.needs import StepOption
from bcached.store.repair.plan import plan_repair
from bcached.store.repair.repair import Repair
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.dirty_extents import DirtyExtents
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.set_left import read_what_is_left
from bcached.store.rescue.remains.superblock_left import KnownLayout
from instruments.samples.image_builder import SECTOR, ImageBuilder, two_levels
from instruments.time.virtual_time import run_in_virtual_time

DIRTY = 4 * 8 + 3 * 5 * 8  # sectors: in the journal, and in the leaves
FIELDS = 4096 + 204  # of first_bucket and njournal_buckets


def built(bucket_sectors: int, first_bucket: int, bucket_count: int = 640) -> ImageBuilder:
    """A set that begins with this bucket, on which the kernel has left no copy of the superblock."""
    builder = ImageBuilder(
        bucket_sectors=bucket_sectors, first_bucket=first_bucket, bucket_count=bucket_count
    )
    root, _ = two_levels(builder)
    builder.finish(root, 1, [[builder.extent(0, 5000 + 8 * n, 8, dirty=True)] for n in range(4)])
    copy = 16 * SECTOR
    if first_bucket * bucket_sectors > 16:
        builder.write(copy, bytes(8 * SECTOR))
    return builder


def repair_of(builder: ImageBuilder) -> Repair:
    """The plan to write its superblock again, by the sizes that its owner gives."""
    superblock = builder.superblocks[0]
    layout = KnownLayout(superblock.bucket_sectors, superblock.block_sectors, superblock.set_uuid)
    wishes = Wishes(frozenset({StepOption.SUPERBLOCK}), layout=layout)
    repair: Repair = run_in_virtual_time(plan_repair(builder.devices(), wishes))
    return repair


@pytest.mark.parametrize(
    ("bucket_sectors", "first_bucket", "bucket_count"),
    [(64, 3, 640), (64, 20, 640), (64, 400, 1200), (8, 2, 700), (8, 40, 700), (16, 1, 640)],
)
def test_a_set_that_begins_elsewhere_gets_its_superblock_back(
    bucket_sectors: int, first_bucket: int, bucket_count: int
) -> None:
    builder = built(bucket_sectors, first_bucket, bucket_count)
    builder.write(8 * SECTOR, bytes(8 * SECTOR))
    repair = repair_of(builder)
    assert repair.found.findings.sound
    found = repair.found.members[0].superblock
    assert found.journal_buckets == builder.superblocks[0].journal_buckets
    assert repair.found.totals.dirty_sectors == DIRTY


def without_its_first_entries(builder: ImageBuilder, data_in: int) -> ImageBuilder:
    """Only entry 4 is left, where a bucket of the journal begins; its key is data in a bucket."""
    byte = builder.entries[1][1]
    builder.write(byte, bytes(builder.geometry.bucket_bytes))
    key = Key(0, 7000, 8, True, (Pointer(0, builder.geometry.sector_of(data_in), 0),))
    builder.write_entry(builder.entry(4, 4, [key]), byte)
    builder.write(8 * SECTOR, bytes(8 * SECTOR))
    return builder


def test_a_journal_ends_in_front_of_what_is_in_use() -> None:
    found = repair_of(without_its_first_entries(built(64, 20), data_in=100)).found
    assert found.findings.sound
    assert found.members[0].superblock.journal_buckets == tuple(range(20, 25))
    found = repair_of(without_its_first_entries(built(64, 20), data_in=23)).found
    assert found.findings.sound
    assert found.members[0].superblock.journal_buckets == tuple(range(18, 23))


def test_no_place_is_called_right_that_data_is_in() -> None:
    repair = repair_of(without_its_first_entries(built(64, 1), data_in=3))
    assert not repair.found.findings.sound
    assert "bucket-shared" in repair.found.findings.counts


@pytest.mark.parametrize("wrong", [b"\x03\x00\x03\x00", b"\x07\x00\x05\x00", b"\x14\x00\xff\x00"])
def test_the_fields_that_are_left_are_enough_to_read_a_set(wrong: bytes) -> None:
    builder = built(64, 20)
    builder.write(FIELDS, wrong)
    left = run_in_virtual_time(read_what_is_left(builder.devices()))
    sure = [one for one in DirtyExtents.of(left).of_inode(0) if one.confidence == Confidence.SURE]
    assert sum(one.sectors for one in sure) == DIRTY


def test_fields_of_a_set_that_is_not_there_are_not_read_as_one() -> None:
    builder = built(64, 20)
    builder.write(FIELDS, b"\x07\x00\x05\x00")
    builder.write(4096 + 56, b"other set")
    with pytest.raises(SetRefused, match="--geometry"):
        run_in_virtual_time(read_what_is_left(builder.devices()))


def test_a_superblock_with_the_highest_seq_is_written_again() -> None:
    builder = ImageBuilder()
    root, _ = two_levels(builder)
    builder.finish(root, 1)
    builder.write_superblock(replace(builder.superblocks[0], seq=(1 << 64) - 1))
    builder.flip(8 * SECTOR + 60)
    wishes = Wishes(frozenset({StepOption.SUPERBLOCK}))
    repair: Repair = run_in_virtual_time(plan_repair(builder.devices(), wishes))
    assert repair.found.findings.sound
    assert repair.found.members[0].superblock.seq == 0
