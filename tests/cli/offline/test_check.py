# SPDX-License-Identifier: GPL-2.0-only
import fcntl
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from instruments.samples.image_builder import ImageBuilder, two_levels
from instruments.samples.kernel_images import image_bytes


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


def sound(members: int = 1) -> ImageBuilder:
    builder = ImageBuilder(members=members)
    root, _ = two_levels(builder)
    return builder.finish(root, 1, [[builder.extent(0, 5000, 8)]])


def test_a_sound_set_ends_with_zero_and_says_what_is_there(tmp_path: Path) -> None:
    (path,) = sound().files(tmp_path)
    done = run("check", path)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"device 0: {path}, 640 buckets of 32k",
        "set: 05e70000-0000-0000-0000-000000000001",
        "journal: entries 1 to 1, 1 keys to replay",
        "journal: entry 1 is the newest found: nothing follows it; an erased newer one would not show",
        "tree: nodes: 1 of level 1, 3 of level 0",
        "keys: 31 live, 0 stale; 60k dirty, 64k clean",
        "volume 0: plain, cached; 31 keys, 60k dirty, 64k clean",
        "volume 1: flash, flash-only of 32M; 0 keys, 0 dirty, 0 clean",
        "sound",
    ]


def test_programs_get_a_document(tmp_path: Path) -> None:
    (path,) = sound().files(tmp_path)
    document = json.loads(run("--json", "check", path).stdout)
    assert document["sound"] is True
    assert document["findings"] == []
    assert (document["keys"], document["live_keys"]) == (31, 31)
    assert (document["dirty_sectors"], document["clean_sectors"]) == (120, 128)
    assert (document["nodes"], document["levels"]) == (4, 2)
    assert document["volumes"][0]["dirty_sectors"] == 120
    assert document["volumes"][1] == {
        "inode": 1,
        "uuid": "00000000-0000-0000-0000-000000000011",
        "label": "flash",
        "flash_only": True,
        "sectors": 65536,
        "owner": None,
        "maker": None,
        "live_keys": 0,
        "dirty_sectors": 0,
        "clean_sectors": 0,
    }


def test_damage_ends_with_four_and_says_what_where_and_what_is_lost(tmp_path: Path) -> None:
    builder = sound()
    builder.flip(builder.byte_of(builder.root) + 40)
    (path,) = builder.files(tmp_path)
    done = run("check", path)
    assert done.exit_code == 4
    *lines, rescue, repair = done.stdout.splitlines()
    sector = builder.root.pointers[0].sector
    assert lines[-2].startswith(
        f"fatal: bset at {path} node at sector {sector}, level 1, byte 0: expected 0x"
    )
    assert "; lost: its keys from inode 0 sector 0 to" in lines[-2]
    assert lines[-1] == "NOT SOUND: 1 found wrong"
    assert rescue == f"next: bcachectl rescue -n {path} --backing DEV"
    assert repair == f"next: bcachectl repair -n --drop-damaged {path}"
    document = json.loads(run("--json", "check", path).stdout)
    assert document["sound"] is False
    assert document["worst"] == "fatal"
    assert [finding["rule"] for finding in document["findings"]] == ["node-damaged"]


def test_many_findings_of_a_kind_are_counted(tmp_path: Path) -> None:
    builder = ImageBuilder()
    keys = [builder.extent(0, 10 * n, 8, dirty=True) for n in range(130)]
    builder.gens[0][:] = 1
    root = builder.node(keys, gen=1)
    (path,) = builder.finish(root).files(tmp_path)
    done = run("check", path)
    assert done.exit_code == 4
    assert "and 30 more of the kind key-stale-dirty" in done.stdout
    assert "NOT SOUND: 131 found wrong" in done.stdout.splitlines()
    assert json.loads(run("--json", "check", path).stdout)["findings_not_listed"] == {"key-stale-dirty": 30}


def test_several_members_are_checked_together_and_not_one_alone(tmp_path: Path) -> None:
    paths = sound(members=2).files(tmp_path)
    assert run("check", *paths).exit_code == 0
    done = run("check", paths[0])
    assert (done.exit_code, done.stdout) == (8, "")
    assert "its set has 2 members, but 1 were given" in done.stderr


def test_what_cannot_be_opened_ends_with_eight(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        done = run("check", path)
        assert (done.exit_code, done.stdout) == (8, "")
        assert done.stderr.count("\n") == 1


def test_a_bug_of_ours_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcached.cli.offline.check.check_steadily", None)
    (path,) = sound().files(tmp_path)
    done = run("check", path)
    assert done.exit_code == 8
    assert "a bug in bcachectl" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--fast", "disk"]])
def test_wrong_usage_ends_with_sixteen(arguments: list[str]) -> None:
    done = run("check", *arguments)
    assert done.exit_code == 16
    assert "Usage: bcachectl check" in done.stderr


def test_a_fresh_set_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "image"
    assert run("make", "-b", "64k", "--size", "64M", path).exit_code == 0
    done = run("check", path)
    assert done.exit_code == 0
    assert "not in use yet" in done.stdout


def test_what_is_no_bcache_is_not_sound(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(1 << 20))
    done = run("check", path)
    assert done.exit_code == 4
    assert done.stdout.startswith("fatal: superblock at")


def test_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "crash.img"
    path.write_bytes(image_bytes("crash"))
    path.chmod(0o400)
    before = path.stat().st_mtime_ns
    assert run("check", path).exit_code == 0
    assert path.stat().st_mtime_ns == before
    assert path.read_bytes() == image_bytes("crash")


@pytest.mark.skipif(not os.access("/proc/locks", os.R_OK), reason="/proc/locks cannot be read")
def test_a_device_in_use_is_checked_with_a_warning(tmp_path: Path) -> None:
    (path,) = sound().files(tmp_path)
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        done = run("check", path)
        document = json.loads(run("--json", "check", path).stdout)
    finally:
        os.close(descriptor)
    assert done.exit_code == 0
    assert f"bcachectl: {path} is in use by process {os.getpid()}" in done.stderr
    assert len(document["warnings"]) == 1
    assert run("check", path).stderr == ""
