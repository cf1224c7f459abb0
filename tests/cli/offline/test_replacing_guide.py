# SPDX-License-Identifier: GPL-2.0-only
"""docs/replacing.md: every command runs as written, and what is cached afterwards is what was."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from bcached.format.backing_superblock import attached, detached
from bcached.format.uuid_entry import UuidEntry
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import backing_bytes
from instruments.samples.image_builder import SET_UUID, ImageBuilder, two_levels
from instruments.samples.live_data import LiveData, dirty, live_data

GUIDE = Path(__file__).parents[3] / "docs" / "replacing.md"
BIN = Path(sys.executable).parent
BUCKETS, SMALLER, LARGER = 640, 560, 900
# By section: the device that then holds the dirty data of the one before, and how many buckets it has.
SECTIONS = {
    "A wearing SSD": ("new.img", BUCKETS),
    "A larger device": ("old.img", LARGER),
    "A smaller device": ("new.img", SMALLER),
    "A warm start": ("old.img", BUCKETS),
    "A warm start with a new cache": (None, 0),
}
DEVICES = {
    "OLD": "old.img",
    "NEW": "new.img",
    "CACHE": "old.img",
    "BACKING": "backing.img",
    "DISK": "disk.img",
    "SIZE": f"{SMALLER * 4}k",
}


def sections() -> dict[str, list[str]]:
    """The commands of the guide, by heading; blocks marked as sh are for the kernel's machine."""
    found: dict[str, list[str]] = {}
    for section in GUIDE.read_text().split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        shown = re.sub(r"(?ms)^```sh$.*?^```$", "", text)
        commands = "".join(re.findall(r"^```\n(.*?)^```$", shown, re.MULTILINE | re.DOTALL))
        found[heading] = commands.splitlines()
    return found


def held(path: Path, buckets: int) -> LiveData:
    with path.open("rb") as file:
        return asyncio.run(live_data([MemoryDevice.holding(file.read(buckets * 4096))]))


def cache_and_backing() -> tuple[bytes, bytes]:
    """A small set with dirty data, and the backing device of its first volume."""
    builder = ImageBuilder(bucket_count=BUCKETS, bucket_sectors=8, block_sectors=1)
    below = bytearray(backing_bytes("crash")[: 4 << 20])
    below[4096:8192] = attached(bytes(below[4096:8192]), SET_UUID)
    builder.volumes[0] = UuidEntry(UUID(bytes=bytes(below[40 + 4096 : 56 + 4096])))
    root, _ = two_levels(builder)
    return bytes(builder.finish(root, 1).images[0]), bytes(below)


def test_every_section_is_tried() -> None:
    assert list(sections()) == list(SECTIONS)


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_commands_work_as_written(heading: str, tmp_path: Path) -> None:
    cache, below = cache_and_backing()
    target, buckets = SECTIONS[heading]
    (tmp_path / "old.img").write_bytes(cache)
    os.truncate(tmp_path / "old.img", max(BUCKETS, buckets) * 4096)
    (tmp_path / "backing.img").write_bytes(below)
    (tmp_path / "disk.img").write_bytes(below[:4096] + detached(below[4096:8192]) + below[8192:])
    (tmp_path / "hot.txt").write_text("0 64k\n1024 256\n")
    (tmp_path / "new.img").touch()
    os.truncate(tmp_path / "new.img", 512 << 20)
    commands = sections()[heading]
    assert commands
    for line in commands:
        status, said = run(line, tmp_path)
        assert status == 0, (line, said)
    if target is not None:
        before = asyncio.run(live_data([MemoryDevice.holding(cache)]))
        assert dirty(held(tmp_path / target, buckets)) == dirty(before) != {}
    assert (tmp_path / "backing.img").read_bytes() == below


def run(line: str, folder: Path) -> tuple[int, str]:
    """Exit status and output of a command on a terminal that answers yes."""
    environment = {**os.environ, **DEVICES, "PATH": f"{BIN}:{os.environ['PATH']}"}
    ours, theirs = os.openpty()
    try:
        os.write(ours, b"y\n")
        done = subprocess.run(
            ["sh", "-c", line], stdin=theirs, capture_output=True, text=True, cwd=folder, env=environment
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stdout + done.stderr
