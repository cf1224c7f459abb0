# SPDX-License-Identifier: GPL-2.0-only
"""Who may do what with an owned volume, and that a refusal does not tell a hidden volume from none."""

import pytest
from msgspec import Struct

from bcached.errors import NoSuchVolume, PermissionDenied
from bcached.format.volume_owner import EntryOwner
from bcached.state.sectors.volume_rights import VolumeRights

OWNERS = {
    1: EntryOwner(1000),
    2: EntryOwner(50, is_group=True, others_read=False),
    3: EntryOwner(2000, others_read=False),
}


class Part(Struct):
    inode: int


def rights(user: int, *groups: int, is_admin: bool = False) -> VolumeRights:
    made = VolumeRights(user, groups, is_admin=is_admin)
    made.update(OWNERS)
    return made


@pytest.mark.parametrize(
    ("of", "foreign", "hidden"),
    [
        (rights(1000), {2, 3}, {2, 3}),
        (rights(1000, 50), {3}, {3}),
        (rights(50), {1, 2, 3}, {2, 3}),  # a user's number is no group's
        (rights(2000, 1000), {1, 2}, {2}),
        (rights(7, is_admin=True), set(), set()),
    ],
    ids=repr,
)
def test_an_owner_and_its_group_have_rights_and_admins_all(
    of: VolumeRights, foreign: set[int], hidden: set[int]
) -> None:
    assert (set(of.foreign), set(of.hidden)) == (foreign, hidden)


def test_another_table_takes_the_place_of_the_former() -> None:
    of = rights(7)
    of.update({4: EntryOwner(8)})
    assert (set(of.foreign), set(of.hidden)) == ({4}, set())
    of.update({})
    assert not of.foreign


@pytest.mark.parametrize("inodes", [[0, 9, 2], [0, 2, 9], [2, 1], [9, 1]])
def test_of_several_the_first_decides_and_hidden_ones_do_not_exist(inodes: list[int]) -> None:
    first = next(inode for inode in inodes if inode)
    with pytest.raises(NoSuchVolume, match=f"no volume has inode {first}"):
        rights(7).check_changes([Part(inode) for inode in inodes], {0, 1, 2, 3})


def test_what_may_be_read_is_refused_by_its_name() -> None:
    with pytest.raises(PermissionDenied, match="owner"):
        rights(7).check_changes([Part(0), Part(1), Part(2)], {0, 1, 2, 3})
    rights(7).check_changes([Part(0), Part(4)], {0, 1, 4})
