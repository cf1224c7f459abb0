# SPDX-License-Identifier: GPL-2.0-only
"""What peers can pin in memory: half-sent requests, requests that wait, replies that are not read."""

import asyncio
import contextlib
import gc
import os
import socket
import weakref
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bcached.service.listening import bind_unix
from bcached.service.requests.reply_queue import REQUESTS_BEHIND_MAX
from bcached.service.socket.connection import NO_ROLE_BYTES
from bcached.service.socket.socket_server import SocketServer
from bcached.service.users.access import Access, Role
from bcached.service.users.peer import Peer
from bcached.service.users.socket_limits import SocketLimits
from bcached.wire.codec import decode_requests
from instruments.clients.talker import Talker, allocate, call, outcome
from instruments.clients.toy_service import WAITS, ToyService
from instruments.time.patience import patience

LIMITS = SocketLimits(connections=64, message_bytes=1 << 20, buffer_bytes=4 << 20)
DESCRIBE = call("Describe")
EXPLAIN = call("io.bcached.Admin.Explain")  # a hundred kilobytes


class Strangers(Access):
    """Grants nothing to the first so many who come, and everything to the others."""

    def __init__(self, count: int) -> None:
        super().__init__([], [], [])
        self.left = count

    def role_of(self, peer: Peer) -> Role:
        self.left -= 1
        return Role.NONE if self.left >= 0 else Role.ADMIN


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@contextlib.asynccontextmanager
async def serving(
    path: str, access: Access | None = None, limits: SocketLimits = LIMITS
) -> AsyncIterator[tuple[SocketServer, ToyService]]:
    service = ToyService()
    async with SocketServer(service, access or Access([], [], []), limits) as server:
        server.listen(bind_unix(path, 0o600))
        yield server, service


@contextlib.asynccontextmanager
async def talkers(path: str, count: int) -> AsyncIterator[list[Talker]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Talker(path)) for _ in range(count)]


async def until(question: Callable[[], Any]) -> None:
    async with patience(20):
        while not question():
            await asyncio.sleep(0.001)


async def test_half_sent_requests_are_bounded_and_the_longest_held_give_way(path: str) -> None:
    async with serving(path) as (server, _), talkers(path, 40) as peers:

        def has_changed(was: tuple[int, int]) -> bool:
            return (server.buffers.held_bytes, server.buffers.gave_way) != was

        for peer in peers:
            before = server.buffers.held_bytes, server.buffers.gave_way
            peer.say(b"y" * 300_000)
            await until(partial(has_changed, before))
            await asyncio.sleep(0.002)
            assert server.buffers.held_bytes <= LIMITS.buffer_bytes
        await until(lambda: server.buffers.gave_way >= 40 - (LIMITS.buffer_bytes // 300_000 + 1))
        told = await peers[0].hear()
        assert told["error"] == "io.bcached.Allocator.LimitExceeded"
        assert told["parameters"]["limit"] == "buffer_bytes"
        assert await peers[0].hears_the_end()


async def test_honest_requests_go_through_small_and_large_ones(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcached.service.socket.connection.PARTIAL_PATIENCE_S", 7200)
    async with serving(path) as (server, _), talkers(path, 40) as peers, Talker(path) as honest:
        for peer in peers:
            peer.say(b"y" * 300_000)
        assert outcome(await honest.ask(DESCRIBE)) == "ok"

        def have_all_arrived() -> bool:  # and been read: none waits for its turn
            held = sorted(len(connection._frames.partial) for connection in server._connections)
            return held == [0, *[300_000] * (len(held) - 1)]

        await until(lambda: server.buffers.gave_way > 20 and have_all_arrived())
        for connection in server._connections:
            connection._partial_since_ns -= 3600 * 10**9  # so the honest client's half is held for less long
        for at in range(0, 900_000, 100_000):
            honest.say(b" " * 100_000 if at else DESCRIBE[:-1])
            await asyncio.sleep(0)
        assert outcome(await honest.ask(b"\0")) == "ok"


async def test_small_halves_are_left_in_peace(path: str) -> None:
    async with serving(path) as (server, _), talkers(path, 20) as small, talkers(path, 20) as large:
        for peer in small:
            peer.say(DESCRIBE[:-1] + b" " * 20_000)
        await asyncio.sleep(0.05)
        for peer in large:
            peer.say(b"y" * 900_000)
        await until(lambda: server.buffers.gave_way > 10)
        for peer in small:
            assert outcome(await peer.ask(b"\0")) == "ok"


async def test_replies_that_are_not_read_are_bounded(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcached.service.socket.socket_server.SWEEP_S", 0.02)
    async with serving(path) as (server, _), contextlib.AsyncExitStack() as stack:
        for _ in range(60):
            peer = stack.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(path)
            peer.sendall(EXPLAIN * 100)
            await asyncio.sleep(0.002)
            assert server.buffers.held_bytes <= LIMITS.buffer_bytes
        await until(lambda: server.buffers.gave_way)
        async with Talker(path) as honest:
            assert outcome(await honest.ask(DESCRIBE)) == "ok"


async def test_requests_that_wait_are_bounded_by_their_bytes(path: str) -> None:
    async with serving(path, limits=SocketLimits()) as (server, service), Talker(path) as talker:
        waiting = call("Allocate", {"inode": WAITS, "offset": 0, "sectors": 8})
        padded = waiting[:-1] + b" " * 100_000 + b"\0"
        talker.say(waiting, *(padded,) * 20)
        await until(lambda: len(service.waiting) > 10 and server.buffers.held_bytes > 4 * 1_000_000)
        await asyncio.sleep(0.05)
        assert len(service.waiting) < 15  # a mebibyte, not all of them
        while service.waiting:
            service.waiting.pop(0).set_result(service.key(0, 8))
            await asyncio.sleep(0.001)
        assert [outcome(await talker.hear()) for _ in range(21)] == ["ok"] * 21
        await until(lambda: server.buffers.held_bytes == 0)


async def test_of_many_who_wait_with_much_some_give_way(path: str) -> None:
    async with serving(path) as (server, service), talkers(path, 30) as peers:
        waiting = allocate(inode=WAITS)
        for peer in peers:
            peer.say(*(waiting,) * 300)
            await asyncio.sleep(0.005)
            assert server.buffers.held_bytes <= LIMITS.buffer_bytes
        await until(lambda: server.buffers.gave_way)
        assert (await peers[0].hear())["parameters"]["limit"] == "buffer_bytes"
        await until(lambda: len(service.gone) == server.buffers.gave_way)
        peers[-1].say(call("Release", {"keys": []}))
        assert outcome(await peers[-1].hear()) == "ok"


async def test_what_cannot_run_yet_runs_in_its_order(path: str) -> None:
    count = 3 * REQUESTS_BEHIND_MAX
    async with serving(path) as (_, service), Talker(path) as talker:
        talker.say(allocate(inode=WAITS), *(allocate(offset=8 * number) for number in range(count)))
        await until(lambda: len(service.log) > REQUESTS_BEHIND_MAX)
        service.waiting[0].set_result(service.key(0, 8))
        assert outcome(await talker.hear()) == "ok"
        offsets = [(await talker.hear())["parameters"]["keys"][0]["offset"] for _ in range(count)]
        assert offsets == list(range(0, 8 * count, 8))


async def test_a_read_full_of_empty_messages_is_decoded_a_few_at_a_time(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def decode(block: bytes) -> list[Any]:
        requests = decode_requests(block)
        decoded.append(len(requests))
        return requests

    monkeypatch.setattr("bcached.service.socket.connection.decode_requests", decode)
    count = 20_000
    async with serving(path), Talker(path) as talker, Talker(path) as honest:
        talker.say(b"\0" * count)
        assert outcome(await honest.ask(DESCRIBE)) == "ok"
        assert {outcome(await talker.hear()) for _ in range(count)} == {"InvalidParameter"}
        assert outcome(await talker.ask(DESCRIBE)) == "ok"
    assert max(decoded) <= 1024
    assert sum(decoded) < 3 * count  # as many run in a slice as the machine is fast


async def test_a_connection_that_is_gone_leaves_nothing_for_the_garbage_collector(path: str) -> None:
    async with serving(path) as (server, service), Talker(path) as talker:
        talker.say(allocate(inode=WAITS), DESCRIBE)
        await until(lambda: service.waiting)
        (connection,) = server._connections
        gone = weakref.ref(connection)
        del connection
        service.waiting.clear()
        gc.disable()
        try:
            talker.hang_up()
            await until(lambda: gone() is None)
        finally:
            gc.enable()


async def test_peers_that_go_while_replies_are_on_their_way_cause_no_error(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(path) as (_, service):
        for number in range(60):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(path)
                peer.sendall(EXPLAIN * 200)
                peer.setblocking(False)
                if number % 2:
                    peer.shutdown(socket.SHUT_WR)
                await asyncio.sleep(0.002 * (number % 5))
                with contextlib.suppress(BlockingIOError):
                    peer.recv((number % 7) * 100_000)
        await until(lambda: len(service.gone) == 60)
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def test_memory_is_counted_while_it_is_held(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcached.service.socket.socket_server.SWEEP_S", 0.02)
    async with serving(path) as (server, _), Talker(path) as talker:
        talker.say(DESCRIBE[:-1])
        await until(lambda: server.buffers.held_bytes == len(DESCRIBE) - 1)
        assert server.statistics().buffer_bytes == len(DESCRIBE) - 1
        assert server.statistics().buffer_bytes_max == LIMITS.buffer_bytes
        assert outcome(await talker.ask(b"\0")) == "ok"
        assert server.buffers.held_bytes == 0
        talker.say(b"x")
        await until(lambda: server.buffers.held_bytes == 1)
        talker.hang_up()
        await until(lambda: server.buffers.held_bytes == 0)


# Peers without a role


async def test_a_peer_without_a_role_is_told_so_and_holds_little(path: str) -> None:
    async with serving(path, Strangers(1)) as (server, _), Talker(path) as stranger:
        assert outcome(await stranger.ask(DESCRIBE)) == "PermissionDenied"
        stranger.say(b"x" * NO_ROLE_BYTES)
        await until(lambda: server.buffers.held_bytes == NO_ROLE_BYTES)
        stranger.say(b"x")
        told = await stranger.hear()
        assert told["error"] == "io.bcached.Allocator.PermissionDenied"
        assert told["parameters"] == {"need": "reader"}
        assert await stranger.hears_the_end()
        assert server.buffers.held_bytes == 0


async def test_a_peer_without_a_role_may_be_large_no_more_than_others(path: str) -> None:
    async with serving(path, Strangers(1)), Talker(path) as stranger:
        stranger.say(b"x" * (2 << 20))
        assert outcome(await stranger.hear()) in ("PermissionDenied", "LimitExceeded")


async def test_half_a_message_of_a_peer_without_a_role_is_waited_for_less(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcached.service.socket.socket_server.SWEEP_S", 0.02)
    monkeypatch.setattr("bcached.service.socket.connection.NO_ROLE_PATIENCE_S", 0.1)
    async with serving(path, Strangers(1)), Talker(path) as stranger, Talker(path) as member:
        stranger.say(b"{")
        member.say(DESCRIBE[:-1])
        assert (await stranger.hear())["parameters"]["limit"] == "seconds_for_a_message"
        assert await stranger.hears_the_end()
        assert outcome(await member.ask(b"\0")) == "ok"


async def test_a_peer_without_a_role_that_does_not_read_is_cut_off(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcached.service.socket.socket_server.SWEEP_S", 0.02)
    monkeypatch.setattr("bcached.service.socket.connection.NO_ROLE_PATIENCE_S", 0.1)
    async with serving(path, Strangers(1)) as (_, service):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(path)
            stranger.setblocking(False)
            async with patience(20):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    while True:
                        await asyncio.get_running_loop().sock_sendall(stranger, DESCRIBE * 1000)
            await until(lambda: service.gone)


async def test_a_peer_without_a_role_makes_room_for_one_that_has_one(path: str) -> None:
    limits = SocketLimits(connections=3)
    async with serving(path, Strangers(3), limits), talkers(path, 3) as strangers, Talker(path) as member:
        assert outcome(await member.ask(DESCRIBE)) == "ok"
        ends = [asyncio.ensure_future(it.hears_the_end()) for it in strangers]
        done, still = await asyncio.wait(ends, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(still)) == (1, 2)
        for end in still:
            end.cancel()


async def test_a_role_taken_away_takes_the_room_away(path: str) -> None:
    async with serving(path) as (server, _), Talker(path) as talker:
        talker.say(b"x" * 10_000)
        await until(lambda: server.buffers.held_bytes)
        server.reload(Strangers(1), LIMITS)
        talker.say(b"x")
        assert outcome(await talker.hear()) == "PermissionDenied"
        assert os.path.exists(path)
