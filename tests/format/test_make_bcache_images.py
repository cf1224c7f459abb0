# SPDX-License-Identifier: GPL-2.0-only
"""Agreement with make-bcache itself. The golden superblocks say the same where it is not installed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bcached.errors import BadField
from bcached.format.superblock import Superblock, first_bucket_for
from bcached.set_state import Replacement
from bcached.units import parse_size

MAKE_BCACHE = shutil.which("make-bcache") or shutil.which("make-bcache", path="/usr/sbin:/sbin")
pytestmark = pytest.mark.skipif(MAKE_BCACHE is None, reason="make-bcache (bcache-tools) is not installed")

GEOMETRIES = [  # bucket, block, device bytes: not all of them whole buckets
    ("4k", "512", 600 * 4096),
    ("4k", "4k", 3 << 20),
    ("8k", "1k", (5 << 20) + 4096),
    ("16k", "4k", 9 << 20),
    ("64k", "2k", 64 << 20),
    ("512k", "4k", (300 << 20) - 512),
    ("1M", "512", (1 << 30) + 777 * 512),
    ("4M", "4k", 3 << 30),
    ("16M", "4k", 10 << 30),
]


def made(path: Path, size_bytes: int, *options: str) -> tuple[bytes, dict[str, str]]:
    """The block make-bcache wrote, and what it said of it."""
    assert MAKE_BCACHE is not None
    with path.open("wb") as image:
        image.truncate(size_bytes)
    done = subprocess.run([MAKE_BCACHE, "-C", *options, path], capture_output=True, text=True, check=True)
    with path.open("rb") as image:
        raw = image.read(8192)[4096:]
    return raw, dict(re.findall(r"^(.+?):\s+(.+)$", done.stdout, re.MULTILINE))


@pytest.mark.parametrize(("bucket", "block", "size_bytes"), GEOMETRIES)
def test_its_superblocks_are_read_and_written_alike(
    tmp_path: Path, bucket: str, block: str, size_bytes: int
) -> None:
    raw, said = made(tmp_path / "image", size_bytes, "-b", bucket, "-w", block)
    superblock = Superblock.parse(raw, device_bytes=size_bytes, logical_block_bytes=512)
    assert str(superblock.uuid) == said["UUID"]
    assert str(superblock.set_uuid) == said["Set UUID"]
    assert superblock.version == int(said["version"]) == 0
    assert superblock.bucket_count == int(said["nbuckets"])
    assert superblock.block_sectors == int(said["block_size"]) == parse_size(block) // 512
    assert superblock.bucket_sectors == int(said["bucket_size"]) == parse_size(bucket) // 512
    assert (superblock.members, superblock.member) == (1, 0)
    assert superblock.first_bucket == int(said["first_bucket"]) == first_bucket_for(superblock.bucket_sectors)
    assert superblock.has_space_for_copy
    assert superblock.pack() == raw


def test_its_options_are_the_flags_we_know(tmp_path: Path) -> None:
    uuid = "6d9f0d1c-5d0f-4c54-9e3b-0c1e7f1d2a3b"
    options = ("--discard", "--cache_replacement_policy=fifo", "--cset-uuid", uuid)
    raw, _ = made(tmp_path / "image", 300 << 20, *options)
    superblock = Superblock.parse(raw, device_bytes=300 << 20, logical_block_bytes=512)
    assert superblock.discard
    assert superblock.replacement is Replacement.FIFO
    assert str(superblock.set_uuid) == uuid
    assert superblock.pack() == raw


def test_a_device_it_makes_and_the_kernel_then_refuses_is_refused(tmp_path: Path) -> None:
    raw, _ = made(tmp_path / "image", 512 * 4096, "-b", "4k")
    with pytest.raises(BadField, match="nbuckets: expected at least 513, found 512"):
        Superblock.parse(raw, device_bytes=512 * 4096, logical_block_bytes=512)
