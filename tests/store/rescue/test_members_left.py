# SPDX-License-Identifier: GPL-2.0-only
"""Sets of several members with superblocks of which nothing is left, and without a copy."""

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from instruments.samples.image_builder import SET_UUID, ImageBuilder

SECTORS = 8
DATA = b"ABC"  # of the extent on each member
LAYOUT = ("--geometry", "32k,4k", "--set-uuid", str(SET_UUID))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


def a_set(members: int, *lost: int) -> ImageBuilder:
    """A dirty extent on each member, the root on the first."""
    builder = ImageBuilder(members=members)
    extents = [
        builder.extent(0, SECTORS * member, SECTORS, dirty=True, member=member) for member in range(members)
    ]
    for member, extent in enumerate(extents):
        builder.write(builder.byte_of(extent), DATA[member : member + 1] * SECTORS * 512, member)
    builder.finish(builder.node(extents))
    for member in lost:
        builder.write(0, bytes(16 << 10), member)
    return builder


def written(path: Path) -> bytes:
    """The first byte of each extent."""
    return path.read_bytes()[:: SECTORS * 512]


@pytest.mark.parametrize("lost", range(3))
@pytest.mark.parametrize("options", [(), LAYOUT])
def test_one_of_them_is_taken_for_the_member_that_is_missing(
    lost: int, options: tuple[str, ...], tmp_path: Path
) -> None:
    paths = a_set(3, lost).files(tmp_path)
    before = [Path(path).read_bytes() for path in paths]
    image = tmp_path / "volume.img"
    done = run("--json", "rescue", "--yes", *options, *reversed(paths), "--volume", 0, "--to", image)
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["sure"]["sectors"], written(image)) == (3 * SECTORS, DATA)
    assert {(one["rule"], one["where"]) for one in answer["damage"]} == {
        ("superblock", f"{paths[lost]} sector 8")
    }
    assert len(run("dump", "--only", "superblock", *paths).stdout.splitlines()) == 3
    table = json.loads(run("--json", "view", "--dm-table", "--volume", 0, *paths).stdout)["table"]
    assert {target["device"] for target in table} == set(paths)
    assert [Path(path).read_bytes() for path in paths] == before


def test_of_several_the_order_is_as_they_are_named_and_nothing_is_sure(tmp_path: Path) -> None:
    paths = a_set(3, 0, 2).files(tmp_path)
    image = tmp_path / "volume.img"
    command = ("--json", "rescue", "--yes", "--confidence", "newest", *paths, "--volume", 0, "--to", image)
    answer = json.loads(run(*command).stdout)
    assert (answer["sure"]["sectors"], answer["newest"]["sectors"]) == (0, 3 * SECTORS)
    assert written(image) == DATA
    assert any(one["rule"] == "superblock-order" for one in answer["damage"])


def test_without_any_superblock_the_owner_says_how_it_was_made(tmp_path: Path) -> None:
    paths = a_set(3, 0, 1, 2).files(tmp_path)
    image = tmp_path / "volume.img"
    target = ("--volume", 0, "--to", image)
    refused = run("rescue", "-n", *paths, *target)
    assert (refused.exit_code, "`bcachectl show " in refused.stderr) == (1, True)
    done = run("--json", "rescue", "--yes", "--confidence", "newest", *LAYOUT, *paths, *target)
    answer = json.loads(done.stdout)
    assert (answer["sure"]["sectors"], answer["newest"]["sectors"]) == (0, 3 * SECTORS), done.stderr
    assert written(image) == DATA


@pytest.mark.parametrize("lost", [(1,), (0, 1)])
def test_the_commands_that_check_proposes_are_not_refused(lost: tuple[int, ...], tmp_path: Path) -> None:
    paths = a_set(2, *lost).files(tmp_path)
    checked = json.loads(run("--json", "check", *paths).stdout)
    assert checked["next"]
    for command in checked["next"]:
        words = shlex.split(command)[1:]
        if words[0] == "rescue":
            place = words.index("--backing")
            words[place : place + 2] = ["--volume", "0", "--to", str(tmp_path / "volume.img")]
            words += ["--set-uuid", str(SET_UUID)] if "--geometry" in words else []
        assert "expected" not in run(*words).stderr, command
    assert any("repair" in command for command in checked["next"]) == (len(lost) == 1)


def test_a_stranger_is_not_taken_for_a_member(tmp_path: Path) -> None:
    paths = a_set(2).files(tmp_path)
    stranger = tmp_path / "stranger.img"
    stranger.write_bytes(bytes(Path(paths[1]).stat().st_size))
    done = run("rescue", "-n", paths[0], stranger, "--volume", 0, "--to", tmp_path / "x")
    assert (done.exit_code, f"no journal entry of set {SET_UUID}" in done.stderr) == (1, True), done.stderr


def test_all_others_are_needed_to_tell_which_it_is(tmp_path: Path) -> None:
    paths = a_set(3, 1).files(tmp_path)
    done = run("rescue", "-n", *paths[:2], "--volume", 0, "--to", tmp_path / "x")
    assert (done.exit_code, "expected 3 devices of the set, found 2" in done.stderr) == (1, True), done.stderr
