# SPDX-License-Identifier: GPL-2.0-only
import os
from pathlib import Path

from bcached.service.users.access import Role
from instruments.clients.granted import GrantedByNumber
from instruments.clients.served_set import served
from instruments.clients.talker import Talker, call, outcome


async def test_a_volume_is_opened_by_its_label(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        opened = await talker.ask(call("OpenVolume", {"label": "first"}))
        assert opened["parameters"] == {"inode": 0, "created": False}
        opened = await talker.ask(call("OpenVolume", {"label": "flash", "sectors": 800}))
        assert opened["parameters"] == {"inode": 1, "created": True}
        listed = await talker.ask(call("Volumes"))
        assert listed == await talker.ask(call("io.bcached.Admin.ListVolumes"))
        assert [one["label"] for one in listed["parameters"]["volumes"]] == ["first", "flash"]
        await talker.ask(call("io.bcached.Admin.CreateVolume", {"label": "first"}))
        assert await talker.ask(call("OpenVolume", {"label": "first"})) == {
            "error": "io.bcached.Allocator.AmbiguousLabel",
            "parameters": {"label": "first", "inodes": [0, 2]},
        }


async def test_readers_list_volumes_and_only_allocators_open_them(tmp_path: Path) -> None:
    access = GrantedByNumber({os.geteuid(): Role.READER}, {})
    async with served(tmp_path, access=access) as it, Talker(it.path) as talker:
        assert len((await talker.ask(call("Volumes")))["parameters"]["volumes"]) == 1
        assert outcome(await talker.ask(call("OpenVolume", {"label": "first"}))) == "PermissionDenied"
    (tmp_path / "again").mkdir()
    access = GrantedByNumber({os.geteuid(): Role.ALLOCATOR}, {})
    async with served(tmp_path / "again", access=access) as it, Talker(it.path) as talker:
        assert outcome(await talker.ask(call("OpenVolume", {"label": "mine"}))) == "ok"
