# SPDX-License-Identifier: GPL-2.0-only
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from bcached.format.superblock import Superblock


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


def superblock_of(path: Path) -> Superblock:
    raw = path.read_bytes()
    return Superblock.parse(raw[4096:8192], device_bytes=len(raw), logical_block_bytes=512)


def test_an_image_is_made_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "image"
    done = run("make", "-b", "16k", "--size", "16M", path)
    assert done.exit_code == 0
    superblock = superblock_of(path)
    assert f"{path}: laid out in 1024 buckets of 16k, blocks of 4k\n" in done.stdout
    assert f"Set UUID:\t\t{superblock.set_uuid}\n" in done.stdout
    assert f"UUID:\t\t\t{superblock.uuid}\n" in done.stdout
    assert "nbuckets:\t\t1024\nblock_size:\t\t8\nbucket_size:\t\t32\n" in done.stdout


def test_make_bcache_s_names_work_too(tmp_path: Path) -> None:
    path, uuid = tmp_path / "image", "6d9f0d1c-5d0f-4c54-9e3b-0c1e7f1d2a3b"
    long = ("--bucket", "8k", "--block", "2k", "--cset-uuid", uuid, "--cache_replacement_policy=fifo")
    assert run("make", "-C", *long, "--discard", "--size", "8M", path).exit_code == 0
    superblock = superblock_of(path)
    assert (superblock.bucket_sectors, superblock.block_sectors) == (16, 4)
    assert (str(superblock.set_uuid), superblock.replacement, superblock.discard) == (uuid, 1, True)


def test_programs_get_one_document(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    done = run("--json", "make", "-b", "4k", "-w", "512", "--replacement", "random", "--size", "4M", *paths)
    document = json.loads(done.stdout)
    superblocks = [superblock_of(path) for path in paths]
    assert document == {
        "set_uuid": str(superblocks[0].set_uuid),
        "dry_run": False,
        "warnings": [],
        "devices": [
            {
                "device": number,
                "path": str(paths[number]),
                "uuid": str(superblocks[number].uuid),
                "version": 5,
                "bucket_count": 1024,
                "bucket_sectors": 8,
                "block_sectors": 1,
                "first_bucket": 3,
                "journal_bucket_count": 8,
                "replacement": "random",
                "discard": False,
                "lost": None,
                "erased": [],
            }
            for number in (0, 1)
        ],
    }


def test_a_dry_run_says_what_would_be_done(tmp_path: Path) -> None:
    path = tmp_path / "image"
    assert run("make", "-b", "4k", "--size", "4M", path).exit_code == 0
    before = path.read_bytes()
    done = run("make", "-n", "--force", "-b", "8k", "-w", "512", path)
    assert done.exit_code == 1  # 8k buckets are too few, also in a dry run
    done = run("make", "--dry-run", "--force", "-b", "4k", "-w", "512", path)
    assert done.exit_code == 0
    assert f"{path}: would be laid out in 1024 buckets of 4k, blocks of 512\n" in done.stdout
    assert f"{path}: would erase bcache at byte 4120\n" in done.stdout
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "1M"], "1M has 2 buckets of 512k, and at least 513 are needed: use a device of"),
        (
            ["--size", "1G", "-b", "100k"],
            "invalid bucket size 100k: must be a power of two from 4k to 16M",
        ),
        (["--size", "1G", "-w", "8k"], "invalid block size 8k: must be a power of two from 512 to 4k"),
        ([], "no such file or device; --size SIZE makes an image file"),
    ],
)
def test_a_refusal_is_one_line_and_status_1(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run("make", *arguments, tmp_path / "image")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--size", "much", "image"],
        ["--size", "1000", "image"],
        ["-b", "4096.5", "image"],
        ["--replacement", "newest", "image"],
        ["--set-uuid", "here", "image"],
        ["--set-uuid", "00000000-0000-0000-0000-000000000000", "image"],
        ["-B", "image"],
    ],
)
def test_a_wrong_command_line_is_status_2(arguments: list[str]) -> None:
    done = run("make", *arguments)
    assert done.exit_code == 2
    assert "Usage:" in done.stderr
