# SPDX-License-Identifier: GPL-2.0-only
"""`bcachectl check --backing --data`: the owner's questions, on what the kernel wrote."""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from bcached.format.superblock_seal import resealed
from bcached.keys import Key
from instruments.devices.loop_device import loop_device
from instruments.samples.copy_maps import map_text
from instruments.samples.damaged_kernel_image import backing_bytes, journal_entries, structures
from instruments.samples.kernel_images import image_bytes

SOUND, ERRORS_LEFT, OPERATIONAL, USAGE = 0, 4, 8, 16
DIRTY, CLEAN = 48167, 10349
SECTOR = 512
UUID = "9bc1f66d-62e1-4b4a-bd9c-099118638628"
STATES = {"detached": 0, "clean": 1, "dirty": 2, "inconsistent": 3}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache.img"
    path.write_bytes(image_bytes("crash"))
    return path


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    path = tmp_path / "backing.img"
    path.write_bytes(backing_bytes("crash"))
    return path


def change(path: Path, byte: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(byte)
        file.write(data)


def reseal(path: Path, edit: Callable[[bytearray], None]) -> None:
    """Change a backing device's superblock, with a right checksum."""
    raw = bytearray(path.read_bytes()[4096:8192])
    edit(raw)
    change(path, 4096, resealed(raw, "superblock"))


def keys(*, dirty: bool) -> list[Key]:
    checked, _ = asyncio.run(structures("crash"))
    assert checked.tree is not None
    return [key for rows in checked.tree.rows.chunks() for key in rows if key.dirty == dirty]


def checked(*arguments: object) -> tuple[int, dict[str, Any]]:
    done = run("--json", "check", *arguments)
    return done.exit_code, json.loads(done.stdout)


def found(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(finding["rule"], finding["severity"]) for finding in document["findings"]}


def test_a_sound_pair_is_told_with_the_next_command(cache: Path, backing: Path) -> None:
    done = run("check", cache, "--backing", backing, "--data")
    assert (done.exit_code, done.stderr) == (SOUND, "")
    assert done.stdout.splitlines()[-6:] == [
        f"backing device {backing}: volume 0, dirty, writeback, data from sector 16 on, uuid {UUID}",
        "dirty data of volume 0: 23.5M sure",
        "data: 23.5M dirty and 5.1M clean read, 0 in 0 extents unreadable",
        "clean data: 5.1M compared with the backing devices, 0 in 0 extents different",
        "sound",
        f"next: bcachectl rescue -n {cache} --backing {backing}",
    ]
    assert (cache.read_bytes(), backing.read_bytes()) == (image_bytes("crash"), backing_bytes("crash"))


def test_programs_get_all_of_it(cache: Path, backing: Path) -> None:
    status, document = checked(cache, "--backing", backing, "--data")
    nothing = {"extents": 0, "sectors": 0}
    assert (status, document["sound"]) == (SOUND, True)
    assert document["dirty_data"] == [
        {
            "inode": 0,
            "sure": {"extents": 1255, "sectors": DIRTY},
            "newest": nothing,
            "conflicting": nothing,
            "unreadable": nothing,
        }
    ]
    assert document["backing"][0] | {"path": ""} == {
        "path": "",
        "uuid": UUID,
        "set_uuid": document["set_uuid"],
        "inode": 0,
        "doubt": None,
        "state": "dirty",
        "cache_mode": "writeback",
        "data_sector": 16,
        "sectors": backing.stat().st_size // SECTOR,
        "dirty_sectors": DIRTY,
    }
    assert document["data"] == {
        "dirty_sectors": DIRTY,
        "clean_sectors": CLEAN,
        "unreadable": {"extents": 0, "dirty_sectors": 0, "clean_sectors": 0},
        "compared_sectors": CLEAN,
        "different": nothing,
    }
    assert document["next"] == [f"bcachectl rescue -n {cache} --backing {backing}"]


def test_another_sets_backing_device_is_no_volume_of_this_one(cache: Path, backing: Path) -> None:
    backing.write_bytes(backing_bytes("clean"))
    status, document = checked(cache, "--backing", backing)
    assert (status, found(document)) == (ERRORS_LEFT, {("backing-unknown", "damage")})
    assert document["backing"][0]["inode"] is None
    assert not any("--volume" in command for command in document["next"]), "it is another device's"
    # Without its entry, the volume may be any device's.
    journal = asyncio.run(structures("crash"))[0].journal
    assert journal is not None
    with cache.open("r+b") as file:
        file.seek(journal.entries[-1].uuid_bucket.pointers[0].sector * SECTOR)
        file.write(bytes(128))
    _, document = checked(cache, "--backing", backing)
    assert f"bcachectl rescue -n {cache} --backing {backing} --volume 0" in document["next"]


@pytest.mark.parametrize("state", ["detached", "clean", "inconsistent"])
def test_a_backing_device_that_was_used_without_its_cache(cache: Path, backing: Path, state: str) -> None:
    def put_state(raw: bytearray) -> None:
        raw[111] = raw[111] & 0x9F | STATES[state] << 5

    reseal(backing, put_state)
    status, document = checked(cache, "--backing", backing)
    assert (status, found(document)) == (ERRORS_LEFT, {("backing-state", "damage")})
    assert document["backing"][0]["state"] == state
    assert document["backing"][0]["doubt"] is not None
    assert document["dirty_data"][0]["newest"]["sectors"] == DIRTY, "none of it is sure"


def test_a_damaged_superblock_of_a_backing_device(cache: Path, backing: Path) -> None:
    change(backing, 4096 + 40, b"garbled!")
    status, document = checked(cache, "--backing", backing, "--data")
    assert (status, found(document)) == (ERRORS_LEFT, {("backing-superblock", "damage")})
    assert document["data"]["compared_sectors"] == 0


def test_a_cache_device_is_no_backing_device(cache: Path, tmp_path: Path) -> None:
    done = run("check", cache, "--backing", cache)
    assert (done.exit_code, done.stdout) == (OPERATIONAL, "")
    assert "is a cache device: expected the backing device" in done.stderr
    assert run("check", cache, "--backing", tmp_path / "none").exit_code == OPERATIONAL
    assert run("check", cache, "--backing").exit_code == USAGE


def test_a_backing_device_that_is_short(cache: Path, backing: Path) -> None:
    last = max(keys(dirty=True), key=lambda key: key.end)
    os.truncate(backing, (last.end - 1) * SECTOR)
    status, document = checked(cache, "--backing", backing)
    assert (status, found(document)) == (ERRORS_LEFT, {("backing-size", "damage")})
    assert document["findings"][0]["lost"].startswith(f"{last.sectors} dirty sectors")


@pytest.mark.parametrize("sector", [0, 8, 1 << 40])
def test_data_that_begins_nowhere(cache: Path, backing: Path, sector: int) -> None:
    def put_offset(raw: bytearray) -> None:
        raw[16:24] = (4).to_bytes(8, "little")  # a version with an offset
        raw[184:192] = sector.to_bytes(8, "little")

    reseal(backing, put_offset)
    status, document = checked(cache, "--backing", backing)
    assert status == ERRORS_LEFT
    assert ("backing-offset", "damage") in found(document)


def test_clean_data_that_differs_is_named_and_dirty_data_may_differ(cache: Path, backing: Path) -> None:
    clean, dirty = keys(dirty=False)[7], keys(dirty=True)[7]
    for key in (clean, dirty):
        change(cache, (key.pointers[0].sector + key.sectors - 1) * SECTOR, b"x" * SECTOR)
    assert checked(cache, "--backing", backing)[0] == SOUND, "data was not read"
    status, document = checked(cache, "--backing", backing, "--data")
    assert status == ERRORS_LEFT
    (finding,) = document["findings"]
    assert finding["rule"] == "data-differs"
    assert finding["where"].startswith(f"inode 0 sector {clean.offset}, {cache} sector ")
    assert finding["problem"].startswith(f"1 of its {clean.sectors} clean sectors differ")
    assert document["data"]["different"] == {"extents": 1, "sectors": 1}


def test_a_map_says_what_was_not_read(cache: Path, backing: Path, tmp_path: Path) -> None:
    clean, dirty = keys(dirty=False)[7], keys(dirty=True)[7]
    bad = sorted(key.pointers[0].sector for key in (clean, dirty))
    path = tmp_path / "map"
    path.write_text(map_text(cache.stat().st_size, [range(sector, sector + 1) for sector in bad]))
    status, document = checked(cache, "--map", path)
    assert (status, found(document)) == (ERRORS_LEFT, {("data-unreadable", "damage")})
    assert document["dirty_data"][0]["unreadable"]["extents"] == 1
    assert document["next"] == [f"bcachectl rescue -n {cache} --backing DEV --map {path}"]
    status, document = checked(cache, "--map", path, "--data", "--backing", backing)
    assert (status, found(document)) == (ERRORS_LEFT, {("data-unreadable", "damage")})
    assert document["data"]["unreadable"] == {"extents": 2, "dirty_sectors": 1, "clean_sectors": 1}
    assert document["data"]["compared_sectors"] == CLEAN - 1
    path.write_text("no map\n\nno map")
    refused = run("check", cache, "--map", path)
    assert (refused.exit_code, f"{path}, line 1: expected" in refused.stderr) == (OPERATIONAL, True)


def test_metadata_that_a_map_calls_unread_is_no_better_than_on_the_device_itself(
    cache: Path, backing: Path, tmp_path: Path
) -> None:
    """A copy has zeros there: of a journal, that looks like its end."""
    checked_set, _ = asyncio.run(structures("crash"))
    newest, length = list(journal_entries(checked_set))[-1][1:]
    sectors = range(newest // SECTOR, -(-(newest + length) // SECTOR))
    raw = bytearray(cache.read_bytes())
    raw[newest : newest + len(sectors) * SECTOR] = bytes(len(sectors) * SECTOR)
    cache.write_bytes(raw)
    path = tmp_path / "map"
    path.write_text(map_text(len(raw), [sectors]))
    status, document = checked(cache, "--backing", backing, "--map", path)
    assert (status, ("journal-unreadable", "fatal") in found(document)) == (ERRORS_LEFT, True)
    assert document["dirty_data"][0]["sure"]["sectors"] == 0
    rescue = f"bcachectl rescue -n {cache} --backing {backing} --map {path}"
    assert document["next"] == [rescue], "no repair: it would take the zeros for the end"
    done = run("--json", *rescue.split()[1:])
    assert (done.exit_code, json.loads(done.stdout)["sure"]["sectors"]) == (1, 0)
    assert "would not be written: " in done.stderr


def test_a_map_that_says_more_than_the_copy_has_is_warned_of(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_text(map_text(cache.stat().st_size + SECTOR, []))
    status, document = checked(cache, "--map", path)
    assert (status, len(document["warnings"])) == (SOUND, 1)
    assert "is it this copy's map?" in document["warnings"][0]
    path.write_text(map_text(1 << 20, []))
    assert checked(cache, "--map", path)[0] == ERRORS_LEFT, "what is behind its end was not copied"


def test_a_fresh_set_and_one_that_is_lost_have_no_data_to_check(tmp_path: Path, backing: Path) -> None:
    fresh = tmp_path / "fresh.img"
    assert run("make", "--size", "64M", "-b", "64k", fresh).exit_code == 0
    status, document = checked(fresh, "--backing", backing, "--data")
    assert (status, document["fresh"]) == (ERRORS_LEFT, True)
    assert found(document) == {("backing-set", "damage")}  # of another set
    fresh.write_bytes(bytes(1 << 20))
    status, document = checked(fresh, "--backing", backing, "--data")
    assert (status, found(document)) == (ERRORS_LEFT, {("superblock", "fatal")})


@pytest.fixture
def failing(cache: Path) -> Iterator[tuple[str, int]]:
    """A block device that cannot be read from a byte on: a loop device's file was cut."""
    with loop_device(cache) as path:
        os.truncate(cache, 30 << 20)
        yield path, 30 << 20


def test_a_device_that_fails_in_places_is_read_as_far_as_it_can_be(
    failing: tuple[str, int], backing: Path
) -> None:
    path, end = failing
    behind = [key for key in keys(dirty=True) if key.pointers[0].sector * SECTOR >= end]
    status, document = checked(path, "--backing", backing, "--data")
    assert (status, found(document)) == (ERRORS_LEFT, {("data-unreadable", "damage")})
    assert document["data"]["unreadable"]["dirty_sectors"] == sum(key.sectors for key in behind)
    assert document["data"]["dirty_sectors"] == DIRTY
