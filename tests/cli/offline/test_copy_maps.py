# SPDX-License-Identifier: GPL-2.0-only
"""--map: copies of one or several devices that lack sectors, for every verb that reads a set."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from instruments.samples.copy_maps import map_text
from instruments.samples.image_builder import ImageBuilder, two_levels

SECTOR, EXTENT = 512, 8
OPERATIONAL, ERRORS_LEFT, CORRECTED = 8, 4, 1


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


class Copies:
    """Two copies of a set's members, each without a part of a dirty extent, and one of a clean one."""

    def __init__(self, folder: Path, members: int = 2) -> None:
        builder = ImageBuilder(members=members)
        self.keys = [
            builder.extent(0, 100 * number, EXTENT, dirty=number % 3 < 2, member=number % members)
            for number in range(12)
        ]
        builder.volumes[1] = None
        builder.finish(builder.node(self.keys))
        self.paths = builder.files(folder)
        self.maps = []
        for number, path in enumerate(self.paths):
            dirty, clean = (
                next(key for key in self.keys if key.dirty == dirty and key.pointers[0].device == number)
                for dirty in (True, False)
            )
            places = sorted(key.pointers[0].sector for key in (dirty, clean))
            bad = [range(place + 2, place + 5) for place in places]
            file = folder / f"map{number}"
            file.write_text(map_text(len(builder.images[number]), bad))
            self.maps += ["--map", f"{path}={file}"]

    def json(self, *arguments: object) -> Any:
        return json.loads(run("--json", *arguments, *self.paths, *self.maps).stdout)


def test_each_device_has_its_own_map(tmp_path: Path) -> None:
    copies = Copies(tmp_path)
    found = copies.json("check", "--data")
    assert found["dirty_data"][0]["unreadable"] == {"extents": 2, "sectors": 6}
    assert found["data"]["unreadable"] == {"extents": 4, "dirty_sectors": 6, "clean_sectors": 6}
    image = tmp_path / "volume.img"
    dry = copies.json("rescue", "-n", "--volume", 0, "--to", image)
    done = copies.json("rescue", "--yes", "--volume", 0, "--to", image)
    assert dry["unreadable"] == done["unreadable"] == {"extents": 2, "sectors": 6}
    assert done["written_sectors"] == dry["sure"]["sectors"] == 8 * EXTENT - 6
    table = copies.json("view", "--dm-table", "--volume", 0)["table"]
    assert sum(target["sectors"] for target in table if not target["is_readable"]) == 6
    one = run("check", *copies.paths, *copies.maps[:2])
    assert "3 dirty sectors" in one.stdout


def test_the_next_commands_have_the_maps(tmp_path: Path) -> None:
    copies = Copies(tmp_path)
    (command,) = copies.json("check")["next"]
    assert command.endswith(" ".join(["--backing", "DEV", *copies.maps]))


def test_which_device_a_map_is_of_must_be_clear(tmp_path: Path) -> None:
    copies = Copies(tmp_path)
    first, second = copies.maps[1::2]
    file = first.partition("=")[2]
    for maps, said in (
        ([file], "2 are named: expected DEV=FILE, with DEV one of"),
        ([f"other.img={file}"], "expected DEV=FILE"),
        ([first, f"{copies.paths[0]}={second.partition('=')[2]}"], "two maps are named for it"),
        ([first, f"{copies.paths[1]}={file}"], "named as the map of two devices"),
        ([f"{copies.paths[0]}={tmp_path}/none"], "none"),
    ):
        refused = run("check", *copies.paths, *(word for text in maps for word in ("--map", text)))
        assert (refused.exit_code, said in refused.stderr) == (OPERATIONAL, True), refused.stderr
    link = tmp_path / "by-id=1"
    link.symlink_to(copies.paths[0])
    assert run("check", *copies.paths, "--map", f"{link}={file}", "--data").exit_code == ERRORS_LEFT


def test_a_dump_has_no_structure_that_was_not_copied(tmp_path: Path) -> None:
    builder = ImageBuilder()
    root, leaves = two_levels(builder)
    (path,) = builder.finish(root, 1).files(tmp_path)
    first = leaves[1].pointers[0].sector
    (tmp_path / "map").write_text(map_text(len(builder.images[0]), [range(first, first + 8)]))
    lines = [json.loads(line) for line in run("dump", path, "--map", tmp_path / "map").stdout.splitlines()]
    assert [line["rule"] for line in lines if line["type"] == "finding"] == ["node-damaged"]
    assert sum(line["type"] == "key" for line in lines) == 20


@pytest.mark.parametrize("members", [1, 2])
def test_a_repair_takes_nothing_that_was_not_copied_for_zeros(members: int, tmp_path: Path) -> None:
    copies = Copies(tmp_path, members)
    before = [Path(path).read_bytes() for path in copies.paths]
    told = run("repair", *copies.paths, *copies.maps)
    assert (told.exit_code, "name data that was not copied" in told.stdout) == (ERRORS_LEFT, True)
    assert f"--drop-damaged {' '.join(copies.paths + copies.maps)}" in told.stdout
    step = ["repair", "--yes", "--drop-damaged"]
    refused = run(*step, *copies.paths, *copies.maps)
    assert "not done: dirty data would be lost" in refused.stdout
    assert f"gives up: {3 * members} dirty sectors that were not copied" in refused.stdout
    undo = tmp_path / "undo"
    done = run(*step, "--give-up-dirty", "--undo", undo, *copies.paths, *copies.maps)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (CORRECTED, "sound now")
    found = copies.json("check", "--data")
    assert found["sound"]
    assert found["data"]["unreadable"]["extents"] == 0
    assert found["dirty_sectors"] == 8 * EXTENT - 3 * members
    assert run("check", *copies.paths).exit_code == 0
    assert run("repair", "--restore", undo).exit_code == 0
    assert [Path(path).read_bytes() for path in copies.paths] == before


def test_a_repair_says_what_else_to_do_where_it_cannot_read(tmp_path: Path) -> None:
    builder = ImageBuilder()
    root, _ = two_levels(builder)
    (path,) = builder.finish(root, 1).files(tmp_path)
    journal = builder.entries[1][1] // SECTOR
    (tmp_path / "map").write_text(map_text(len(builder.images[0]), [range(journal, journal + 8)]))
    steps = ("--drop-damaged", "--rebuild-prios", "--rebuild-volumes")
    done = run("repair", "-n", *steps, path, "--map", tmp_path / "map")
    assert done.exit_code == OPERATIONAL
    assert "`bcachectl rescue` reads around what is bad" in done.stderr
