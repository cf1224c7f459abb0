# SPDX-License-Identifier: GPL-2.0-only
"""The judge's own reading of an image, against what bcached packs."""

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from bcached.format.jset import JournalEntry
from bcached.format.superblock import Superblock
from bcached.keys import Key, Pointer

from . import images

BUCKET_BYTES, BLOCK_BYTES = 64 << 10, 4096
SUPERBLOCK = Superblock(
    uuid=UUID(int=1),
    set_uuid=UUID(int=2),
    version=3,
    bucket_count=1024,
    bucket_sectors=BUCKET_BYTES // 512,
    block_sectors=BLOCK_BYTES // 512,
    first_bucket=1,
    journal_buckets=(1, 2, 3),
    synchronous=True,
)


def entry(seq: int) -> bytes:
    table = Key(0, -128, 128, False, (Pointer(0, 20 * 128, 1),))
    root = Key((1 << 20) - 1, (1 << 63) - 1 - 128, 128, False, (Pointer(0, 30 * 128, 1),))
    heads = (40, 0, 0, 0, 0, 0, 0, 0)
    return JournalEntry(seq, 1, table, root, 0, heads).pack(SUPERBLOCK.set_magic, BLOCK_BYTES)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "an.img"
    images.create(path, 64 << 20)
    images.write_at(path, 4096, SUPERBLOCK.pack())
    images.write_at(path, 2 * BUCKET_BYTES, entry(1) + entry(2) + entry(3))
    images.write_at(path, 1 * BUCKET_BYTES, entry(4))
    return path


def test_the_superblock_is_read_as_it_was_packed(image: Path) -> None:
    found = images.superblock(image)
    assert found.synchronous
    assert (found.bucket_count, found.bucket_bytes, found.block_bytes) == (1024, BUCKET_BYTES, BLOCK_BYTES)
    assert found.set_magic == SUPERBLOCK.set_magic
    assert found.journal_buckets == (1, 2, 3)


def test_the_journal_is_found_in_all_its_buckets_and_put_in_order(image: Path) -> None:
    found = images.journal(image)
    assert [entry.seq for entry in found] == [1, 2, 3, 4]
    assert {(entry.uuid_table.sector, entry.root, entry.prio_bucket) for entry in found} == {
        (20 * 128, images.Pointer(30 * 128, 1), 40)
    }
    assert found[-1].offset == BUCKET_BYTES


def test_an_entry_of_another_set_is_none(image: Path) -> None:
    other = JournalEntry.parse(entry(9), SUPERBLOCK.set_magic, "here").pack(SUPERBLOCK.set_magic ^ 1)
    images.write_at(image, 3 * BUCKET_BYTES, other)
    assert images.journal(image)[-1].seq == 4


def test_damage_to_the_journal_takes_just_its_newest_entry(image: Path) -> None:
    images.damage_journal(image)
    assert [entry.seq for entry in images.journal(image)] == [1, 2, 3]


def test_a_forgotten_journal_leaves_a_good_superblock(image: Path) -> None:
    images.forget_journal(image)
    raw = images.read_at(image, 4096, 4096)
    found = Superblock.parse(raw, device_bytes=64 << 20, logical_block_bytes=512)
    assert not found.synchronous


@pytest.mark.parametrize(
    "damage", [images.damage_superblock, images.damage_journal, images.damage_prios, images.damage_root]
)
def test_damage_is_to_one_byte(image: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    copy = images.copy(image, tmp_path / "copy.img")
    damage(copy)
    before, after = np.fromfile(image, np.uint8), np.fromfile(copy, np.uint8)
    assert np.count_nonzero(before != after) == 1
