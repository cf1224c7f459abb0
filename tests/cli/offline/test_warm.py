# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl warm`: what comes into the cache is what the backing device holds."""

import asyncio
import fcntl
import json
import subprocess
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from bcached.format.backing_superblock import attached, detached
from bcached.format.superblock_fields import NAME
from bcached.format.superblock_seal import resealed
from bcached.store.check.checker import check_set
from bcached.store.superblock_slot import read_superblock
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import backing_bytes
from instruments.samples.image_builder import ImageBuilder, two_levels
from instruments.samples.kernel_images import image_bytes
from instruments.samples.live_data import LiveData, dirty, live_data

FAILED, USAGE = 1, 2
DATA = 16  # the first sector of the backing device's data
HOT = "# the boot files\n0 512k\n\n2048 1024 # in sectors\n"


def run(*arguments: object, told: str | None = None) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)), input=told)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache.img"
    path.write_bytes(image_bytes("clean"))
    return path


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    path = tmp_path / "fresh.img"
    assert run("make", "-b", "16k", "--size", "16M", path).exit_code == 0
    return path


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(backing_bytes("clean"))
    return path


@pytest.fixture
def alone(backing: Path) -> Path:
    """A backing device that is attached to no set."""
    raw = bytearray(backing.read_bytes())
    raw[4096:8192] = detached(bytes(raw[4096:8192]))
    backing.write_bytes(raw)
    return backing


def held(path: Path) -> LiveData:
    return asyncio.run(live_data([MemoryDevice.holding(path.read_bytes())]))


def assert_right(path: Path, backing: Path, sectors: range) -> None:
    """Everything in these sectors is cached, and what is clean is what the backing device holds there."""
    below, data = backing.read_bytes(), held(path)
    places = {place for _, place, _ in data}
    assert set(range(DATA + sectors.start, DATA + sectors.stop)) <= places
    for (_, place, is_dirty), raw in data.items():
        if not is_dirty and place - DATA in sectors:
            assert raw == below[place * 512 : (place + 1) * 512], place


def test_what_is_missing_is_brought_in_and_the_rest_stays(cache: Path, backing: Path) -> None:
    before, below = held(cache), backing.read_bytes()
    planned = json.loads(
        run("--json", "warm", "-n", cache, "--backing", backing, "--ranges", "-", told=HOT).stdout
    )
    assert cache.read_bytes() == image_bytes("clean")
    done = run("--json", "warm", cache, "--backing", backing, "--ranges", "-", told=HOT)
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert 0 < told["warmed_sectors"] == planned["missing_sectors"] < told["wanted_sectors"] == 2048
    assert backing.read_bytes() == below
    assert run("check", cache).exit_code == 0
    assert dirty(held(cache)) == dirty(before)
    assert_right(cache, backing, range(1024))
    again = run("--json", "warm", "--yes", cache, "--backing", backing, "--ranges", "-", told=HOT)
    assert json.loads(again.stdout)["warmed_sectors"] < told["warmed_sectors"] // 4


def test_it_asks_before_a_device_is_attached(fresh: Path, alone: Path) -> None:
    below = alone.read_bytes()
    done = run("warm", "--attach", fresh, "--backing", alone, "--ranges", "-", told="0 1M")
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert "say --yes" in done.stderr
    assert alone.read_bytes() == below


def test_a_device_of_no_set_is_attached_when_asked_for(fresh: Path, alone: Path) -> None:
    refused = run("warm", "--yes", fresh, "--backing", alone, "--ranges", "-", told="0 1M")
    assert refused.exit_code == FAILED
    assert "--attach" in refused.stderr
    below = alone.read_bytes()
    done = run("--json", "warm", "--yes", "--attach", fresh, "--backing", alone, "--ranges", "-", told="0 1M")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["attached"] is True
    assert_right(fresh, alone, range(2048))
    set_uuid = asyncio.run(read_superblock(MemoryDevice.holding(fresh.read_bytes()))).set_uuid
    after = alone.read_bytes()
    assert after[4096:8192] == attached(below[4096:8192], set_uuid)
    assert (after[:4096], after[8192:]) == (below[:4096], below[8192:])
    assert "[clean]" in run("show", alone).stdout


def test_a_volume_of_a_device_that_was_detached_since_counts_for_nothing(fresh: Path, alone: Path) -> None:
    raw = alone.read_bytes()
    arguments = ("warm", "--yes", "--attach", fresh, "--backing", alone, "--ranges", "-")
    assert run(*arguments, told="0 1M").exit_code == 0
    changed = bytearray(raw)  # detached as it was, and used without the cache
    changed[DATA * 512 : DATA * 512 + 4096] = b"x" * 4096
    alone.write_bytes(changed)
    assert run(*arguments, told="0 64k").exit_code == 0
    assert_right(fresh, alone, range(128))
    assert len(held(fresh)) == 128


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("0 8\nx 8\n", "line 2"),
        ("0\n", "expected an offset and a length"),
        ("0 100G", "expected ranges up to sector"),
        ("0 -5", "line 1"),
        ("0 700b", "not a multiple"),
    ],
)
def test_wrong_ranges_are_refused(cache: Path, backing: Path, told: str, message: str) -> None:
    refused = run("warm", "--yes", cache, "--backing", backing, "--ranges", "-", told=told)
    assert refused.exit_code in {FAILED, USAGE}
    assert message in refused.stderr
    assert cache.read_bytes() == image_bytes("clean")


def test_more_than_the_cache_holds_is_refused(fresh: Path, alone: Path) -> None:
    refused = run("warm", "--yes", "--attach", fresh, "--backing", alone, "--ranges", "-", told="0 30M")
    assert refused.exit_code == FAILED
    assert "choose fewer ranges" in refused.stderr
    assert "[detached]" in run("show", alone).stdout


@pytest.mark.parametrize("state", ["stale", "other set"])
def test_a_device_whose_cache_may_be_wrong_is_refused(cache: Path, backing: Path, state: str) -> None:
    raw = bytearray(backing.read_bytes())
    block = bytes(raw[4096:8192])
    sealed = _with_state(block, 3) if state == "stale" else attached(block, UUID(int=1))
    raw[4096:8192] = sealed
    backing.write_bytes(raw)
    refused = run("warm", "--yes", "--attach", cache, "--backing", backing, "--ranges", "-", told=HOT)
    assert refused.exit_code == FAILED
    assert "attach" in refused.stderr
    assert cache.read_bytes() == image_bytes("clean")


def _with_state(raw: bytes, state: int) -> bytes:
    changed = bytearray(raw)
    changed[111] = changed[111] & ~0x60 | state << 5
    return resealed(changed, NAME)


@pytest.mark.parametrize("which", ["cache", "backing"])
def test_a_device_in_use_is_refused(cache: Path, backing: Path, which: str) -> None:
    with (cache if which == "cache" else backing).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = run("warm", "--yes", cache, "--backing", backing, "--ranges", "-", told=HOT)
    assert refused.exit_code == FAILED
    assert "in use" in refused.stderr
    assert cache.read_bytes() == image_bytes("clean")


def test_a_client_that_may_still_write_keeps_the_set_as_it_is(cache: Path, backing: Path) -> None:
    with cache.open("r+b") as file, subprocess.Popen(["sleep", "60"], stdin=file) as client:
        refused = run("warm", "--yes", cache, "--backing", backing, "--ranges", "-", told=HOT)
        client.kill()
    assert refused.exit_code == FAILED
    assert "sleep" in refused.stderr
    assert "open for writing" in refused.stderr


def test_a_damaged_set_is_refused(tmp_path: Path, backing: Path) -> None:
    builder = ImageBuilder()
    root, leaves = two_levels(builder)
    builder.finish(root, 1).flip(builder.byte_of(leaves[1]) + 40)
    (cache,) = builder.files(tmp_path)
    refused = run("warm", "--yes", cache, "--backing", backing, "--ranges", "-", told=HOT)
    assert refused.exit_code == FAILED
    assert "without damage" in refused.stderr
    assert asyncio.run(check_set(builder.devices())).findings.counts
