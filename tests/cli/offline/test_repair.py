# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl repair`: nothing is given up unasked, and what is asked for leaves a set that opens."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from bcached.format.superblock import SUPERBLOCK_SECTOR
from bcached.runtime.index.lookups import LookupRequest
from bcached.runtime.lifetime import running
from bcached.units import SECTOR_BYTES
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.damaged_kernel_image import backing_bytes
from instruments.samples.image_builder import ImageBuilder, two_levels
from instruments.samples.living_set import set_options
from instruments.time.virtual_time import run_in_virtual_time

MENDED, ERRORS_LEFT, OPERATIONAL, USAGE = 1, 4, 8, 16


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


KILLED_AT_SYNC = """
import os, signal
left = [{}]
def killing(call):
    def counted(number):
        left[0] -= 1
        left[0] or os.kill(os.getpid(), signal.SIGKILL)
        return call(number)
    return counted
os.fsync, os.fdatasync = killing(os.fsync), killing(os.fdatasync)
"""


def run_behind(first: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the program in a process that does something else first."""
    program = f"{first}\nfrom bcached.cli.main import bcachectl; bcachectl(prog_name='bcachectl')"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = os.environ | {"COVERAGE_PROCESS_CONFIG": ""}  # which would write files of its own
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def with_a_hole(members: int = 1, *, last_lost: int = 6) -> ImageBuilder:
    """Entry 4 of six is damaged, so that 3 is the newest that can be read."""
    builder = ImageBuilder(members=members)
    root, _ = two_levels(builder)
    keys = [[builder.extent(0, 5000 + 8 * n, 8, dirty=True)] for n in range(last_lost)]
    builder.finish(root, 1, keys)
    for member in range(members):
        builder.flip(builder.entries[4][1] + 200, member)
    return builder


def test_without_a_step_it_says_what_could_be_done_and_does_nothing(tmp_path: Path) -> None:
    (path,) = with_a_hole().files(tmp_path)
    before = Path(path).read_bytes()
    done = run("repair", path)
    assert done.exit_code == ERRORS_LEFT
    assert f"to go on without: bcachectl repair --clear-journal-behind 3 {path}" in done.stdout
    assert Path(path).read_bytes() == before


def test_a_dry_run_names_what_is_given_up_and_changes_nothing(tmp_path: Path) -> None:
    (path,) = with_a_hole().files(tmp_path)
    before = Path(path).read_bytes()
    done = run("repair", "-n", "--clear-journal-behind", 3, path)
    assert done.exit_code == ERRORS_LEFT
    assert done.stdout.splitlines() == [
        "clear the journal behind entry 3: 3 blocks, 12k",
        "  gives up: all changes since journal entry 3: 3 entries, 2 of them readable",
        "  gives up: in those that are readable: 2 keys of 16 sectors, 16 of them dirty",
        "would be sound then",
    ]
    assert Path(path).read_bytes() == before


def test_without_a_terminal_it_wants_yes(tmp_path: Path) -> None:
    (path,) = with_a_hole().files(tmp_path)
    before = Path(path).read_bytes()
    done = run("repair", "--clear-journal-behind", 3, path)
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert "say --yes" in done.stderr
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("members", [1, 2])
def test_what_was_cleared_is_found_by_nobody_again(tmp_path: Path, members: int) -> None:
    builder = with_a_hole(members)
    paths = builder.files(tmp_path)
    done = run("--json", "repair", "--yes", "--clear-journal-behind", 3, *paths)
    assert done.exit_code == MENDED
    assert json.loads(done.stdout)["sound"] is True
    for path in paths:
        raw = Path(path).read_bytes()
        for seq in (4, 5, 6):
            byte = builder.entries[seq][1]
            assert raw[byte : byte + builder.geometry.block_bytes] == bytes(builder.geometry.block_bytes)
    assert run("check", *paths).exit_code == 0
    assert run_in_virtual_time(offsets(paths, tmp_path)) == [5000, 5008, 5016]
    again = run("repair", "--yes", "--clear-journal-behind", 3, *paths)
    assert again.exit_code == 0, "there is nothing to do any more"


async def offsets(paths: list[str], folder: Path) -> list[int]:
    """Where the keys of the journal begin that a daemon finds."""
    devices = [MemoryDevice.holding(Path(path).read_bytes()) for path in paths]
    async with running(devices, set_options(folder)) as cache_set:
        assert cache_set.verify() == []
        keys = (await cache_set.lookups.lookup(LookupRequest(0, 5000, 64))).keys
        return [key.offset for key in keys]


def test_it_goes_back_as_far_as_it_is_told(tmp_path: Path) -> None:
    (path,) = with_a_hole().files(tmp_path)
    assert run("repair", "--yes", "--clear-journal-behind", 1, path).exit_code == MENDED
    checked = json.loads(run("--json", "check", path).stdout)
    assert (checked["journal"]["seq"], checked["sound"]) == (1, True)


@pytest.mark.parametrize("seq", [4, 5, 99])
def test_only_to_an_entry_that_is_whole(tmp_path: Path, seq: int) -> None:
    (path,) = with_a_hole().files(tmp_path)
    before = Path(path).read_bytes()
    done = run("repair", "--yes", "--clear-journal-behind", seq, path)
    assert done.exit_code == OPERATIONAL
    assert "found 1 to 3" in done.stderr
    assert Path(path).read_bytes() == before


def test_an_entry_whose_magic_is_gone_is_cleared_too(tmp_path: Path) -> None:
    builder = with_a_hole(last_lost=4)
    builder.flip(builder.entries[4][1] + 8)
    (path,) = builder.files(tmp_path)
    assert "journal-newer" in run("--json", "check", path).stdout
    assert run("repair", "--yes", "--clear-journal-behind", 3, path).exit_code == MENDED
    assert run("check", path).exit_code == 0


def test_a_device_in_use_is_refused(tmp_path: Path) -> None:
    (path,) = with_a_hole().files(tmp_path)
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run("repair", "--yes", "--clear-journal-behind", 3, path)
        looked = [run("repair", *steps, path) for steps in ((), ("-n", "--clear-journal-behind", 3))]
    assert (done.exit_code, done.stdout) == (OPERATIONAL, "")
    assert "in use" in done.stderr
    for one in looked:
        assert (one.exit_code, "may not be of one instant" in one.stderr) == (ERRORS_LEFT, True)


def test_a_wrong_number_is_a_wrong_usage(tmp_path: Path) -> None:
    (path,) = with_a_hole().files(tmp_path)
    for wrong in ("0", "-1", "x"):
        assert run("repair", "--clear-journal-behind", wrong, path).exit_code == USAGE
    assert run("repair").exit_code == USAGE
    assert run("repair", "--rebuild-volumes", "--backing", f"{1 << 20}={path}", path).exit_code == USAGE


def test_a_sound_entry_that_was_never_written_can_be_cleared_as_advised(tmp_path: Path) -> None:
    """The kernel would take it for the newest once there are entries right up to it."""
    builder = ImageBuilder()
    root, _ = two_levels(builder)
    builder.finish(root, 1, [[builder.extent(0, 5000 + 8 * n, 8, dirty=True)] for n in range(3)])
    journal = builder.entries[1][1]
    builder.write_entry(builder.entry(1 << 50, 1), journal + 12 * builder.geometry.block_bytes)
    (path,) = builder.files(tmp_path)
    checked = run("check", path)
    advice = f"repair --clear-journal-behind 3 {path}"
    assert checked.exit_code != 0
    assert advice in checked.stdout
    assert run("--json", *advice.split(), "--yes").exit_code == MENDED
    assert run("check", path).exit_code == 0
    assert run_in_virtual_time(offsets([path], tmp_path)) == [5000, 5008, 5016]


def test_an_undo_file_brings_everything_back(tmp_path: Path) -> None:
    builder = with_a_hole(2)
    paths, undo = builder.files(tmp_path), tmp_path / "repair.undo"
    before = [Path(path).read_bytes() for path in paths]
    steps = ("--clear-journal-behind", 3)
    assert run("repair", "-n", "--undo", undo, *steps, *paths).exit_code == ERRORS_LEFT
    assert not undo.exists()
    assert run("repair", "--yes", "--undo", undo, *steps, *paths).exit_code == MENDED
    assert [Path(path).read_bytes() for path in paths] != before
    again = run("repair", "--yes", "--undo", undo, "--clear-journal-behind", 1, *paths)
    assert (again.exit_code, again.stdout) == (OPERATIONAL, "")
    assert "exists already" in again.stderr
    done = run("--json", "repair", "--restore", undo)
    assert (done.exit_code, json.loads(done.stdout)["devices"]) == (0, paths)
    assert json.loads(done.stdout)["undo_file_is_whole"]
    assert [Path(path).read_bytes() for path in paths] == before
    undo.write_bytes(undo.read_bytes()[: undo.read_bytes().rindex(b'{"records"')])
    done = run("repair", "--restore", undo)
    assert done.exit_code == 0
    assert "does not say that the repair ended" in done.stderr


def test_a_repair_whose_undo_file_has_no_room_is_done_by_the_same_command(tmp_path: Path) -> None:
    """A limit on the size of files ends it at any byte of the file, as a full disk does."""
    (path,) = with_a_hole().files(tmp_path)
    undo, before = tmp_path / "repair.undo", Path(path).read_bytes()
    command = ["repair", "--yes", "--undo", undo, "--clear-journal-behind", "3", path]
    for room in (40, 1500):  # for a part of the header, and of a record
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))\n"
        failed = run_behind(limit, *command)
        assert (failed.returncode, failed.stderr.count("\n")) == (OPERATIONAL, 1), failed
        assert "File too large" in failed.stderr
        assert (Path(path).read_bytes(), undo.stat().st_size) == (before, room)
    assert f"the same command continues, and bcachectl repair --restore {undo}" in failed.stderr
    assert run(*command).exit_code == MENDED
    assert run("repair", "--restore", undo).exit_code == 0
    assert Path(path).read_bytes() == before


def test_a_killed_repair_is_continued_or_undone(tmp_path: Path) -> None:
    """1. Nothing is in the undo file but its header. 2. All was overwritten, and is not flushed."""
    (path,) = with_a_hole().files(tmp_path)
    before = Path(path).read_bytes()
    run("repair", "--yes", "--clear-journal-behind", 3, path)
    repaired = Path(path).read_bytes()
    undo = tmp_path / "repair.undo"
    command = ["repair", "--yes", "--undo", undo, "--clear-journal-behind", 3, path]
    for sync, status in ((2, MENDED), (4, 0)):
        Path(path).write_bytes(before)
        assert run_behind(KILLED_AT_SYNC.format(sync), *command).returncode == -signal.SIGKILL
        done = run(*command)
        assert (done.exit_code, Path(path).read_bytes()) == (status, repaired)
        assert run("repair", "--restore", undo).exit_code == 0
        assert Path(path).read_bytes() == before


def test_restoring_takes_the_devices_by_other_names(tmp_path: Path) -> None:
    (path,) = with_a_hole().files(tmp_path)
    undo, before = tmp_path / "repair.undo", Path(path).read_bytes()
    run("repair", "--yes", "--undo", undo, "--clear-journal-behind", 3, path)
    moved = Path(path).rename(tmp_path / "moved.img")
    assert run("repair", "--restore", undo).exit_code == OPERATIONAL
    assert run("repair", "--restore", undo, moved, moved).exit_code == USAGE
    assert run("repair", "--restore", undo, moved).exit_code == 0
    assert moved.read_bytes() == before
    for wrong in (("-n",), ("--undo", tmp_path / "x"), ("--clear-journal-behind", 3)):
        assert run("repair", "--restore", undo, *wrong, moved).exit_code == USAGE


def with_a_torn_entry() -> ImageBuilder:
    """The newest entry is of two sectors, and the power failed when only the first was written."""
    builder = ImageBuilder()
    root, _ = two_levels(builder)
    builder.finish(root, 1, [[], [builder.extent(0, 5000 + 8 * n, 8, dirty=True) for n in range(30)]])
    builder.tear_entry(2)
    return builder


def with_a_damaged_entry() -> ImageBuilder:
    """The newest of four entries has several wrong bits, in its only sector."""
    builder = with_a_hole(last_lost=4)
    builder.write(builder.entries[4][1] + 32, b"\x55" * 8)
    return builder


def test_a_damaged_newest_entry_is_cleared_as_advised(tmp_path: Path) -> None:
    (path,) = with_a_damaged_entry().files(tmp_path)
    checked = run("check", path)
    assert checked.exit_code == ERRORS_LEFT
    advice = f"repair -n --clear-journal-behind 3 {path}"
    assert checked.stdout.splitlines()[-1] == f"next: bcachectl {advice}"
    proposed = run("repair", path)
    assert proposed.exit_code == ERRORS_LEFT
    assert "entry 4 is damaged" in proposed.stdout
    assert proposed.stdout.splitlines()[-1] == f"to see what can be done: bcachectl {advice}"
    assert "would be sound then" in run(*advice.split()).stdout
    assert run(*advice.replace("-n", "--yes").split()).exit_code == MENDED
    assert run("check", path).exit_code == 0


def test_one_wrong_bit_of_it_is_corrected_as_advised(tmp_path: Path) -> None:
    (path,) = with_a_hole(last_lost=4).files(tmp_path)
    advice = f"repair -n --correct-bits {path}"
    assert run("repair", path).stdout.splitlines()[-1] == f"to see what can be done: bcachectl {advice}"
    assert run(*advice.replace("-n", "--yes").split()).exit_code == MENDED
    assert run_in_virtual_time(offsets([path], tmp_path)) == [5000, 5008, 5016, 5024]


def test_without_that_step_nothing_of_what_it_leaves_in_doubt_stays(tmp_path: Path) -> None:
    (path,) = with_a_damaged_entry().files(tmp_path)
    before = Path(path).read_bytes()
    done = run("repair", "--yes", "--drop-damaged", path)
    assert done.exit_code == ERRORS_LEFT
    assert "dirty data would be lost" in done.stdout
    assert Path(path).read_bytes() == before
    options = "--drop-damaged", "--newest", "--give-up-dirty"
    assert run("repair", "--yes", *options, path).exit_code == MENDED
    assert run_in_virtual_time(offsets([path], tmp_path)) == [5000, 5008, 5016]


def test_an_interrupted_write_needs_no_repair(tmp_path: Path) -> None:
    (path,) = with_a_torn_entry().files(tmp_path)
    before = Path(path).read_bytes()
    for options in ([], ["--yes", "--drop-damaged"]):
        done = run("repair", *options, path)
        assert done.exit_code == 0
        assert done.stdout.splitlines()[-1] == (
            "nothing is to be repaired: the next opening puts right what was interrupted"
        )
        assert Path(path).read_bytes() == before


def test_an_interrupted_write_hides_no_damage(tmp_path: Path) -> None:
    builder = with_a_torn_entry()
    builder.flip(SUPERBLOCK_SECTOR * SECTOR_BYTES + 60)
    (path,) = builder.files(tmp_path)
    done = run("repair", path)
    assert done.exit_code == ERRORS_LEFT
    assert "NOT SOUND: nothing was done" in done.stdout.splitlines()


def test_no_step_is_proposed_for_a_backing_device(tmp_path: Path) -> None:
    path = tmp_path / "backing.img"
    path.write_bytes(backing_bytes("crash"))
    done = run("repair", path)
    assert done.exit_code == ERRORS_LEFT
    assert "is a bcache backing device" in done.stdout
    assert done.stdout.splitlines()[-1] == "NOT SOUND: nothing was done"
    assert path.read_bytes() == backing_bytes("crash")
