# SPDX-License-Identifier: GPL-2.0-only
import grp
import os
import pwd
import types

import pytest

from bcached.service.users.access import Access, Role
from bcached.service.users.peer import Peer

USERS = {"alice": 1001, "bob": 1002, "carol": 1003}
GROUPS = {"writers": (2001, ["bob"]), "watchers": (2002, ["carol", "ghost"])}


@pytest.fixture(autouse=True)
def a_host_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwnam", lambda name: types.SimpleNamespace(pw_uid=USERS[name]))
    monkeypatch.setattr(
        grp, "getgrnam", lambda name: types.SimpleNamespace(gr_gid=GROUPS[name][0], gr_mem=GROUPS[name][1])
    )
    monkeypatch.setattr(os, "geteuid", lambda: 999)


def peer(uid: int, *groups: int) -> Peer:
    return Peer(1, uid, frozenset(groups))


def test_users_and_groups_have_the_roles_they_are_granted() -> None:
    access = Access(admin=["alice"], allocator=["@writers"], reader=["@watchers"])
    assert access.role_of(peer(1001)) == Role.ADMIN
    assert access.role_of(peer(5000, 2001)) == Role.ALLOCATOR
    assert access.role_of(peer(5000, 2002)) == Role.READER


def test_a_member_in_the_group_file_counts_without_carrying_the_group() -> None:
    access = Access(admin=[], allocator=["@writers"], reader=["@watchers"])
    assert access.role_of(peer(1002)) == Role.ALLOCATOR
    assert access.role_of(peer(1003)) == Role.READER


def test_everybody_else_has_none() -> None:
    access = Access(admin=["alice"], allocator=["@writers"], reader=[])
    assert access.role_of(peer(4000, 4000, 2002)) == Role.NONE
    assert access.role_of(peer(0, 0)) == Role.NONE


def test_the_most_that_is_granted_counts() -> None:
    access = Access(admin=["@writers"], allocator=["bob"], reader=["bob", "@watchers"])
    assert access.role_of(peer(1002, 2002)) == Role.ADMIN
    access = Access(admin=[], allocator=["@writers"], reader=["bob"])
    assert access.role_of(peer(1002)) == Role.ALLOCATOR


def test_the_daemons_own_user_is_always_admin() -> None:
    assert Access([], [], []).role_of(peer(999)) == Role.ADMIN


def test_unknown_names_grant_nothing_and_are_told() -> None:
    access = Access(admin=["mallory"], allocator=["@nobodies"], reader=["@watchers"])
    assert access.unknown == ["ghost in @watchers", "@nobodies", "mallory"]
    assert access.role_of(peer(1003)) == Role.READER


def test_roles_are_ordered_and_named_as_on_the_socket() -> None:
    assert [role.label for role in sorted(Role)] == ["none", "reader", "allocator", "admin"]
