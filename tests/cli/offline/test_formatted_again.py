# SPDX-License-Identifier: GPL-2.0-only
"""A cache device that was formatted again: the set that was on it before, until the new one is used."""

import json
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from bcached.format.superblock import Superblock
from bcached.store.membership import with_new_journal
from instruments.samples.damaged_kernel_image import backing_bytes, wrong_sectors
from instruments.samples.kernel_images import image_bytes

GEOMETRY = "--geometry", "64k,512"
FORMER = "621407c8-dfa2-458f-87b4-eba2f3dce2e7"
NEWER = UUID(int=7)
DIRTY_SECTORS = 48167
FAILED, CORRECTED, LEFT, NOT_DONE = 1, 1, 4, 8


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    path = tmp_path / "backing.img"
    path.write_bytes(backing_bytes("crash"))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return formatted(tmp_path / "cache.img", superblock())


def formatted(path: Path, raw: bytes) -> Path:
    path.write_bytes(bytes(4096) + raw + image_bytes("crash")[4096 + len(raw) :])
    return path


def superblock(*, is_used: bool = False) -> bytes:
    """The superblock of another set, with other sizes."""
    fresh = Superblock(
        uuid=UUID(int=8),
        set_uuid=NEWER,
        version=3 if is_used else 0,
        bucket_count=2048,
        bucket_sectors=64,
        block_sectors=8,
        first_bucket=1,
        synchronous=is_used,
    )
    return (with_new_journal(fresh) if is_used else fresh).pack()


def test_the_dirty_data_of_the_former_set_is_brought_back(cache: Path, backing: Path) -> None:
    before = cache.read_bytes()
    done = run("--json", "rescue", "--yes", cache, "--backing", backing, *GEOMETRY)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["sure"]["sectors"] == DIRTY_SECTORS
    assert wrong_sectors("crash", backing.read_bytes()) == set()
    assert cache.read_bytes() == before


def test_without_its_sizes_the_new_set_is_read_which_holds_nothing(cache: Path, backing: Path) -> None:
    done = run("rescue", "-n", cache, "--backing", backing)
    assert (done.exit_code, done.stdout) == (FAILED, "")
    assert "was never in use, so it holds nothing to rescue; of a set that was on it before" in done.stderr


@pytest.mark.parametrize("raw", [superblock(is_used=True), backing_bytes("crash")[4096:8192]])
def test_nothing_of_it_is_sure_once_the_device_is_in_use_otherwise(
    raw: bytes, tmp_path: Path, backing: Path
) -> None:
    cache, before = formatted(tmp_path / "used.img", raw), backing.read_bytes()
    done = run("--json", "rescue", "--yes", cache, "--backing", backing, *GEOMETRY)
    assert done.exit_code == FAILED
    found = json.loads(done.stdout)
    assert (found["sure"]["sectors"], found["newest"]["sectors"]) == (0, DIRTY_SECTORS)
    assert backing.read_bytes() == before


def test_sizes_that_are_given_for_a_sound_set_itself_change_nothing(tmp_path: Path, backing: Path) -> None:
    cache = tmp_path / "sound.img"
    cache.write_bytes(image_bytes("crash"))
    done = run("--json", "rescue", "-n", cache, "--backing", backing, "--geometry", "128k,4k")
    assert json.loads(done.stdout)["sure"]["sectors"] == DIRTY_SECTORS


def test_a_check_tells_of_the_former_set(cache: Path, backing: Path) -> None:
    done = run("check", cache)
    assert done.exit_code == 0
    assert "the journal of another set, 621407c8-dfa2-458f-..., up to entry 260, and its index" in done.stdout
    assert f"next: bcachectl rescue -n {cache} --backing DEV --geometry 64k,512" in done.stdout
    done = run("--json", "check", cache, "--backing", backing)
    assert done.exit_code == LEFT
    found = json.loads(done.stdout)
    problems = {finding["rule"]: finding["problem"] for finding in found["findings"]}
    assert problems["backing-set"] == f"the backing device is attached to another set ({FORMER})"
    assert [one["state"] for one in found["backing"]] == ["dirty"]
    assert found["next"][0].endswith(f"--backing {backing} --geometry 64k,512")


def test_a_check_tells_of_no_former_set_where_there_was_none(tmp_path: Path) -> None:
    cache = tmp_path / "new.img"
    run("make", "--size", "64M", "-b", "64k", cache)
    assert json.loads(run("--json", "check", cache).stdout)["findings"] == []


def test_a_repair_puts_the_former_superblock_back_before_the_first_use(
    cache: Path, backing: Path, tmp_path: Path
) -> None:
    before, undo = cache.read_bytes(), tmp_path / "undo"
    done = run("repair", "--yes", "--superblock", "--backing", backing, "--undo", undo, cache)
    assert done.exit_code == CORRECTED, done.output
    assert f"gives up: {cache}: set {NEWER}, which was never in use" in done.stdout
    found = json.loads(run("--json", "check", cache).stdout)
    assert (found["sound"], found["set_uuid"], found["dirty_sectors"]) == (True, FORMER, DIRTY_SECTORS)
    assert run("repair", "--restore", undo).exit_code == 0
    assert cache.read_bytes() == before


def test_a_repair_puts_nothing_back_over_a_set_in_use(tmp_path: Path) -> None:
    cache = formatted(tmp_path / "used.img", superblock(is_used=True))
    before = cache.read_bytes()
    done = run("repair", "--yes", "--superblock", *GEOMETRY, "--set-uuid", FORMER, cache)
    assert done.exit_code == NOT_DONE
    assert f"is a device of set {NEWER}, which was in use" in done.stderr
    assert cache.read_bytes() == before


def test_make_does_not_overwrite_the_former_set(cache: Path) -> None:
    before = cache.read_bytes()
    done = run("make", "--wipe-bcache", "-b", "64k", cache)
    assert done.exit_code == FAILED
    assert "formatted again and not used since" in done.stderr
    assert cache.read_bytes() == before
