# SPDX-License-Identifier: GPL-2.0-only
import mmap
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from bcached.service.users.access import Role
from bcached.wire.change_map import REGION_SHIFT, ChangeMap
from instruments.clients.granted import GrantedByNumber
from instruments.clients.served_set import served
from instruments.clients.talker import Talker, call, outcome


def extent(offset: int, sectors: int = 8, inode: int = 0) -> dict[str, Any]:
    return {"inode": inode, "offset": offset, "sectors": sectors}


async def told(talker: Talker, message: bytes) -> Any:
    reply = await talker.ask(message)
    assert "error" not in reply, reply
    return reply["parameters"]


async def reserved(talker: Talker, offset: int, sectors: int = 8) -> Any:
    (key,) = (await told(talker, call("Allocate", extent(offset, sectors))))["keys"]
    return key


async def found(talker: Talker) -> list[tuple[int, int]]:
    keys = (await told(talker, call("Lookup", extent(0, 1 << 20))))["keys"]
    return [(key["offset"], key["sectors"]) for key in keys]


async def test_a_commit_tells_only_what_it_was_asked(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        for more, fields in (
            ({}, {"sequence"}),
            ({"versions": False, "if_absent": False}, {"sequence"}),
            ({"versions": True}, {"sequence", "versions"}),
            ({"if_absent": True}, {"sequence", "committed"}),
            ({"if_versions": [1]}, {"sequence", "committed"}),
            ({"replaces": []}, {"sequence"}),
        ):
            key = await reserved(talker, 0)
            reply = await told(talker, call("Commit", {"keys": [key], **more}))
            assert reply.keys() == fields
        assert reply["sequence"] > 0


async def test_versions_are_those_of_the_map(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        file = await told(talker, call("MapChanges"))
        assert file["shift"] == REGION_SHIFT
        assert stat.S_IMODE(os.stat(file["path"]).st_mode) == 0o440
        with open(file["path"], "rb") as opened:
            mapped = mmap.mmap(opened.fileno(), file["bytes"], mmap.MAP_SHARED, mmap.PROT_READ)
        changes = ChangeMap.parse(memoryview(mapped), file["path"])
        assert changes.life
        keys = [await reserved(talker, 0), await reserved(talker, 1 << 17)]
        reply = await told(talker, call("Commit", {"keys": keys, "versions": True, "durable": False}))
        assert reply["versions"] == [changes.counter(0, 0), changes.counter(0, 1 << 17)] == [1, 1]
        await told(talker, call("Invalidate", extent(0)))
        assert (changes.counter(0, 0), changes.counter(0, 1 << 17)) == (2, 1)
    assert changes.life == 0
    assert not Path(file["path"]).exists()


async def test_a_longer_value_is_replaced_and_an_absent_one_added(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        await told(talker, call("Commit", {"keys": [await reserved(talker, 0, 48)]}))
        key = await reserved(talker, 0)
        await told(talker, call("Commit", {"keys": [key], "replaces": [extent(0, 1 << 17)]}))
        assert await found(talker) == [(0, 8)]
        keys = [await reserved(talker, 0), await reserved(talker, 64)]
        reply = await told(talker, call("Commit", {"keys": keys, "if_absent": True}))
        assert reply["committed"] == [False, True]
        assert await found(talker) == [(0, 8), (64, 8)]
        assert outcome(await talker.ask(call("Release", {"keys": keys[:1]}))) == "ok"
        await told(talker, call("Commit", {"keys": [], "replaces": [extent(0, 8), extent(64, 8)]}))
        assert await found(talker) == []


@pytest.mark.parametrize(
    ("replaces", "error"),
    [
        ([extent(4, 8)], "InvalidParameter"),
        ([extent(0, 4)], "InvalidParameter"),
        ([extent(0, 0)], "InvalidParameter"),
        ([extent(0, 8, inode=9)], "NoSuchVolume"),
        ([extent(0, 1 << 27)], "LimitExceeded"),
        ([extent(0)] * 1001, "InvalidParameter"),
    ],
)
async def test_a_range_that_is_none_is_refused(tmp_path: Path, replaces: list[Any], error: str) -> None:
    async with served(tmp_path) as it, Talker(it.path) as talker:
        key = await reserved(talker, 0)
        assert outcome(await talker.ask(call("Commit", {"keys": [key], "replaces": replaces}))) == error
        assert await found(talker) == []
        assert outcome(await talker.ask(call("Release", {"keys": [key]}))) == "ok"


async def test_readers_map_the_counters_and_report_reads(tmp_path: Path) -> None:
    access = GrantedByNumber({os.geteuid(): Role.READER}, {})
    async with served(tmp_path, access=access) as it, Talker(it.path) as talker:
        assert "path" in await told(talker, call("MapChanges"))
        assert outcome(await talker.ask(call("Touch", {"buckets": [], "hits": 1}))) == "ok"
        assert it.cache_set.statistics().client_hits == 1
