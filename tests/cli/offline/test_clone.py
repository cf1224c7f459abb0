# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl clone`: only the target is written, and only if nothing on it would be lost."""

import fcntl
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from instruments.samples.damaged_kernel_image import backing_bytes
from instruments.samples.image_builder import ImageBuilder, two_levels
from instruments.samples.kernel_images import image_bytes

FAILED, USAGE = 1, 2


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache.img"
    path.write_bytes(image_bytes("clean"))
    return path


def test_an_image_is_made_and_is_sound(cache: Path, tmp_path: Path) -> None:
    before, target = cache.read_bytes(), tmp_path / "new.img"
    done = run("--json", "clone", "--yes", "--verify", cache, target)
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["verified"]
    assert told["copied_sectors"] == told["live_sectors"] < told["bytes_needed"] // 512
    assert cache.read_bytes() == before
    assert run("check", target).exit_code == 0


def test_a_dry_run_makes_nothing(cache: Path, tmp_path: Path) -> None:
    done = run("clone", "-n", cache, tmp_path / "new.img")
    assert done.exit_code == 0, done.stderr
    assert "would be copied" in done.stdout
    assert not (tmp_path / "new.img").exists()


def test_only_before_something_is_overwritten_it_asks(cache: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.img"
    target.write_bytes(image_bytes("crash"))
    whole = target.read_bytes()
    done = run("clone", "--force", cache, target)
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert "say --yes" in done.stderr
    assert target.read_bytes() == whole
    assert "would be overwritten: cache set" in run("clone", "-n", "--force", cache, target).stdout


def test_a_clone_that_was_not_used_since_may_be_made_again(cache: Path, tmp_path: Path) -> None:
    """As when a run was killed at its last step: only a newer journal entry shows a use."""
    target = tmp_path / "new.img"
    target.touch()  # killed right at the beginning
    assert run("clone", cache, target).exit_code == 0
    whole = target.read_bytes()
    again = json.loads(run("--json", "clone", cache, target).stdout)
    assert (again["done"], again["equal_sectors"]) == (True, again["live_sectors"])
    assert target.read_bytes() == whole
    assert run("resize", "--yes", target, "128M").exit_code == 0
    with target.open("r+b") as file:  # so that it differs in use only
        file.seek(4096)
        file.write(whole[4096:8192])
    refused = run("clone", cache, target)
    assert (refused.exit_code, "that would be lost" in refused.stderr) == (FAILED, True)


def test_a_device_that_is_no_cache_is_called_what_it_is(tmp_path: Path) -> None:
    backing = tmp_path / "backing.img"
    backing.write_bytes(backing_bytes("clean"))
    refused = run("clone", backing, tmp_path / "new.img")
    assert refused.exit_code == FAILED
    assert "is a bcache backing device" in refused.stderr
    assert "damage" not in refused.stderr


def test_a_target_with_dirty_data_is_overwritten_only_by_force(cache: Path, tmp_path: Path) -> None:
    target = tmp_path / "crash.img"
    target.write_bytes(image_bytes("crash"))
    refused = run("clone", "--yes", cache, target)
    assert refused.exit_code == FAILED
    assert "dirty keys" in refused.stderr
    assert target.read_bytes() == image_bytes("crash")
    assert run("clone", "--yes", "--force", cache, target).exit_code == 0
    assert run("check", target).exit_code == 0


def test_what_an_interrupted_clone_left_is_continued_and_nothing_else(cache: Path, tmp_path: Path) -> None:
    """It has a journal and an index already, as what may be needed has, and no superblock yet."""
    target, other = tmp_path / "new.img", tmp_path / "other.img"
    assert run("clone", cache, target).exit_code == 0
    whole = target.read_bytes()
    uuid = json.loads(run("--json", "show", cache).stdout)["uuid"]
    for owner, status in ((uuid, 0), ("10111213-1415-1617-1819-1a1b1c1d1e1f", FAILED)):
        mark = f"bcached: unfinished clone of cache device {owner}\n".encode()
        other.write_bytes(mark.ljust(16 << 10, b"\0") + whole[16 << 10 :])
        done = run("clone", cache, other)
        assert (done.exit_code, "may hold dirty data" in done.stderr) == (status, status == FAILED)
        assert (other.read_bytes() == whole) == (status == 0)


def test_a_target_with_another_signature_is_refused(cache: Path, tmp_path: Path) -> None:
    target = tmp_path / "ext4.img"
    raw = bytearray(64 << 20)
    raw[1080:1082] = b"\x53\xef"
    raw[1024 + 0x4C : 1024 + 0x50] = (1).to_bytes(4, "little")
    target.write_bytes(raw)
    refused = run("clone", "--yes", cache, target)
    assert refused.exit_code == FAILED
    assert "signature" in refused.stderr
    assert target.read_bytes() == raw


@pytest.mark.parametrize("which", ["cache", "target"])
def test_a_device_in_use_is_refused(cache: Path, tmp_path: Path, which: str) -> None:
    target = tmp_path / "new.img"
    target.write_bytes(bytes(32 << 20))
    with (cache if which == "cache" else target).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused = run("clone", "--yes", cache, target)
    assert refused.exit_code == FAILED
    assert "in use" in refused.stderr
    assert target.read_bytes() == bytes(32 << 20)


def test_the_cache_is_never_the_target(cache: Path) -> None:
    refused = run("clone", "--yes", cache, cache)
    assert refused.exit_code == FAILED
    assert "given twice" in refused.stderr


def test_a_damaged_set_is_not_copied(tmp_path: Path) -> None:
    builder = ImageBuilder()
    root, leaves = two_levels(builder)
    builder.finish(root, 1).flip(builder.byte_of(leaves[1]) + 40)
    (cache,) = builder.files(tmp_path)
    refused = run("clone", "--yes", cache, tmp_path / "new.img")
    assert refused.exit_code == FAILED
    assert "without damage" in refused.stderr
    assert not (tmp_path / "new.img").exists()


def test_all_members_of_a_set_are_needed(tmp_path: Path) -> None:
    builder = ImageBuilder(members=2)
    root, _ = two_levels(builder)
    first, second = builder.finish(root, 1).files(tmp_path)
    refused = run("clone", "--yes", second, tmp_path / "new.img")
    assert refused.exit_code == FAILED
    assert "2 members" in refused.stderr
    done = run("clone", "--yes", second, tmp_path / "new.img", "--with", first)
    assert done.exit_code == 0, done.stderr
    assert run("check", first, tmp_path / "new.img").exit_code == 0
