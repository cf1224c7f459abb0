# SPDX-License-Identifier: GPL-2.0-only
"""A set with a member missing: what is on the others comes back, and the rest is counted."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bcached.cli.main import bcachectl
from bcached.keys import Key
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.dirty_extents import DirtyExtents
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.lost_keys import bring_back_lost
from bcached.store.rescue.remains.missing_members import readable_sectors
from bcached.store.rescue.unreadable import Unreadable
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.image_builder import ImageBuilder

SURE, NEWEST = Confidence.SURE, Confidence.NEWEST


def of_two_members() -> ImageBuilder:
    """Root and one leaf on member 0, another leaf on member 1; each has data on either, and on both."""
    builder = ImageBuilder(members=2)
    builder.volumes[1] = None

    def keys(offset: int) -> list[Key]:
        on_each = [builder.extent(0, offset + 16 * member, 8, dirty=True, member=member) for member in (0, 1)]
        copies = [
            builder.extent(0, offset + 32, 8, dirty=True, member=member).pointers[0] for member in (0, 1)
        ]
        return [*on_each, Key(0, offset + 32, 8, True, tuple(copies))]

    leaves = [
        builder.node(keys(0), position=(0, 1000), member=0),
        builder.node(keys(1000), member=1),
    ]
    in_journal = [builder.extent(0, 5000 + 16 * member, 8, dirty=True, member=member) for member in (0, 1)]
    return builder.finish(builder.node(leaves), 1, [in_journal])


async def found_on(device: MemoryDevice) -> dict[int, tuple[Confidence, bool]]:
    """The offset of each extent: how far it can be trusted, and whether it can be read."""
    left = await read_corrected([device])
    await bring_back_lost(left)
    unreadable = Unreadable([readable_sectors(member.block_device) for member in left.members])
    extents = DirtyExtents.of(left).of_inode(0)
    parts = [part for extent in extents for part in unreadable.split(extent)]
    return {part.offset: (part.confidence, is_readable) for part, is_readable in parts}


async def test_the_member_with_the_root_has_all_but_the_other_leaf() -> None:
    device, _ = of_two_members().devices()
    found = await found_on(device)
    assert {offset for offset, (_, is_readable) in found.items() if is_readable} == {0, 32, 5000}
    assert {offset for offset, (_, is_readable) in found.items() if not is_readable} == {16, 5016}
    assert {found[offset][0] for offset in (0, 32, 5000)} == {SURE}


async def test_without_the_member_with_the_root_the_other_leaf_is_searched_for() -> None:
    _, device = of_two_members().devices()
    found = await found_on(device)
    assert {offset: found[offset] for offset in (1016, 1032)} == {1016: (NEWEST, True), 1032: (NEWEST, True)}
    assert found[5016] == (SURE, True)
    assert not found[5000][1]
    assert not {0, 16, 32} & found.keys()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(bcachectl, list(map(str, arguments)))


@pytest.mark.parametrize("member", [0, 1])
def test_the_command_says_what_is_missing(member: int, tmp_path: Path) -> None:
    paths = of_two_members().files(tmp_path)
    image = tmp_path / "volume.img"
    done = run("--json", "rescue", "--yes", paths[member], "--volume", 0, "--to", image)
    answer = json.loads(done.stdout)
    assert done.exit_code == 1
    assert any(finding["rule"] == "member-missing" for finding in answer["damage"])
    assert (answer["complete"], answer["verified"]) == (False, True)
    assert answer["written_sectors"] == answer["sure"]["sectors"] > 0
    dry = json.loads(run("--json", "rescue", "-n", paths[member], "--volume", 0, "--to", image).stdout)
    assert dry["unreadable"]["sectors"] == 16
    assert "what the lost parts of the index named" in done.stderr
    another = tmp_path / "whole.img"  # the volume is larger than what the one member has of it
    whole = json.loads(run("--json", "rescue", "-n", *paths, "--volume", 0, "--to", another).stdout)
    assert whole["sure"]["sectors"] == 8 * 8
    options = ("--json", "view", "--dm-table", "--volume", 0, "--confidence", "newest")
    view = run(*options, paths[member])
    assert "8k that cannot be read" in view.stderr
    table = json.loads(view.stdout)["table"]
    assert sum(target["sectors"] for target in table if not target["is_readable"]) == 16
    assert {target["device"] for target in table if target["is_readable"]} == {paths[member], None}


def test_members_of_two_sets_or_one_twice_are_no_set(tmp_path: Path) -> None:
    paths = of_two_members().files(tmp_path)
    done = run("rescue", "-n", paths[1], paths[1], "--volume", 0, "--to", tmp_path / "x")
    assert done.exit_code == 1
    assert f"{paths[1]} and {paths[1]}: both are member 1 of set" in done.stderr
    assert "Give one of them" in done.stderr
