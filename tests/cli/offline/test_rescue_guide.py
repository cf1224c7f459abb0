# SPDX-License-Identifier: GPL-2.0-only
"""docs/rescue.md: every command runs as written, on an image with the damage that its section is about."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from bcached.format.checksum import crc64_we
from bcached.format.uuid_entry import BURNT_UUID
from instruments.samples.damaged_kernel_image import (
    backing_bytes,
    bsets,
    erase,
    flip,
    garble,
    journal_entries,
    structures,
    wrong_sectors,
)
from instruments.samples.kernel_images import image_bytes

GUIDE = Path(__file__).parents[3] / "docs" / "rescue.md"
BUCKET = 1 << 16
BIN = Path(sys.executable).parent


def sections() -> dict[str, list[str]]:
    """The commands of the guide, by heading."""
    found: dict[str, list[str]] = {}
    for section in GUIDE.read_text().split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        commands = "".join(re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        found[heading] = commands.splitlines()
    return found


def nothing(raw: bytearray) -> None:
    del raw


def prios(raw: bytearray) -> None:
    checked, _ = asyncio.run(structures("crash"))
    erase(checked.chains[0][0][0] * BUCKET, BUCKET)(raw)


def leaf(raw: bytearray) -> None:
    _, nodes = asyncio.run(structures("crash"))
    garble(list(bsets(nodes, 0))[1][0] + 40, Random(1))(raw)


def entry(raw: bytearray) -> None:
    checked, _ = asyncio.run(structures("crash"))
    byte = next(byte for seq, byte, _ in journal_entries(checked) if seq == 258)
    erase(byte, 512)(raw)


def table(raw: bytearray) -> None:
    erase(table_at(), BUCKET)(raw)


def given_up(raw: bytearray) -> None:
    raw[table_at() : table_at() + 16] = BURNT_UUID.bytes


def table_at() -> int:
    checked, _ = asyncio.run(structures("crash"))
    assert checked.journal is not None
    return checked.journal.newest.uuid_bucket.pointers[0].sector * 512


def bit(raw: bytearray) -> None:
    _, nodes = asyncio.run(structures("crash"))
    flip(list(bsets(nodes, 0))[1][0] + 40)(raw)


def stale(raw: bytearray) -> None:
    """Raise the gen of a bucket with dirty data in the prios."""
    checked, _ = asyncio.run(structures("crash"))
    prio = checked.chains[0][0][0] * BUCKET
    bucket = int(checked.censuses[0].dirty_sectors.argmax())
    raw[prio + 40 + 3 * bucket + 2] += 1
    raw[prio : prio + 8] = crc64_we(raw[prio + 8 : prio + BUCKET]).to_bytes(8, "little")


DAMAGE: dict[str, Callable[[bytearray], None]] = {
    "How sure": nothing,
    "`prio_read()": prios,
    "`corrupted btree": leaf,
    "`no journal entries": entry,
    "`Not a bcache": erase(4096 + 24, 16),
    "The superblock is gone": erase(4096, 4096),
    "`IO error": nothing,
    "`Couldn't find uuid": table,
    "The kernel gave": given_up,
    "`stale dirty": stale,
    "A volume without": nothing,
    "Afterwards": nothing,
    "Repairing the cache": bit,
    "Repair of the prios": prios,
    "Repair of the index": leaf,
    "Repair of the journal": entry,
    "Repair of the superblock": erase(4096, 4096),
    "Repair of the uuid table": table,
    "Undoing": prios,
}
LOST = {"`corrupted btree", "`IO error"}  # where some dirty data is not there to be found
UNTOUCHED = {"A volume without"}
LOSSY = {"Repair of the index", "Repair of the journal"}


def test_every_section_is_tried() -> None:
    headings = sections()
    assert [key for key in DAMAGE if sum(heading.startswith(key) for heading in headings) != 1] == []
    assert len(headings) == len(DAMAGE)


@pytest.mark.parametrize("key", DAMAGE)
def test_the_commands_work_as_written(key: str, tmp_path: Path) -> None:
    raw = bytearray(image_bytes("crash"))
    DAMAGE[key](raw)
    cache, backing = tmp_path / "cache.img", tmp_path / "backing.img"
    cache.write_bytes(raw)
    backing.write_bytes(backing_bytes("crash"))
    (tmp_path / "cache.map").write_text(
        "0x0 + 1\n0x0 0x1000000 +\n0x1000000 0x10000 -\n0x1010000 0x3000000 +\n"
    )
    (commands,) = (commands for heading, commands in sections().items() if heading.startswith(key))
    assert commands
    outcomes = [run(line, tmp_path) for line in commands]
    for line, (status, said) in zip(commands, outcomes, strict=True):
        assert status in {0, 1, 4}, (line, said)
        assert not re.search("Traceback|a bug in bcachectl", said), (line, said)
    last = outcomes[-1][0]
    if key.startswith("Repair"):
        judge_repair(key, tmp_path, last)
        return
    if key == "Undoing":
        assert (last, cache.read_bytes()) == (0, bytes(raw))
        return
    assert last == (1 if key in LOST else 0), outcomes[-1]
    assert cache.read_bytes() == raw
    left = wrong_sectors("crash", backing.read_bytes())
    if key in UNTOUCHED:
        assert backing.read_bytes() == backing_bytes("crash")
    elif key in LOST:
        assert len(left) < 0.1 * len(wrong_sectors("crash", backing_bytes("crash")))
    else:
        assert left == set()


def judge_repair(key: str, folder: Path, checked: int) -> None:
    """The set is sound, the backing device as it was, and a rescue makes nothing of it wrong."""
    backing = folder / "backing.img"
    before = wrong_sectors("crash", backing_bytes("crash"))
    assert (checked, backing.read_bytes()) == (0, backing_bytes("crash"))
    assert run('bcachectl rescue "$CACHE" --backing "$BACKING"', folder)[0] == 0
    left = wrong_sectors("crash", backing.read_bytes())
    assert left < before if key in LOSSY else left == set()


def run(line: str, folder: Path) -> tuple[int, str]:
    """Exit status and output of a command on a terminal that answers yes."""
    names = {"CACHE": "cache.img", "BACKING": "backing.img"}
    environment = {**os.environ, **names, "PATH": f"{BIN}:{os.environ['PATH']}"}
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
