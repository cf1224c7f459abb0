# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl resize`: an image gets the size, and what is refused stays as it was."""

import fcntl
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from instruments.samples.image_builder import ImageBuilder, two_levels
from instruments.samples.kernel_images import image_bytes

FAILED, USAGE = 1, 2


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A kernel's set of 1024 buckets of 16k, full of clean data."""
    path = tmp_path / "cache.img"
    path.write_bytes(image_bytes("full-lru"))
    return path


def test_an_image_grows_and_shrinks_with_its_set(cache: Path) -> None:
    grown = run("--json", "resize", "--yes", cache, "24M")
    assert grown.exit_code == 0, grown.stderr
    told = json.loads(grown.stdout)
    assert (told["buckets_before"], told["buckets"], told["done"]) == (1024, 1536, True)
    assert cache.stat().st_size == 24 << 20
    assert run("check", cache).exit_code == 0
    shrunk = run("resize", "--yes", cache, "12M")
    assert shrunk.exit_code == 0, shrunk.stderr
    assert "from 1,536 buckets to 768, 12M" in shrunk.stdout
    assert "of clean data behind the end dropped" in shrunk.stdout
    assert cache.stat().st_size == 12 << 20
    assert run("check", cache).exit_code == 0


def test_max_is_all_of_the_device(cache: Path) -> None:
    with cache.open("r+b") as file:
        file.truncate(20 << 20)
    done = run("resize", "--yes", cache, "max")
    assert done.exit_code == 0, done.stderr
    assert "to 1,280" in done.stdout
    assert "1,280 buckets as it is" in run("resize", "--yes", cache, "20M").stdout


def test_a_dry_run_says_what_would_be_dropped_and_changes_nothing(cache: Path) -> None:
    before = cache.read_bytes()
    done = run("resize", "-n", cache, "12M")
    assert done.exit_code == 0, done.stderr
    assert "would be dropped" in done.stdout
    assert "would be resized" in run("resize", "-n", cache, "1G").stdout
    assert cache.read_bytes() == before


def test_what_drops_nothing_is_not_asked_about(cache: Path) -> None:
    assert run("resize", cache, "17M").exit_code == 0
    assert cache.stat().st_size == 17 << 20


def test_without_a_terminal_dropping_wants_yes(cache: Path) -> None:
    before = cache.read_bytes()
    done = run("resize", cache, "12M")
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert "say --yes" in done.stderr
    assert cache.read_bytes() == before


def test_what_would_lose_dirty_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cache.img"
    path.write_bytes(image_bytes("clean"))
    refused = run("resize", "--yes", path, "24M")
    assert refused.exit_code == FAILED
    assert "of dirty data in" in refused.stderr
    assert path.read_bytes() == image_bytes("clean")


@pytest.mark.parametrize("size", ["1M", "0", "-5", "12x", "max1"])
def test_an_impossible_size_is_refused(cache: Path, size: str) -> None:
    before = cache.read_bytes()
    refused = run("resize", "--yes", "--", cache, size)
    assert refused.exit_code in {FAILED, USAGE}
    assert cache.read_bytes() == before


def test_a_device_in_use_is_refused(cache: Path) -> None:
    with cache.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused = run("resize", "--yes", cache, "24M")
    assert refused.exit_code == FAILED
    assert "in use" in refused.stderr
    assert cache.stat().st_size == 16 << 20


def test_a_damaged_set_is_refused(tmp_path: Path) -> None:
    builder = ImageBuilder()
    root, leaves = two_levels(builder)
    builder.finish(root, 1).flip(builder.byte_of(leaves[1]) + 40)
    (cache,) = builder.files(tmp_path)
    refused = run("resize", "--yes", cache, "40M")
    assert refused.exit_code == FAILED
    assert "without damage" in refused.stderr


def test_a_member_is_resized_with_the_others(tmp_path: Path) -> None:
    builder = ImageBuilder(members=2)
    root, _ = two_levels(builder)
    first, second = builder.finish(root, 1).files(tmp_path)
    refused = run("resize", "--yes", second, "40M")
    assert refused.exit_code == FAILED
    assert "2 members" in refused.stderr
    done = run("resize", "--yes", second, "40M", "--with", first)
    assert done.exit_code == 0, done.stderr
    assert run("check", first, second).exit_code == 0
