# SPDX-License-Identifier: GPL-2.0-only
"""A set that has lost a member for good becomes one of those that are left, with what they hold."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from bcached.format.superblock import Superblock
from bcached.keys import Key
from bcached.runtime.index.lookups import LookupRequest
from bcached.runtime.lifetime import running
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.image_builder import ImageBuilder
from instruments.samples.living_set import set_options
from instruments.time.virtual_time import run_in_virtual_time

MENDED, OPERATIONAL, USAGE = 1, 8, 16
OPTIONS = ("--drop-missing", "--rebuild-volumes", "--newest", "--give-up-dirty")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


def of_members(count: int) -> ImageBuilder:
    """A leaf on each member, with a dirty and a clean key on each member."""
    builder = ImageBuilder(members=count)
    builder.volumes[1] = None
    leaves = []
    for number in range(count):
        keys = [
            builder.extent(0, 1000 * number + 16 * n, 8, dirty=n % 2 == 0, member=n // 2)
            for n in range(2 * count)
        ]
        position = (0, 1000 * (number + 1))
        leaves.append(
            builder.node(keys, member=number)
            if number == count - 1
            else builder.node(keys, position=position, member=number)
        )
    in_journal = [builder.extent(0, 9000 + 16 * n, 8, dirty=True, member=n) for n in range(count)]
    return builder.finish(builder.node(leaves), 1, [in_journal])


async def live_keys(paths: list[str], folder: Path) -> list[Key]:
    """What a daemon finds of volume 0."""
    devices = [MemoryDevice.holding(Path(path).read_bytes()) for path in paths]
    async with running(devices, set_options(folder)) as cache_set:
        assert cache_set.verify() == []
        return list((await cache_set.lookups.lookup(LookupRequest(0, 0, 10_000))).keys)


@pytest.mark.parametrize(("members", "lost"), [(2, 0), (2, 1), (3, 1)])
def test_what_is_on_the_others_stays(members: int, lost: int, tmp_path: Path) -> None:
    builder = of_members(members)
    paths = builder.files(tmp_path)
    del paths[lost]
    before = [Path(path).read_bytes() for path in paths]
    undo = tmp_path / "undo"
    done = run("--json", "repair", "--yes", "--undo", undo, *OPTIONS, *paths)
    assert done.exit_code == MENDED, done.output
    assert run("check", *paths).exit_code == 0
    keys = run_in_virtual_time(live_keys(paths, tmp_path))
    # Those of each leaf that is left, and of the journal; the lost member's are gone everywhere.
    on_others = {9000 + 16 * n for n in range(members) if n != lost}
    for leaf in range(members):
        on_others |= {
            1000 * leaf + 16 * n for n in range(2 * members) if n // 2 != lost and leaf != lost and n % 2 == 0
        }
    assert {key.offset for key in keys if key.dirty} == on_others
    for key in keys:
        assert all(pointer.device < members - 1 for pointer in key.pointers)
    superblocks = [superblock_of(path) for path in paths]
    assert [one.member for one in superblocks] == list(range(members - 1))
    if members == 2:  # the kernel takes it
        assert (superblocks[0].version, superblocks[0].feature_incompat) == (3, 0)
    (step,) = json.loads(done.stdout)["steps"]
    assert any("only the missing member has" in what for what in step["gives_up"])
    assert run("repair", "--restore", undo).exit_code == 0
    assert [Path(path).read_bytes() for path in paths] == before


def superblock_of(path: str) -> Superblock:
    raw = Path(path).read_bytes()
    return Superblock.parse(raw[4096:8192], device_bytes=len(raw), logical_block_bytes=512)


def test_it_needs_an_undo_file_and_to_be_named(tmp_path: Path) -> None:
    paths = of_members(2).files(tmp_path)
    before = Path(paths[0]).read_bytes()
    assert run("repair", "--yes", *OPTIONS, paths[0]).exit_code == USAGE
    unnamed = run("repair", "--yes", "--drop-damaged", paths[0])
    assert unnamed.exit_code == OPERATIONAL
    assert "has 2 members, but 1 were given" in unnamed.stderr
    kept = run("--json", "repair", "-n", "--drop-missing", paths[0])
    assert "--give-up-dirty" in json.loads(kept.stdout)["obstacle"]
    assert Path(paths[0]).read_bytes() == before
