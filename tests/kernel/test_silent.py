# SPDX-License-Identifier: GPL-2.0-only
"""Faults the kernel does not mention, found on images packed by bcached."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bcached.format.jset import JournalEntry
from bcached.format.prio_set import PrioSet
from bcached.format.sizes import metadata_bytes
from bcached.format.superblock import Superblock
from bcached.keys import Key, Pointer

from . import images
from .silent import gens_on_disk, prio_chain, silent_faults
from .test_images import SUPERBLOCK

BUCKET_SECTORS = 8  # so that a chain has several sets
BUCKET_BYTES = BUCKET_SECTORS * 512
BUCKET_COUNT = 2000
LAYOUT = replace(
    SUPERBLOCK, bucket_sectors=BUCKET_SECTORS, block_sectors=1, bucket_count=BUCKET_COUNT, first_bucket=3
)


def write_image(path: Path, *, root: Pointer, table: Pointer, chain: tuple[int, int] = (40, 41)) -> Path:
    """An image with gens 0, 1, 2, ... and these places."""
    superblock: Superblock = replace(LAYOUT, journal_buckets=(3, 4))
    images.create(path, BUCKET_COUNT * BUCKET_BYTES)
    images.write_at(path, 4096, superblock.pack())
    gens = np.arange(BUCKET_COUNT).astype(np.uint8)
    per_set = (metadata_bytes(BUCKET_SECTORS) - 40) // 3
    for place, bucket in enumerate(chain):
        part = gens[place * per_set : (place + 1) * per_set]
        following = chain[place + 1] if place + 1 < len(chain) else 77
        packed = PrioSet(1, following, np.zeros(len(part), np.uint16), part)
        images.write_at(path, bucket * BUCKET_BYTES, bytes(packed.pack(superblock.set_magic, BUCKET_BYTES)))
    keys = [Key(0, 0, BUCKET_SECTORS, False, (pointer,)) for pointer in (table, root)]
    entry = JournalEntry(1, 1, keys[0], keys[1], 0, (chain[0], 0, 0, 0, 0, 0, 0, 0))
    images.write_at(path, 4 * BUCKET_BYTES, entry.pack(superblock.set_magic, 512))
    return path


def at(bucket: int, gen: int) -> Pointer:
    return Pointer(0, bucket * BUCKET_SECTORS, gen)


def faults(path: Path, root: Pointer, table: Pointer) -> list[str]:
    return silent_faults(write_image(path / "an.img", root=root, table=table))


def test_a_sound_image_has_none(tmp_path: Path) -> None:
    assert faults(tmp_path, at(50, 50), at(51, 52)) == []


def test_the_chain_and_its_gens_are_read_to_the_end(tmp_path: Path) -> None:
    path = write_image(tmp_path / "an.img", root=at(50, 50), table=at(51, 52))
    layout = images.superblock(path)
    assert prio_chain(path, layout, 40) == [40, 41]
    assert gens_on_disk(path, layout, 40) == bytes(number % 256 for number in range(BUCKET_COUNT))


@pytest.mark.parametrize(("gen", "told"), [(50, False), (146, False), (147, True), (49, True)])
def test_a_gen_on_disk_may_lag_behind_a_pointer_but_never_lead(tmp_path: Path, gen: int, told: bool) -> None:
    assert bool(faults(tmp_path, at(50, gen), at(51, 51))) is told
    assert bool(faults(tmp_path, at(51, 51), at(50, gen))) is told


@pytest.mark.parametrize("bucket", [40, 41, 3, 51])
def test_a_bucket_with_two_owners_is_told(tmp_path: Path, bucket: int) -> None:
    (fault,) = faults(tmp_path, at(bucket, bucket), at(51, 51))
    assert f"bucket {bucket} belongs to" in fault


@pytest.mark.parametrize("bucket", [2, BUCKET_COUNT])
def test_a_bucket_off_the_map_is_told(tmp_path: Path, bucket: int) -> None:
    assert faults(tmp_path, at(bucket, 2), at(51, 51)) == [f"bucket {bucket} of the root is out of range"]


def test_an_unused_image_is_not_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "an.img"
    images.create(path, BUCKET_COUNT * BUCKET_BYTES)
    images.write_at(path, 4096, replace(LAYOUT, synchronous=False, journal_buckets=()).pack())
    assert silent_faults(path) == []
