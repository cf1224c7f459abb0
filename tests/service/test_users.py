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

from bcached.service.socket.access import Access, Role
from bcached.service.socket.buffers import Buffers
from bcached.service.socket.peer import Peer
from bcached.service.socket.socket_limits import SocketLimits
from instruments.clients.served_set import served
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


async def hold_all(talker: Talker) -> int:
    """Reserve every bucket there is; returns how many there were."""
    count = 0
    while outcome(await talker.ask(call("AllocateBucket", {"timeout_ms": 300}))) == "ok":
        count += 1
    return count


async def test_another_user_gets_a_bucket_of_one_that_holds_all(tmp_path: Path) -> None:
    uids = Uids()
    async with served(tmp_path, access=Allocators(), identify=uids) as it, Talker(it.path) as greedy:
        assert await hold_all(greedy) > 900
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
        await hold_all(greedy)
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
        await hold_all(reader)
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
