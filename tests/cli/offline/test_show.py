# SPDX-License-Identifier: GPL-2.0-only
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from bcached.cli.offline.reports.shown_superblock import shown_superblock
from bcached.format.superblock import FEATURE_INCOMPAT_BCACHED_SET, Superblock
from bcached.set_state import Replacement
from instruments.devices.bad_sectors import BadSectorsDevice
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.format_samples import SUPERBLOCK, sealed, with_field
from instruments.samples.kernel_images import image_bytes

SUPER_SHOW = shutil.which("bcache-super-show", path="/usr/sbin:/sbin:/usr/bin")
SMALL = replace(SUPERBLOCK, bucket_sectors=8, first_bucket=3)
IN_USE = replace(
    SMALL,
    version=3,
    synchronous=True,
    discard=True,
    replacement=Replacement.RANDOM,
    journal_buckets=tuple(range(3, 11)),
    seq=17,
    label="fast cache #1",
)
ONE_OF_THREE = replace(
    SMALL,
    version=5,
    feature_incompat=FEATURE_INCOMPAT_BCACHED_SET,
    members=3,
    member=2,
    replacement=Replacement.FIFO,
)


def image(path: Path, superblock: Superblock, copy: Superblock | None = None) -> Path:
    raw = bytes(4096) + superblock.pack() + (copy.pack() if copy else b"")
    path.write_bytes(raw.ljust(1024 * 4096, b"\0"))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


@pytest.mark.skipif(SUPER_SHOW is None, reason="bcache-super-show (bcache-tools) is not installed")
@pytest.mark.parametrize(
    "superblock",
    [
        SMALL,
        IN_USE,
        replace(SMALL, replacement=Replacement.FIFO, members=2, member=1),
        replace(SMALL, label="Größe"),
        replace(SMALL, label="".join(map(chr, range(1, 33)))),
        replace(SMALL, label="".join(map(chr, range(33, 65)))),
        replace(SMALL, label="[]^_`{|}~\x7f\udcff"),
        replace(SMALL, uuid=SMALL.set_uuid, seq=2**64 - 1, last_mount=1),
    ],
    ids=range(8),
)
def test_it_prints_what_bcache_super_show_prints(tmp_path: Path, superblock: Superblock) -> None:
    path = image(tmp_path / "image", superblock)
    assert SUPER_SHOW is not None
    theirs = subprocess.run([SUPER_SHOW, path], check=True, capture_output=True).stdout
    ours = run("show", path)
    assert ours.exit_code == 0
    if superblock.members == 1:
        assert ours.stdout_bytes == theirs
    else:
        assert ours.stdout_bytes.replace(b"dev.cache.members\t2\n", b"") == theirs


def test_it_prints_these_lines_where_the_tool_is_missing_too(tmp_path: Path) -> None:
    done = run("show", image(tmp_path / "image", IN_USE))
    assert done.stdout.splitlines() == [
        "sb.magic\t\tok",
        "sb.first_sector\t\t8 [match]",
        f"sb.csum\t\t\t{int.from_bytes(IN_USE.pack()[:8], 'little'):X} [match]",
        "sb.version\t\t3 [cache device]",
        "",
        "dev.label\t\tfast%20cache%20%231",
        "dev.uuid\t\t00010203-0405-0607-0809-0a0b0c0d0e0f",
        "dev.sectors_per_block\t8",
        "dev.sectors_per_bucket\t8",
        "dev.cache.first_sector\t24",
        "dev.cache.cache_sectors\t8168",
        "dev.cache.total_sectors\t8192",
        "dev.cache.ordered\tyes",
        "dev.cache.discard\tyes",
        "dev.cache.pos\t\t0",
        "dev.cache.replacement\t2 [random]",
        "",
        "cset.uuid\t\t10111213-1415-1617-1819-1a1b1c1d1e1f",
    ]


def test_a_member_of_a_set_is_shown_whole(tmp_path: Path) -> None:
    lines = run("show", image(tmp_path / "image", ONE_OF_THREE)).stdout.splitlines()
    assert "sb.version\t\t5 [cache device]" in lines
    assert "sb.feature_incompat\t4000000000000000 [bcached set]" in lines
    assert "dev.cache.pos\t\t2" in lines
    assert "dev.cache.members\t3" in lines


def test_programs_get_all_of_it(tmp_path: Path) -> None:
    document = json.loads(run("--json", "show", image(tmp_path / "image", IN_USE)).stdout)
    assert document == {
        "sector": 8,
        "damage": None,
        "csum": f"{int.from_bytes(IN_USE.pack()[:8], 'little'):016x}",
        "version": 3,
        "uuid": "00010203-0405-0607-0809-0a0b0c0d0e0f",
        "set_uuid": "10111213-1415-1617-1819-1a1b1c1d1e1f",
        "label": "fast cache #1",
        "synchronous": True,
        "discard": True,
        "replacement": "random",
        "other_flags": 0,
        "seq": 17,
        "feature_compat": 0,
        "feature_incompat": 0,
        "feature_ro_compat": 0,
        "bucket_count": 1024,
        "bucket_sectors": 8,
        "block_sectors": 8,
        "members": 1,
        "member": 0,
        "last_mount": 0,
        "first_bucket": 3,
        "journal_buckets": [3, 4, 5, 6, 7, 8, 9, 10],
    }


def test_a_label_that_is_no_text_is_still_json(tmp_path: Path) -> None:
    path = image(tmp_path / "image", replace(SMALL, label="half \udcc3"))
    assert json.loads(run("--json", "show", path).stdout)["label"] == "half \ufffd"


def erased(path: Path, offset: int, length: int) -> Path:
    raw = bytearray(path.read_bytes())
    raw[offset : offset + length] = bytes(length)
    path.write_bytes(raw)
    return path


def damaged(path: Path, offset: int) -> Path:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.write_bytes(raw)
    return path


def test_of_a_damaged_superblock_the_copy_is_shown_and_said_to_be_one(tmp_path: Path) -> None:
    path = damaged(image(tmp_path / "image", SMALL, copy=IN_USE), 4096 + 60)
    done = run("show", path)
    assert done.exit_code == 0
    assert "dev.label\t\tfast%20cache" in done.stdout
    assert "superblock at" in done.stderr
    assert "this is its copy at sector 16" in done.stderr
    document = json.loads(run("--json", "show", path).stdout)
    assert document["sector"] == 16
    assert document["damage"].startswith(f"superblock at {path} sector 8: expected 0x")


@pytest.mark.parametrize("is_backing", [False, True])
def test_with_no_good_copy_the_fields_are_shown_as_they_are_and_said_to_be_damaged(
    tmp_path: Path, is_backing: bool
) -> None:
    path = tmp_path / "image"
    if is_backing:
        backing_image(path, 1, 2 << 61 | 1)
    else:
        image(path, SMALL)
    whole = run("show", path).stdout.splitlines()
    damaged(path, 4096 + 60)
    done = run("show", path)
    assert done.exit_code == 0
    assert "sector 8: expected 0x" in done.stderr
    assert "these are its fields as they are" in done.stderr
    assert done.stderr.count("\n") == 1
    lines = done.stdout.splitlines()
    assert lines[2].startswith(whole[2].replace("match]", "expected "))
    different = [number for number, line in enumerate(lines) if line != whole[number]]
    assert [lines[number].split("\t")[0] for number in different] == ["sb.csum", "cset.uuid"]
    document = json.loads(run("--json", "show", path).stdout)
    assert document["damage"].startswith(f"superblock at {path} sector 8: expected 0x")


def test_a_device_that_was_cut_short_shows_its_fields(tmp_path: Path) -> None:
    path = image(tmp_path / "image", SMALL)
    os.truncate(path, (1024 * 4096) - 512)
    done = run("show", path)
    assert done.exit_code == 0
    assert "nbuckets: expected what a device of 4193792 bytes holds" in done.stderr
    assert "[match]" in done.stdout.splitlines()[2]


def test_what_has_the_fields_of_no_superblock_is_refused_in_one_line(tmp_path: Path) -> None:
    path = image(tmp_path / "image", SMALL)
    damaged(path, 4096 + 193)  # 264 sectors a block
    done = run("show", path)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("is_backing", [False, True])
def test_a_superblock_without_its_magic_is_shown_and_said_to_lack_it(
    tmp_path: Path, is_backing: bool
) -> None:
    path = backing_image(tmp_path / "image", 1, 2 << 61 | 1) if is_backing else tmp_path / "image"
    if not is_backing:
        image(path, SMALL, copy=IN_USE)
    whole = run("show", path).stdout.splitlines()
    erased(path, 4096 + 24, 16)
    done = run("show", path)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == ["sb.magic\t\tbad magic", *whole[1:]]
    assert "sector 8: expected c68573f6" in done.stderr
    assert "only its magic was erased" in done.stderr


def test_what_is_no_bcache_any_more_is_refused_in_one_line(tmp_path: Path) -> None:
    path = erased(image(tmp_path / "image", SMALL), 4096 + 24, 64)
    done = run("show", path)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "sector 8: expected c68573f6" in done.stderr
    assert done.stderr.count("\n") == 1


async def test_of_an_unreadable_superblock_the_copy_is_shown() -> None:
    device = MemoryDevice.holding(bytes(4096) + SMALL.pack() + IN_USE.pack() + bytes(1024 * 4096))
    shown = await shown_superblock(BadSectorsDevice(device, [range(8, 9)]))
    assert (shown.sector, shown.superblock) == (16, IN_USE)
    assert "cannot read" in (shown.damage or "")


@pytest.mark.parametrize("is_uuid_left", [False, True])
def test_without_a_superblock_the_journal_says_how_the_set_was_made(
    tmp_path: Path, is_uuid_left: bool
) -> None:
    path = tmp_path / "image"
    path.write_bytes(image_bytes("flash"))
    erased(path, 4096, 40 if is_uuid_left else 4096)
    erased(path, 4096 + 184, 32)
    done = run("show", path)
    assert done.exit_code == 1
    assert "buckets of 32k, blocks of 512" in done.stdout
    document = json.loads(run("--json", "show", path).stdout)
    assert (document["journal"]["bucket_sectors"], document["journal"]["block_sectors"]) == (64, 1)
    rescue, repair = document["next"]
    assert rescue == f"bcachectl rescue -n {path} --backing DEV --geometry 32k,512"
    options = "--superblock" if is_uuid_left else "--superblock --backing DEV"
    assert repair == f"bcachectl repair -n {options} {path}"
    assert json.loads(run("--json", "check", path).stdout)["next"] == document["next"]


@pytest.mark.parametrize("size", [512, 4096, 8191])
def test_a_device_too_short_for_a_superblock_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(size))
    done = run("show", path)
    assert done.exit_code == 1
    assert "expected one, found the device's end" in done.stderr


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    done = run("show", tmp_path / "missing")
    assert done.exit_code == 1
    assert "cannot open it: No such file or directory" in done.stderr


def backing_image(path: Path, version: int, flags: int) -> Path:
    raw = with_field(with_field(SMALL.pack(), 16, "Q", version), 104, "Q", flags)
    path.write_bytes((bytes(4096) + sealed(raw, 208)).ljust(1 << 20, b"\0"))
    return path


@pytest.mark.skipif(SUPER_SHOW is None, reason="bcache-super-show (bcache-tools) is not installed")
@pytest.mark.parametrize("version", [1, 4])
@pytest.mark.parametrize("flags", [state << 61 | state for state in range(4)])
def test_a_backing_device_is_shown_as_bcache_super_show_shows_it(
    tmp_path: Path, version: int, flags: int
) -> None:
    path = backing_image(tmp_path / "image", version, flags)
    assert SUPER_SHOW is not None
    theirs = subprocess.run([SUPER_SHOW, str(path)], capture_output=True, text=True, check=True).stdout
    assert run("show", path).stdout == theirs


def test_a_backing_device_is_told_apart_for_programs_and_by_every_verb(tmp_path: Path) -> None:
    path = backing_image(tmp_path / "image", 1, 2 << 61 | 1)
    document = json.loads(run("--json", "show", path).stdout)
    assert (document["kind"], document["state"], document["cache_mode"]) == (
        "backing device",
        "dirty",
        "writeback",
    )
    words = f"is a bcache backing device (dirty, writeback, of cache set {SMALL.set_uuid})"
    for verb, status in (("check", 4), ("dump", 1)):
        done = run(verb, path)
        assert done.exit_code == status
        assert words in done.output
        assert "repaired" not in done.output
