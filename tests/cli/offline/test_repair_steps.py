# SPDX-License-Identifier: GPL-2.0-only
"""Each step of `bcachectl repair` on the damage that it is for: sound afterwards, and undone to the byte."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from bcached.format.superblock_seal import resealed
from bcached.format.volume_owner import EntryOwner
from bcached.keys import Key, Pointer
from bcached.runtime.index.lookups import LookupRequest
from bcached.runtime.lifetime import running
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.image_builder import PLAIN, SET_UUID, ImageBuilder, two_levels
from instruments.samples.living_set import set_options
from instruments.time.virtual_time import run_in_virtual_time

MENDED, ERRORS_LEFT, OPERATIONAL, USAGE = 1, 4, 8, 16
LEAF_SECTORS, LEAVES = 80, 3  # of each leaf's ten keys; every other one is dirty


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


def a_set(members: int = 1) -> tuple[ImageBuilder, list[Key]]:
    """A set of two levels, with one key in the journal; its leaves."""
    builder = ImageBuilder(members=members)
    root, leaves = two_levels(builder)
    builder.finish(root, 1, [[builder.extent(0, 9000, 8, dirty=True)]])
    return builder, leaves


def prios(builder: ImageBuilder, leaves: list[Key]) -> None:
    builder.write(builder.geometry.byte_of(builder.prio_buckets[0][0]), bytes(4096))


def volumes(builder: ImageBuilder, leaves: list[Key]) -> None:
    builder.write(builder.byte_of(builder.uuid_key), b"\xff" * 4096)


def leaf(builder: ImageBuilder, leaves: list[Key]) -> None:
    builder.write(builder.byte_of(leaves[1]), bytes(4096))


def root(builder: ImageBuilder, leaves: list[Key]) -> None:
    builder.write(builder.byte_of(builder.root), bytes(4096))


def journal(builder: ImageBuilder, leaves: list[Key]) -> None:
    for bucket in builder.superblocks[0].journal_buckets:
        builder.write(builder.geometry.byte_of(bucket), bytes(builder.geometry.bucket_bytes))


def beyond(builder: ImageBuilder, leaves: list[Key]) -> None:
    """A key of a leaf points behind the end."""
    pointer = Pointer(0, builder.geometry.sector_of(10**6), 0)
    builder.write_node(leaves[2], [Key(0, 2000, 8, True, (pointer,)), builder.extent(0, 2016, 8, dirty=True)])


def superblock(builder: ImageBuilder, leaves: list[Key]) -> None:
    builder.write(4096, bytes(8192))


# The damage, the steps that answer it, and how many sectors are there afterwards.
Damage = Callable[[ImageBuilder, list[Key]], None]
ALL = LEAVES * LEAF_SECTORS + 8
CASES: dict[str, tuple[Damage, tuple[str, ...], int]] = {
    # Clean data stays only where dirty data shows that its bucket was not reused: here each has its own.
    "prios": (prios, ("--rebuild-prios",), LEAVES * 40 + 8),
    "volumes": (volumes, ("--rebuild-volumes",), ALL),
    "leaf": (leaf, ("--drop-damaged", "--give-up-dirty"), 2 * LEAF_SECTORS + 8),
    "root": (root, ("--drop-damaged", "--newest", "--give-up-dirty"), ALL),
    "root, only what is sure": (root, ("--drop-damaged", "--give-up-dirty"), 8),
    "beyond": (beyond, ("--drop-damaged", "--give-up-dirty"), 2 * LEAF_SECTORS + 16),
    "superblock": (superblock, ("--superblock", "--set-uuid", str(SET_UUID)), ALL),
    "journal": (
        journal,
        ("--drop-damaged", "--rebuild-prios", "--rebuild-volumes", "--newest", "--give-up-dirty"),
        LEAVES * 40,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_damage_is_repaired_by_its_step_and_undone(case: str, tmp_path: Path) -> None:
    damage, options, sectors = CASES[case]
    builder, leaves = a_set()
    damage(builder, leaves)
    (path,) = builder.files(tmp_path)
    before, undo = Path(path).read_bytes(), tmp_path / "undo"
    found = run("repair", path)
    assert found.exit_code == ERRORS_LEFT
    assert f"bcachectl repair -n {options[0]}" in found.stdout or len(options) > 3
    dry = run("repair", "-n", *options, path)
    assert (dry.exit_code, dry.stdout.splitlines()[-1]) == (ERRORS_LEFT, "would be sound then")
    assert Path(path).read_bytes() == before
    done = run("--json", "repair", "--yes", "--undo", undo, *options, path)
    assert (done.exit_code, json.loads(done.stdout)["sound"]) == (MENDED, True), done.output
    checked = run("check", path)
    assert checked.exit_code == 0
    is_marked = "a repair gave up dirty data of volume 0" in checked.stdout
    assert is_marked == ("--give-up-dirty" in options)
    assert run_in_virtual_time(live_sectors([path], tmp_path)) == sectors
    assert run("repair", *options, path).exit_code == 0, "there is nothing to do any more"
    assert run("repair", "--restore", undo).exit_code == 0
    assert Path(path).read_bytes() == before


async def live_sectors(paths: list[str], folder: Path) -> int:
    """How many sectors of volume 0 a daemon finds."""
    devices = [MemoryDevice.holding(Path(path).read_bytes()) for path in paths]
    async with running(devices, set_options(folder)) as cache_set:
        assert cache_set.verify() == []
        keys = (await cache_set.lookups.lookup(LookupRequest(0, 0, 10_000))).keys
        return sum(key.sectors for key in keys)


def test_dirty_data_is_given_up_only_when_that_is_said(tmp_path: Path) -> None:
    builder, leaves = a_set()
    root(builder, leaves)
    (path,) = builder.files(tmp_path)
    before = Path(path).read_bytes()
    done = run("--json", "repair", "--yes", "--drop-damaged", path)
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["done"]) == (ERRORS_LEFT, False)
    assert "--give-up-dirty" in answer["obstacle"]
    (step,) = answer["steps"]
    assert "120 dirty sectors that may not be the newest; --newest keeps them" in step["gives_up"]
    assert Path(path).read_bytes() == before


def test_more_damage_than_the_named_steps_answer_is_refused(tmp_path: Path) -> None:
    builder, leaves = a_set()
    prios(builder, leaves)
    leaf(builder, leaves)
    (path,) = builder.files(tmp_path)
    done = run("repair", "--yes", "--rebuild-prios", path)
    assert (done.exit_code, done.stdout) == (OPERATIONAL, "")
    assert "name --drop-damaged as well" in done.stderr


def test_a_single_wrong_bit_is_put_right_where_it_is(tmp_path: Path) -> None:
    builder, leaves = a_set()
    (path,) = builder.files(tmp_path)
    right = Path(path).read_bytes()
    builder.flip(builder.byte_of(leaves[0]) + 50)
    builder.flip(builder.geometry.byte_of(builder.prio_buckets[0][0]) + 50)
    (path,) = builder.files(tmp_path)
    assert run("repair", "--yes", "--correct-bits", path).exit_code == MENDED
    assert Path(path).read_bytes() == right


def backing_device(tmp_path: Path, uuid: UUID, set_uuid: UUID = SET_UUID) -> Path:
    """The beginning of a backing device, as make-bcache writes it."""
    raw = bytearray(1 << 20)
    raw[4096 + 8 : 4096 + 24] = (8).to_bytes(8, "little") + (1).to_bytes(8, "little")
    raw[4096 + 40 : 4096 + 72] = uuid.bytes + set_uuid.bytes
    raw[4096 + 72 : 4096 + 76] = b"disk"
    raw[4096 + 192 : 4096 + 196] = (1).to_bytes(2, "little") + (1024).to_bytes(2, "little")
    raw[4096:8192] = resealed(raw[4096:8192], "backing")
    path = tmp_path / "backing.img"
    path.write_bytes(raw)
    return path


def test_a_lost_volume_gets_its_backing_device_again(tmp_path: Path) -> None:
    builder, leaves = a_set()
    volumes(builder, leaves)
    (path,) = builder.files(tmp_path)
    backing = backing_device(tmp_path, UUID(int=0xBAC))
    before = backing.read_bytes()
    done = run("repair", "--yes", "--rebuild-volumes", "--backing", backing, path)
    assert done.exit_code == MENDED, done.output
    assert f"volume 0 is that of {backing} ({UUID(int=0xBAC)})" in done.stdout
    (volume,) = json.loads(run("--json", "check", path).stdout)["volumes"]
    assert (volume["uuid"], volume["label"], volume["inode"]) == (str(UUID(int=0xBAC)), "disk", 0)
    assert backing.read_bytes() == before
    # A table that names another device is no damage, and is changed only for a volume that is named.
    other = backing_device(tmp_path, UUID(int=0xBAD))
    refused = run("repair", "--yes", "--rebuild-volumes", "--backing", other, path)
    assert (refused.exit_code, "say --backing N=DEV" in refused.stderr) == (OPERATIONAL, True)
    assert run("repair", "--yes", "--rebuild-volumes", "--backing", f"0={other}", path).exit_code == MENDED
    (volume,) = json.loads(run("--json", "check", path).stdout)["volumes"]
    assert volume["uuid"] == str(UUID(int=0xBAD))


def test_volumes_keep_their_owners_where_others_are_lost(tmp_path: Path) -> None:
    builder = ImageBuilder()
    builder.volumes[0] = replace(PLAIN, owner=EntryOwner(1000, others_read=False))
    root, _ = two_levels(builder)
    builder.finish(root, 1, [[builder.extent(1, 8, 8, dirty=True)]])
    builder.write(builder.byte_of(builder.uuid_key) + 128 + 72, b"damage")
    (path,) = builder.files(tmp_path)
    done = run("repair", "--yes", "--rebuild-volumes", path)
    assert done.exit_code == MENDED, done.output
    assert "open to every allocator: set its owner" in done.stdout
    listed = json.loads(run("--json", "check", path).stdout)["volumes"]
    assert [volume["owner"] for volume in listed] == ["user 1000, nothing for others", None]


def test_a_volume_whose_size_is_lost_gets_the_one_that_its_owner_says(tmp_path: Path) -> None:
    builder, leaves = a_set()
    volumes(builder, leaves)
    (path,) = builder.files(tmp_path)
    before = Path(path).read_bytes()
    done = run("repair", "-n", "--rebuild-volumes", path)
    assert "flash-only; 10240 sectors, where its keys end: --volume-size 0=SIZE" in done.stdout
    for wrong, status, reason in (
        (("--volume-size", "0=4504k"), ERRORS_LEFT, ""),
        (("--volume-size", "0=4503k"), OPERATIONAL, "up to sector 9008"),
        (("--volume-size", "1=1G"), OPERATIONAL, "--volume-size 1=...: expected"),
        (("--volume-size", "1048576=1G"), OPERATIONAL, "expected the number of a flash-only volume, found 0"),
        (("--volume-size", "0=100"), USAGE, "multiple of 512"),
        (("--volume-size", "0=0"), USAGE, "at least 512"),
        (("--volume-size", "flash=1G"), USAGE, "a volume's number and its size"),
    ):
        refused = run("repair", "-n", "--rebuild-volumes", *wrong, path)
        assert (refused.exit_code, reason in refused.output) == (status, True), refused.output
    assert run("repair", "--volume-size", "0=1G", path).exit_code == USAGE
    assert Path(path).read_bytes() == before
    step = ("--yes", "--rebuild-volumes", "--volume-size")
    assert run("repair", *step, "0=64M", path).exit_code == MENDED
    assert size_of_volume(path) == 64 << 11
    # Its size is no damage afterwards, and can be said again.
    assert run("repair", *step, "0=64M", path).exit_code == 0
    assert run("repair", *step, "0=96M", path).exit_code == MENDED
    assert size_of_volume(path) == 96 << 11


def size_of_volume(path: str) -> int:
    """The sectors of the only volume of a sound set."""
    (volume,) = json.loads(run("--json", "check", path).stdout)["volumes"]
    return int(volume["sectors"])


def test_without_a_uuid_the_superblock_is_not_guessed(tmp_path: Path) -> None:
    builder, leaves = a_set()
    superblock(builder, leaves)
    (path,) = builder.files(tmp_path)
    done = run("repair", "--superblock", "-n", path)
    assert done.exit_code == OPERATIONAL
    assert f"begins with {str(SET_UUID)[:18]}" in done.stderr
    backing = backing_device(tmp_path, UUID(int=1))
    assert run("repair", "--superblock", "--backing", backing, "--yes", path).exit_code == MENDED
    superblock(builder, leaves)
    (path,) = builder.files(tmp_path)
    wrong = ("--superblock", "--set-uuid", SET_UUID, "--geometry", "64k,4k")
    assert run("repair", "--yes", *wrong, path).exit_code == OPERATIONAL
    right = ("--superblock", "--set-uuid", SET_UUID, "--geometry", "32k,4k")
    assert run("repair", "--yes", *right, path).exit_code == MENDED
    assert run("check", path).exit_code == 0


def test_a_member_without_a_superblock_gets_one_like_the_others(tmp_path: Path) -> None:
    builder, _ = a_set(members=2)
    builder.write(4096, bytes(12288 + 4096), member=1)
    paths = builder.files(tmp_path)
    done = run("repair", "--yes", "--superblock", *paths)
    assert done.exit_code == MENDED, done.output
    assert run("check", *paths).exit_code == 0


def test_both_members_are_rebuilt(tmp_path: Path) -> None:
    builder, leaves = a_set(members=2)
    prios(builder, leaves)
    leaf(builder, leaves)
    paths = builder.files(tmp_path)
    options = ("--rebuild-prios", "--drop-damaged", "--give-up-dirty", "--newest")
    assert run("repair", "--yes", *options, *paths).exit_code == MENDED
    assert run("check", *paths).exit_code == 0
    assert run_in_virtual_time(live_sectors(paths, tmp_path)) == 2 * 40 + 8


def test_a_sound_set_is_left_as_it_is(tmp_path: Path) -> None:
    (path,) = a_set()[0].files(tmp_path)
    before = Path(path).read_bytes()
    steps = ("--superblock", "--correct-bits", "--rebuild-prios", "--rebuild-volumes", "--drop-damaged")
    assert run("repair", "--yes", *steps, path).exit_code == 0
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        ("--geometry", "512k,4k"),
        ("--set-uuid", SET_UUID),
        ("--backing", "x"),
        ("--newest",),
        ("--give-up-dirty", "--superblock"),
        ("--superblock", "--geometry", "512k,4k"),
    ],
)
def test_options_without_their_step_are_a_wrong_usage(options: tuple[str, ...], tmp_path: Path) -> None:
    (path,) = a_set()[0].files(tmp_path)
    assert run("repair", *options, path).exit_code == USAGE


def test_a_damaged_superblock_that_contradicts_the_other_members_is_not_believed(tmp_path: Path) -> None:
    builder, _ = a_set(members=2)
    builder.write(4096, bytes(8), member=1)  # the checksum
    builder.write(4096 + 192, (16).to_bytes(2, "little"), member=1)  # blocks
    builder.write(8192, bytes(4096), member=1)
    paths = builder.files(tmp_path)
    done = run("repair", "--yes", "--superblock", *paths)
    assert done.exit_code == MENDED, done.output
    assert run("check", *paths).exit_code == 0


def test_damaged_superblocks_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    builder, _ = a_set(members=2)
    for member in range(2):
        builder.write(4096, bytes(8), member)
        builder.write(8192, bytes(4096), member)
    builder.write(4096 + 192, (4).to_bytes(2, "little"), member=1)  # blocks
    paths = builder.files(tmp_path)
    done = run("repair", "--yes", "--superblock", *paths)
    assert done.exit_code == OPERATIONAL
    assert "contradicts" in done.stderr
