# SPDX-License-Identifier: GPL-2.0-only
"""Users who do not trust each other: what one takes, another one gets its part of."""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bcached.format.volume_owner import EntryOwner
from bcached.service.users.access import Access, Role
from bcached.service.users.buffers import Buffers
from bcached.service.users.peer import Peer
from bcached.service.users.socket_limits import SocketLimits
from bcached.state.explanation import explain
from instruments.clients.served_set import Served, served
from instruments.clients.talker import Talker, call, outcome
from instruments.time.patience import patience

BUCKET = call("AllocateBucket", {"timeout_ms": 20_000})
AT_ONCE = call("AllocateBucket", {"wait": False})
DESCRIBE = call("Describe")


class Uids:
    """Says that each new connection is of the user that is set."""

    def __init__(self) -> None:
        self.uid = 1

    def __call__(self, _: socket.socket) -> Peer:
        return Peer(os.getpid(), self.uid, frozenset())


class Allocators(Access):
    """Every user is an allocator."""

    def __init__(self) -> None:
        super().__init__([], [], [])

    def role_of(self, peer: Peer) -> Role:
        return Role.ALLOCATOR


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcached.runtime.sectors.held_shares.PATIENCE_S", 0.05)


async def until(question: Callable[[], bool]) -> None:
    async with patience(20):
        while not question():
            await asyncio.sleep(0.001)


def at_least(buffers: Buffers, wanted: int) -> bool:
    return buffers.held_bytes >= wanted


async def hold_all(it: Served, talker: Talker) -> int:
    """Reserve every bucket there is; returns how many there were."""
    count = 0
    async with patience(60):
        while True:
            if outcome(await talker.ask(call("AllocateBucket", {"timeout_ms": 300}))) == "ok":
                count += 1
            elif it.is_exhausted:
                return count


async def test_another_user_gets_a_bucket_of_one_that_holds_all(tmp_path: Path) -> None:
    uids = Uids()
    async with served(tmp_path, access=Allocators(), identify=uids) as it, Talker(it.path) as greedy:
        assert await hold_all(it, greedy) > 900
        uids.uid = 2
        async with Talker(it.path) as honest:
            assert outcome(await honest.ask(BUCKET)) == "ok"
        reply = await greedy.hear()
        assert outcome(reply) == "LimitExceeded"
        assert reply["parameters"]["limit"] == "held_buckets"
        assert await greedy.hears_the_end()


async def test_a_user_alone_may_hold_all(tmp_path: Path) -> None:
    async with (
        served(tmp_path, access=Allocators(), identify=Uids()) as it,
        Talker(it.path) as greedy,
        Talker(it.path) as other,
    ):
        await hold_all(it, greedy)
        assert outcome(await other.ask(call("AllocateBucket", {"timeout_ms": 300}))) == "NoFreeBuckets"
        assert outcome(await greedy.ask(DESCRIBE)) == "ok"


async def test_a_request_for_nearly_everything_starves_nobody_else(tmp_path: Path) -> None:
    async with (
        served(tmp_path, access=Allocators(), identify=Uids()) as it,
        Talker(it.path) as half,
        Talker(it.path) as greedy,
        AsyncExitStack() as stack,
    ):
        for _ in range(450):
            assert outcome(await half.ask(BUCKET)) == "ok"
        sectors = int(0.9 * it.cache_set.allocations.data_sectors) // 128 * 128
        whole = {"inode": 0, "offset": 0, "sectors": sectors, "whole": True, "timeout_ms": 20_000}
        greedy.say(call("Allocate", whole))
        await until(lambda: it.cache_set.shared.queue.total == 1)
        others = [await stack.enter_async_context(Talker(it.path)) for _ in range(20)]
        for other in others:
            other.say(BUCKET)
        assert [outcome(await other.hear()) for other in others] == ["ok"] * 20
        half.hang_up()  # what it held is enough for the rest
        assert outcome(await greedy.hear()) == "ok"


async def test_explain_names_whose_requests_wait(tmp_path: Path) -> None:
    uids = Uids()
    async with (
        served(tmp_path, access=Allocators(), identify=uids) as it,
        Talker(it.path) as greedy,
    ):
        await hold_all(it, greedy)
        greedy.say(BUCKET * 3)
        uids.uid = 2
        async with Talker(it.path) as honest:
            honest.say(BUCKET)
            await until(lambda: it.cache_set.shared.queue.total == 4)
            lines = explain(it.cache_set.statistics())
            assert "most of the 4 requests that wait: 3 of uid 1, 1 of uid 2" in lines
            assert any("by pid" in line and "uid 1" in line for line in lines), "and who holds the buckets"


async def test_pins_of_one_user_do_not_keep_another_from_writing(tmp_path: Path) -> None:
    uids = Uids()
    async with served(tmp_path, access=Allocators(), identify=uids) as it, Talker(it.path) as reader:
        offset = 0
        while "error" not in (reply := await reader.ask(AT_ONCE)):
            key = {**reply["parameters"]["key"], "offset": offset}
            committed = await reader.ask(call("Commit", {"keys": [key], "durable": False}))
            assert outcome(committed) == "ok"
            pinned = await reader.ask(
                call("Lookup", {"inode": 0, "offset": offset, "sectors": key["sectors"], "pin": True})
            )
            assert outcome(pinned) == "ok"
            offset += key["sectors"]
        await hold_all(it, reader)
        uids.uid = 2
        async with Talker(it.path) as writer:
            assert outcome(await writer.ask(BUCKET)) == "ok"
        assert (await reader.hear())["parameters"]["limit"] == "held_buckets"


async def test_another_user_gets_a_connection_of_one_that_has_all(tmp_path: Path) -> None:
    uids = Uids()
    limits = SocketLimits(connections=4)
    async with (
        served(tmp_path, access=Allocators(), limits=limits, identify=uids) as it,
        AsyncExitStack() as stack,
    ):

        async def connected() -> tuple[Talker, Any]:
            talker = await stack.enter_async_context(Talker(it.path))
            return talker, await talker.ask(DESCRIBE)

        many = [(await connected())[0] for _ in range(4)]
        assert outcome(await many[0].ask(DESCRIBE)) == "ok"  # so that the second is idle for longest
        uids.uid = 2
        for _ in range(2):
            assert outcome((await connected())[1]) == "ok"
        assert await many[1].hears_the_end()
        assert await many[2].hears_the_end()
        assert outcome(await many[0].ask(DESCRIBE)) == "ok"
        third = await stack.enter_async_context(Talker(it.path))
        assert (await third.hear())["parameters"]["limit"] == "connections"


async def test_a_user_with_all_connections_gets_no_more(tmp_path: Path) -> None:
    limits = SocketLimits(connections=2)
    async with (
        served(tmp_path, access=Allocators(), limits=limits, identify=Uids()) as it,
        Talker(it.path) as first,
        Talker(it.path) as second,
        Talker(it.path) as third,
    ):
        assert (await third.hear())["parameters"]["limit"] == "connections"
        for talker in (first, second):
            assert outcome(await talker.ask(DESCRIBE)) == "ok"


async def test_a_user_makes_half_of_the_volumes_and_the_rest_is_for_others(tmp_path: Path) -> None:
    """It counts who made them, whichever user owns them, until they are deleted."""

    def opened(label: str) -> bytes:
        return call("OpenVolume", {"label": label})

    uids = Uids()
    async with served(tmp_path, access=Allocators(), identify=uids) as it:
        slots = len(it.cache_set.volumes._table.entries)
        async with Talker(it.path) as greedy:
            for number in range(slots // 2):
                assert outcome(await greedy.ask(opened(f"of 1, {number}"))) == "ok"
            reply = await greedy.ask(opened("one more"))
            assert reply["parameters"] == {"limit": "volumes_of_a_user", "value": slots // 2 + 1}
            assert outcome(await greedy.ask(opened("of 1, 7"))) == "ok", "it is there"
            uids.uid = 2
            async with Talker(it.path) as honest:
                assert outcome(await honest.ask(opened("of 2"))) == "ok"
                listed = (await honest.ask(call("Volumes")))["parameters"]["volumes"]
                assert [one.get("maker") for one in listed] == [None, *[1] * (slots // 2), 2]
            await it.cache_set.volumes.set_owner(1, EntryOwner(2))
            assert outcome(await greedy.ask(opened("one more"))) == "LimitExceeded"
            await it.cache_set.volumes.delete(1)
            assert outcome(await greedy.ask(opened("one more"))) == "ok"


async def test_volumes_of_an_admin_count_for_no_user(tmp_path: Path) -> None:
    async with served(tmp_path) as it, Talker(it.path) as admin:
        slots = len(it.cache_set.volumes._table.entries)
        for number in range(slots - 1):
            assert outcome(await admin.ask(call("OpenVolume", {"label": f"{number}"}))) == "ok"
        reply = await admin.ask(call("OpenVolume", {"label": "none is left"}))
        assert reply["parameters"] == {"limit": "volumes", "value": slots + 1}


async def test_dirty_data_of_allocators_leaves_room_for_others_if_so_configured(tmp_path: Path) -> None:
    uids = Uids()
    async with (
        served(tmp_path, access=Allocators(), identify=uids) as it,
        Talker(it.path) as talker,
    ):
        options, sectors = it.cache_set.shared.options, 0

        async def commit(**more: Any) -> Any:
            reply = await talker.ask(call("AllocateBucket"))
            key = {**reply["parameters"]["key"], "offset": sectors, "dirty": True}
            message = {"keys": [{**key, **more}], "durable": False}
            plain, added = await talker.ask(call("Commit", message)), {**message, "if_absent": True}
            if "error" in plain:
                assert await talker.ask(call("Commit", added)) == plain, "nor with conditions"
                assert outcome(await talker.ask(call("Release", {"keys": [key]}))) == "ok"
            return plain

        options.dirty_percent = 2
        while "error" not in (reply := await commit()):
            sectors += 128
        assert reply["parameters"] == {"limit": "dirty_percent", "value": 2}
        geometry = it.cache_set.members[0].buckets.geometry
        assert 0 <= geometry.bucket_count * 128 * 2 // 100 - sectors < 128
        assert outcome(await commit(dirty=False)) == "ok"
        options.dirty_percent = 100
        sectors += 128
        assert outcome(await commit()) == "ok"


async def test_a_refusal_does_not_tell_what_exists(tmp_path: Path) -> None:
    async with (
        served(tmp_path, access=Allocators(), identify=Uids()) as it,
        Talker(it.path) as allocator,
    ):
        delete = "io.bcached.Admin.DeleteVolume"
        there, not_there = [await allocator.ask(call(delete, {"inode": inode})) for inode in (0, 99)]
        assert there == not_there
        assert outcome(there) == "PermissionDenied"


async def test_a_user_with_most_of_the_buffers_gives_way_to_one_that_held_its_own_for_longer(
    tmp_path: Path,
) -> None:
    uids, limits = Uids(), SocketLimits(connections=16, buffer_bytes=1 << 20)
    async with (
        served(tmp_path, access=Allocators(), limits=limits, identify=uids) as it,
        Talker(it.path) as honest,
        AsyncExitStack() as stack,
    ):
        assert outcome(await honest.ask(DESCRIBE)) == "ok"
        buffers = it.server.buffers
        honest.say(DESCRIBE[:-1] + b" " * 400_000)  # the NUL is still to come
        await until(lambda: buffers.held_bytes >= 400_000)
        uids.uid = 2
        greedy = [await stack.enter_async_context(Talker(it.path)) for _ in range(8)]
        for number, talker in enumerate(greedy):
            assert outcome(await talker.ask(DESCRIBE)) == "ok"
            talker.say(b" " * 90_000)
            wanted = min(400_000 + number * 90_000, 900_000)
            await until(partial(at_least, buffers, wanted))
        await until(lambda: buffers.gave_way > 0)
        assert it.server.statistics().disconnections["buffer_bytes"] == buffers.gave_way < 8
        honest.say(b"\0")
        assert outcome(await honest.hear()) == "ok"
        assert buffers.largest_user_bytes <= 1 << 19


async def test_a_larger_part_of_a_user_may_be_configured(tmp_path: Path) -> None:
    uids, limits = Uids(), SocketLimits(connections=4, user_percent=100)
    async with (
        served(tmp_path, access=Allocators(), limits=limits, identify=uids) as it,
        AsyncExitStack() as stack,
    ):
        for _ in range(4):
            talker = await stack.enter_async_context(Talker(it.path))
            assert outcome(await talker.ask(DESCRIBE)) == "ok"
        statistics = it.server.statistics()
        assert (statistics.role_connections, statistics.connections_of_largest_user) == ({"allocator": 4}, 4)
        uids.uid = 2
        refused = await stack.enter_async_context(Talker(it.path))
        assert (await refused.hear())["parameters"]["limit"] == "connections"
        assert it.server.statistics().disconnections == {"refused": 1}
