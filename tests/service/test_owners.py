# SPDX-License-Identifier: GPL-2.0-only
"""Volumes with owners: every method that touches keys respects them, for every kind of peer."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bcached.service.users.access import Access, Role
from bcached.service.users.peer import Peer
from instruments.clients.served_set import Served, served
from instruments.clients.talker import Talker, call, outcome

ADMIN, OWNER, MEMBER, OTHER, READER = 1, 2, 3, 4, 5  # users; MEMBER is one of GROUP
GROUP = 50
OPEN, SHOWN, HIDDEN = 0, 1, 2  # inodes


class Peers(Access):
    """Says that each new connection is of the user that is set, and which role each user has."""

    def __init__(self) -> None:
        super().__init__([], [], [])
        self.uid = ADMIN
        self.admin = ADMIN

    def __call__(self, _: socket.socket) -> Peer:
        return Peer(os.getpid(), self.uid, frozenset({GROUP} if self.uid == MEMBER else ()))

    def role_of(self, peer: Peer) -> Role:
        if peer.uid == self.admin:
            return Role.ADMIN
        return Role.READER if peer.uid == READER else Role.ALLOCATOR


class Place:
    """A served set with an open volume, one that OWNER shows, and one that GROUP hides."""

    def __init__(self, it: Served, peers: Peers, stack: AsyncExitStack) -> None:
        self.it = it
        self.peers = peers
        self._stack = stack

    async def user(self, uid: int) -> Talker:
        self.peers.uid = uid
        talker = await self._stack.enter_async_context(Talker(self.it.path))
        await talker.ask(call("org.varlink.service.GetInfo"))  # connected as that user
        return talker


@asynccontextmanager
async def a_place(tmp_path: Path) -> AsyncIterator[Place]:
    peers = Peers()
    async with served(tmp_path, access=peers, identify=peers) as it, AsyncExitStack() as stack:
        place = Place(it, peers, stack)
        admin = await place.user(ADMIN)
        for label, owner in (
            ("shown", {"user": OWNER}),
            ("hidden", {"group": GROUP, "others": "nothing"}),
        ):
            created = call("io.bcached.Admin.CreateVolume", {"label": label, "owner": owner})
            assert outcome(await admin.ask(created)) == "ok"
        yield place


async def stored(talker: Talker, inode: int, offset: int = 0) -> dict[str, Any]:
    """A dirty key, committed."""
    reply = await talker.ask(call("Allocate", {"inode": inode, "offset": offset, "sectors": 8}))
    key = {**reply["parameters"]["keys"][0], "dirty": True}
    assert outcome(await talker.ask(call("Commit", {"keys": [key]}))) == "ok"
    return dict(key)


async def reserved(talker: Talker) -> dict[str, Any]:
    reply = await talker.ask(call("AllocateBucket"))
    return {**reply["parameters"]["key"], "sectors": 8}


def changes(inode: int, key: dict[str, Any]) -> dict[str, bytes]:
    """A request of each method that changes keys, or prepares that."""
    where = {"inode": inode, "offset": 0, "sectors": 8}
    own = {**key, "inode": OPEN, "offset": 800}
    return {
        "Allocate": call("Allocate", where),
        "Allocate whole": call("Allocate", {**where, "sectors": 256, "whole": True}),
        "AllocateMany": call("AllocateMany", {"requests": [{**where, "inode": OPEN}, where]}),
        "Commit": call("Commit", {"keys": [{**key, **where}]}),
        "Commit dirty": call("Commit", {"keys": [{**key, **where, "dirty": True}]}),
        "Commit of two": call("Commit", {"keys": [own, {**key, **where}]}),
        "Commit if absent": call("Commit", {"keys": [{**key, **where}], "if_absent": True}),
        "Commit if unchanged": call("Commit", {"keys": [{**key, **where}], "if_versions": [0]}),
        "Commit that replaces": call("Commit", {"keys": [own], "replaces": [where]}),
        "MarkClean": call("MarkClean", {"keys": [{**key, **where}]}),
        "Invalidate": call("Invalidate", where),
    }


def reads(inode: int) -> dict[str, bytes]:
    where = {"inode": inode, "offset": 0, "sectors": 8}
    return {
        "Lookup": call("Lookup", where),
        "Lookup with pin": call("Lookup", {**where, "pin": True}),
        "LookupMany": call("LookupMany", {"requests": [{**where, "inode": OPEN}, where]}),
    }


async def test_others_change_nothing_of_an_owned_volume_and_its_owner_all(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        owner, other = await place.user(OWNER), await place.user(OTHER)
        key = await stored(owner, SHOWN)
        for name, request in changes(SHOWN, await reserved(other)).items():
            assert await other.ask(request) == {
                "error": "io.bcached.Allocator.PermissionDenied",
                "parameters": {"need": "owner"},
            }, name
        assert outcome(await other.ask(call("MarkClean", {"keys": [key]}))) == "PermissionDenied"
        for request in reads(SHOWN).values():
            assert outcome(await other.ask(request)) == "ok"
        found = await owner.ask(call("Lookup", {"inode": SHOWN, "offset": 0, "sectors": 8}))
        assert found["parameters"]["keys"] == [key]  # as it was
        cleaned = await owner.ask(call("MarkClean", {"keys": [key]}))
        assert cleaned["parameters"]["cleaned"] == [True]


@pytest.mark.parametrize("uid", [OTHER, READER])
async def test_a_hidden_volume_is_refused_as_one_that_does_not_exist(tmp_path: Path, uid: int) -> None:
    async with a_place(tmp_path) as place:
        await stored(await place.user(MEMBER), HIDDEN)
        other = await place.user(uid)
        key = {"inode": 0, "offset": 0, "sectors": 8, "dirty": False, "pointers": []}
        if uid == OTHER:
            key = await reserved(other)
        for make in (lambda inode: changes(inode, key), reads):
            for name, request in make(HIDDEN).items():
                told, nothing = await other.ask(request), await other.ask(make(99)[name])
                assert str(told).replace(f"'inode': {HIDDEN}", "'inode': 99") == str(nothing), name
                assert "error" in told, name


async def test_members_of_the_group_and_admins_do_all(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        for uid, offset in ((MEMBER, 0), (ADMIN, 8)):
            talker = await place.user(uid)
            key = await stored(talker, HIDDEN, offset)
            assert outcome(await talker.ask(call("MarkClean", {"keys": [key]}))) == "ok"
            for request in reads(HIDDEN).values():
                assert outcome(await talker.ask(request)) == "ok"


async def test_lists_and_streams_leave_hidden_volumes_out(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        member, reader = await place.user(MEMBER), await place.user(READER)
        watching, tracing = await place.user(READER), await place.user(READER)
        await stored(member, HIDDEN)
        inodes = []
        for talker in (member, reader):
            listed = (await talker.ask(call("Volumes")))["parameters"]["volumes"]
            inodes.append([one["inode"] for one in listed])
        assert inodes == [[OPEN, SHOWN, HIDDEN], [OPEN, SHOWN]]
        state = (await watching.ask(call("io.bcached.Monitor.Watch", more=True)))["parameters"]["state"]
        assert sorted(state["volumes"]) == ["0", "1"]
        assert "2" not in state["dirty_sectors"]
        assert await tracing.ask(call("io.bcached.Monitor.Trace", {"limit": 1}, more=True))
        await stored(member, HIDDEN, 8)
        await stored(member, OPEN, 8)
        events: list[Any] = []
        while not events:
            events = (await tracing.hear())["parameters"].get("events", [])
        assert {event["fields"].get("inode", OPEN) for event in events} == {OPEN}


async def test_a_change_of_owner_holds_at_once_for_all_connections(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        admin, other = await place.user(ADMIN), await place.user(OTHER)
        await stored(other, OPEN)
        give = {"inode": OPEN, "owner": {"user": OWNER, "others": "nothing"}}
        assert outcome(await admin.ask(call("io.bcached.Admin.SetVolumeOwner", give))) == "ok"
        assert outcome(await other.ask(reads(OPEN)["Lookup"])) == "NoSuchVolume"
        assert outcome(await other.ask(call("io.bcached.Admin.SetVolumeOwner", {"inode": OPEN}))) == (
            "PermissionDenied"
        )
        assert outcome(await admin.ask(call("io.bcached.Admin.SetVolumeOwner", {"inode": OPEN}))) == "ok"
        await stored(other, OPEN)
        listed = (await admin.ask(call("io.bcached.Admin.ListVolumes")))["parameters"]["volumes"]
        assert [one.get("owner") for one in listed] == [
            None,
            {"user": OWNER, "others": "read"},
            {"group": GROUP, "others": "nothing"},
        ]
        missing = call("io.bcached.Admin.SetVolumeOwner", {"inode": 9, "owner": {"user": 1}})
        assert outcome(await admin.ask(missing)) == "NoSuchVolume"


async def test_an_admin_that_is_none_any_more_has_no_more_rights(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        admin = await place.user(ADMIN)
        await stored(admin, HIDDEN)
        place.peers.admin = 0
        place.it.server.reload(place.peers, place.it.server._limits)
        assert outcome(await admin.ask(reads(HIDDEN)["Lookup"])) == "NoSuchVolume"
        place.peers.admin = ADMIN
        place.it.server.reload(place.peers, place.it.server._limits)
        assert outcome(await admin.ask(reads(HIDDEN)["Lookup"])) == "ok"


async def test_opening_gives_a_volume_to_its_opener_only_if_it_may(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        member = await place.user(MEMBER)

        async def opened(**parameters: Any) -> Any:
            return await member.ask(call("OpenVolume", parameters))

        assert outcome(await opened(label="mine", owner={"user": OWNER})) == "PermissionDenied"
        assert outcome(await opened(label="mine", owner={"group": 7})) == "PermissionDenied"
        assert outcome(await opened(label="mine", owner={})) == "InvalidParameter"
        assert outcome(await opened(label="mine", owner={"user": 1, "group": 1})) == "InvalidParameter"
        assert outcome(await opened(label="mine", owner={"user": -1})) == "InvalidParameter"
        made = await opened(label="mine", owner={"user": MEMBER, "others": "nothing"})
        assert made["parameters"] == {"inode": 3, "created": True}
        assert (await opened(label="mine"))["parameters"] == {"inode": 3, "created": False}
        assert (await opened(label="hidden", owner={"group": GROUP, "others": "nothing"}))["parameters"] == {
            "inode": HIDDEN,
            "created": False,
        }
        assert outcome(await opened(label="hidden", owner={"group": GROUP})) == "InvalidParameter"
        assert outcome(await opened(label="shown")) == "ok"  # to be read
        other = await place.user(OTHER)
        theirs = await other.ask(call("OpenVolume", {"label": "mine"}))
        assert theirs["parameters"] == {"inode": 4, "created": True}  # nothing tells that there is one
