# SPDX-License-Identifier: GPL-2.0-only
import asyncio
import contextlib
import json
import os
import random
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bcached.service.listening import bind_unix
from bcached.service.requests.reply_queue import REQUESTS_BEHIND_MAX
from bcached.service.socket.socket_server import SocketServer
from bcached.service.users.access import Access
from bcached.service.users.socket_limits import SocketLimits
from bcached.wire.admin_messages import Change, News
from instruments.clients.talker import Talker, allocate, call, outcome
from instruments.clients.toy_service import BUG, FAILS, LONG_LINE, WAITS, ToyService
from instruments.time.patience import patience

EVERYBODY = Access([], [], [])  # us, that is: the daemon's own user is always admin
DEFAULTS = SocketLimits()
RELEASE = call("Release", {"keys": []})
DESCRIBE = call("Describe")


@contextlib.asynccontextmanager
async def serving(
    path: str, limits: SocketLimits = DEFAULTS, access: Access = EVERYBODY
) -> AsyncIterator[tuple[SocketServer, ToyService]]:
    service = ToyService()
    async with SocketServer(service, access, limits) as server:
        server.listen(bind_unix(path, 0o600))
        yield server, service


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


@pytest.fixture
async def served(path: str) -> AsyncIterator[tuple[SocketServer, ToyService]]:
    async with serving(path) as (server, service):
        yield server, service


@pytest.fixture
def service(served: tuple[SocketServer, ToyService]) -> ToyService:
    return served[1]


@pytest.fixture
def server(served: tuple[SocketServer, ToyService]) -> SocketServer:
    return served[0]


@pytest.fixture
async def talker(path: str, served: object) -> AsyncIterator[Talker]:
    async with Talker(path) as talker:
        yield talker


async def until(question: Any) -> None:
    async with patience(20):
        while not question():
            await asyncio.sleep(0.001)


# Order


async def test_a_request_is_answered(talker: Talker) -> None:
    reply = await talker.ask(allocate(offset=8))
    assert reply["parameters"]["keys"] == [
        {
            "inode": 1,
            "offset": 8,
            "sectors": 8,
            "dirty": False,
            "pointers": [{"device": 0, "sector": 0, "gen": 0}],
        }
    ]


@pytest.mark.parametrize("count", [2, 64, 256, 257, 1000, 5000])
async def test_pipelined_requests_are_answered_in_their_order(talker: Talker, count: int) -> None:
    talker.say(*(allocate(offset=8 * index) for index in range(count)))
    replies = [await talker.hear() for _ in range(count)]
    assert [reply["parameters"]["keys"][0]["offset"] for reply in replies] == list(range(0, 8 * count, 8))


async def test_replies_that_do_not_fit_at_once_are_sent_when_the_peer_reads(
    talker: Talker, server: SocketServer
) -> None:
    (connection,) = server._connections
    assert connection._peer._transport is not None
    connected = connection._peer._transport.get_extra_info("socket")
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least, about 4,500 bytes
    for _ in range(5):
        talker.say(*(allocate(offset=8 * index) for index in range(80)))
        replies = [await talker.hear() for _ in range(80)]
        assert [reply["parameters"]["keys"][0]["offset"] for reply in replies] == list(range(0, 640, 8))


async def test_requests_of_all_kinds_are_answered_in_their_order(talker: Talker) -> None:
    talker.say(allocate(), DESCRIBE, b"nonsense\0", allocate(inode=FAILS), allocate(), call("No"), DESCRIBE)
    assert [outcome(await talker.hear()) for _ in range(7)] == [
        "ok",
        "ok",
        "InvalidParameter",
        "NoFreeBuckets",
        "ok",
        "MethodNotFound",
        "ok",
    ]


async def test_requests_cut_at_every_byte_are_answered(talker: Talker) -> None:
    stream = allocate(offset=8) + DESCRIBE + allocate(offset=16)
    for cut in range(1, len(stream)):
        talker.say(stream[:cut])
        await asyncio.sleep(0)
        talker.say(stream[cut:])
        assert [outcome(await talker.hear()) for _ in range(3)] == ["ok"] * 3


async def test_requests_sent_byte_by_byte_are_answered(talker: Talker) -> None:
    for byte in allocate(offset=8) + DESCRIBE:
        talker.say(bytes([byte]))
        await talker.writer.drain()
    assert [outcome(await talker.hear()) for _ in range(2)] == ["ok"] * 2


# Waiting


async def test_one_that_waits_holds_back_replies_not_execution(talker: Talker, service: ToyService) -> None:
    talker.say(allocate(), allocate(8, inode=WAITS), DESCRIBE, allocate(16))
    assert outcome(await talker.hear()) == "ok"
    assert await talker.hears_nothing_for(0.05)
    assert service.log == ["allocate 0", "allocate 8", "describe", "allocate 16"]
    talker.say(RELEASE)
    offsets = [await talker.hear() for _ in range(4)]
    assert [reply["parameters"].get("keys", [{}])[0].get("offset") for reply in offsets] == [
        0,
        None,
        16,
        None,
    ]


async def test_a_release_behind_a_waiting_allocate_runs(talker: Talker) -> None:
    talker.say(allocate(inode=WAITS), RELEASE)
    assert [outcome(await talker.hear()) for _ in range(2)] == ["ok", "ok"]


async def test_several_that_wait_are_answered_in_their_order(talker: Talker, service: ToyService) -> None:
    talker.say(*(allocate(inode=WAITS) for _ in range(3)), DESCRIBE)
    await until(lambda: len(service.waiting) == 3)
    for waiter, offset in ((2, 72), (0, 70), (1, 71)):
        service.waiting[waiter].set_result(service.key(offset, 1))
        await asyncio.sleep(0.01)
    replies = [await talker.hear() for _ in range(4)]
    assert [reply["parameters"]["keys"][0]["offset"] for reply in replies[:3]] == [70, 71, 72]


async def test_others_are_served_while_one_waits(talker: Talker, path: str) -> None:
    talker.say(allocate(inode=WAITS))
    async with Talker(path) as other:
        assert outcome(await other.ask(DESCRIBE)) == "ok"


async def test_no_more_than_the_limit_run_behind_one_that_waits(talker: Talker, service: ToyService) -> None:
    talker.say(allocate(inode=WAITS), *(allocate(8) for _ in range(3 * REQUESTS_BEHIND_MAX)))
    await until(lambda: len(service.log) > REQUESTS_BEHIND_MAX)
    await asyncio.sleep(0.05)
    assert len(service.log) == 1 + REQUESTS_BEHIND_MAX
    service.waiting[0].set_result(service.key(0, 8))
    for _ in range(1 + 3 * REQUESTS_BEHIND_MAX):
        assert outcome(await talker.hear()) == "ok"
    assert outcome(await talker.ask(DESCRIBE)) == "ok"


async def test_no_more_bytes_of_replies_than_the_limit_queue_up(talker: Talker, service: ToyService) -> None:
    explain = call("io.bcached.Admin.Explain")  # 100 kB each
    talker.say(allocate(inode=WAITS), explain * 50, DESCRIBE)
    await asyncio.sleep(0.1)
    assert "describe" not in service.log
    service.waiting[0].set_result(service.key(0, 8))
    for _ in range(52):
        assert outcome(await talker.hear()) == "ok"


async def test_a_waiting_one_whose_client_goes_away_gives_its_turn_up(path: str, service: ToyService) -> None:
    async with Talker(path) as talker:
        talker.say(allocate(inode=WAITS))
        await until(lambda: service.waiting)
        talker.hang_up()
    await until(service.waiting[0].cancelled)
    assert len(service.gone) == 1


async def test_a_task_runs_on_when_its_asker_goes_away(path: str, service: ToyService) -> None:
    async with Talker(path) as talker:
        talker.say(call("io.bcached.Admin.CollectGarbage"))
        await asyncio.sleep(0.02)
    await until(lambda: service.gone)
    service.may_collect.set()
    await until(lambda: service.collections == 1)


# In order


def commit(offset: int, inode: int = 1, durable: bool = True) -> bytes:
    key = {"inode": inode, "offset": offset, "sectors": 8, "dirty": False}
    pointers = [{"device": 0, "sector": 0, "gen": 0}]
    return call("Commit", {"keys": [{**key, "pointers": pointers}], "durable": durable})


def lookup(offset: int, sectors: int = 1) -> bytes:
    return call("Lookup", {"inode": 1, "offset": offset, "sectors": sectors})


async def test_a_change_that_cannot_be_made_yet_puts_off_what_is_in_order_and_nothing_else(
    talker: Talker, service: ToyService
) -> None:
    talker.say(commit(8, WAITS), lookup(1), commit(16, durable=False), DESCRIBE, lookup(2), allocate(3))
    await until(lambda: len(service.log) == 2)
    assert await talker.hears_nothing_for(0.02)
    assert service.log == ["describe", "allocate 3"]
    service.may_commit.release()
    await until(lambda: len(service.log) == 6)
    assert service.log[2:] == ["commit 8", "lookup 1", "commit 16", "lookup 2"]
    assert await talker.hears_nothing_for(0.02)  # the first one is not durable yet
    service.journal[0].set_result(None)
    replies = [await talker.hear() for _ in range(6)]
    assert [outcome(reply) for reply in replies] == ["ok"] * 6
    assert [replies[0]["parameters"], replies[2]["parameters"]] == [{"sequence": 8}, {"sequence": 16}]
    assert replies[4]["parameters"]["keys"][0]["offset"] == 2


async def test_a_change_waits_for_the_questions_before_it_and_questions_do_not_wait_for_each_other(
    talker: Talker, service: ToyService
) -> None:
    talker.say(lookup(WAITS), lookup(WAITS), lookup(1), commit(8, durable=False), lookup(2), DESCRIBE)
    await until(lambda: len(service.log) == 4)
    assert await talker.hears_nothing_for(0.02)
    assert service.log == [f"lookup {WAITS}", f"lookup {WAITS}", "lookup 1", "describe"]
    for _ in range(2):
        assert "commit 8" not in service.log
        service.may_commit.release()
        assert outcome(await talker.hear()) == "ok"
    assert [outcome(await talker.hear()) for _ in range(4)] == ["ok"] * 4
    assert service.log[4:] == ["commit 8", "lookup 2"]


async def test_changes_are_made_one_by_one_and_wait_for_durability_together(
    talker: Talker, service: ToyService
) -> None:
    talker.say(*(commit(8 * index, WAITS if index % 3 == 1 else 1) for index in range(1, 10)))
    for made in (3, 6, 9):
        service.may_commit.release()
        await until(lambda made=made: len(service.log) >= made)
        assert await talker.hears_nothing_for(0.02)
    assert service.log == [f"commit {8 * index}" for index in range(1, 10)]
    for future in reversed(service.journal):
        future.set_result(None)
    assert [(await talker.hear())["parameters"]["sequence"] for _ in range(9)] == [
        8 * index for index in range(1, 10)
    ]


async def test_a_change_that_is_refused_in_the_end_lets_the_next_one_be_made(
    talker: Talker, service: ToyService
) -> None:
    talker.say(commit(0, WAITS), commit(8, FAILS), commit(16, WAITS), commit(24, durable=False), lookup(1))
    await asyncio.sleep(0.02)
    assert service.log == []
    service.may_commit.release()
    assert [outcome(await talker.hear()) for _ in range(2)] == ["NotReserved"] * 2
    service.may_commit.release()
    await until(lambda: len(service.log) == 3)
    service.journal[0].set_result(None)
    assert [outcome(await talker.hear()) for _ in range(3)] == ["ok"] * 3
    assert service.log == ["commit 16", "commit 24", "lookup 1"]


async def test_others_commit_while_one_connection_waits_to(
    talker: Talker, path: str, service: ToyService
) -> None:
    talker.say(commit(8, WAITS))
    async with Talker(path) as other:
        assert outcome(await other.ask(commit(16, durable=False))) == "ok"
    assert service.log == ["commit 16"]


async def test_of_one_whose_client_goes_away_nothing_more_is_made(path: str, service: ToyService) -> None:
    async with Talker(path) as talker:
        talker.say(commit(8, WAITS), commit(16), lookup(1))
        await asyncio.sleep(0.02)
        # It could go on from here, at the same moment at which its connection is found to be gone.
        service.may_commit.release()
        talker.hang_up()
        await until(lambda: service.gone)
    async with Talker(path) as other:
        other.say(commit(24, WAITS))
        service.may_commit.release()
        await until(lambda: "commit 24" in service.log)
        # Either it was made before the end, with all behind it, or none of it.
        assert service.log in (["commit 24"], ["commit 8", "commit 16", "lookup 1", "commit 24"])
        service.journal[-1].set_result(None)
        assert outcome(await other.hear()) == "ok"


async def test_one_that_goes_before_its_change_has_begun_leaves_no_trace(
    path: str, service: ToyService
) -> None:
    for _ in range(20):
        async with Talker(path) as talker:
            talker.say(commit(8, WAITS))
            talker.hang_up()
    await until(lambda: len(service.gone) == 20)
    assert service.log == []


async def test_what_is_made_is_told_when_the_server_stops_and_what_is_not_is_refused(
    talker: Talker, server: SocketServer, service: ToyService
) -> None:
    talker.say(commit(8), commit(16, WAITS), commit(24), lookup(1))
    await until(lambda: service.journal)
    server.drain()
    assert await talker.hears_nothing_for(0.02)
    service.journal[0].set_result(None)
    assert [outcome(await talker.hear()) for _ in range(4)] == ["ok"] + ["ShuttingDown"] * 3
    assert service.log == ["commit 8"]
    assert outcome(await talker.ask(commit(8))) == "ShuttingDown"
    assert outcome(await talker.ask(lookup(8))) == "ok"


async def test_long_answers_stop_when_nobody_reads_them(path: str, service: ToyService) -> None:
    async with Talker(path) as talker:
        talker.stop_reading()
        talker.say(*(lookup(index, 1000) for index in range(200)))  # 100 kB each
        await until(lambda: service.log)
        await asyncio.sleep(0.05)
        assert len(service.log) < 50
        talker.read_on()
        for index in range(200):
            keys = (await talker.hear())["parameters"]["keys"]
            assert (len(keys), keys[0]["offset"]) == (1000, index)


# Oneway, more, upgrade


async def test_oneway_requests_run_and_are_not_answered(talker: Talker, service: ToyService) -> None:
    talker.say(
        allocate(1, oneway=True),
        call("Describe", oneway=True),
        allocate(2, inode=FAILS, oneway=True),
        allocate(3),
    )
    assert (await talker.hear())["parameters"]["keys"][0]["offset"] == 3
    assert service.log == ["allocate 1", "describe", "allocate 2", "allocate 3"]


@pytest.mark.parametrize(
    "message",
    [
        call("Nothing", oneway=True),
        call("io.nobody.Has", oneway=True),
        call("Allocate", {"inode": "one"}, oneway=True),
        call("Describe", {"unknown": 1}, oneway=True),
        call("Describe", unknown=1, oneway=True),
    ],
)
async def test_a_oneway_request_that_cannot_be_read_is_not_answered_either(
    talker: Talker, server: SocketServer, message: bytes
) -> None:
    talker.say(allocate(1), message, allocate(2))
    assert [(await talker.hear())["parameters"]["keys"][0]["offset"] for _ in range(2)] == [1, 2]
    assert sum(server.statistics().errors.values()) == 1
    assert outcome(await talker.ask(message.replace(b"true", b"false"))) != "ok"


async def test_a_stream_for_nobody_keeps_no_reply_back(talker: Talker) -> None:
    talker.say(call("io.bcached.Monitor.Watch", oneway=True, more=True), DESCRIBE)
    assert outcome(await talker.hear()) == "ok"


async def test_a_oneway_request_that_waits_is_not_answered_either(talker: Talker) -> None:
    talker.say(allocate(inode=WAITS, oneway=True), RELEASE, allocate(8))
    assert (await talker.hear())["parameters"] == {}
    assert (await talker.hear())["parameters"]["keys"][0]["offset"] == 8


async def test_more_changes_nothing_for_a_method_that_answers_once(talker: Talker) -> None:
    assert "continues" not in await talker.ask(allocate(more=True))


async def test_no_method_upgrades(talker: Talker) -> None:
    for message in (allocate(upgrade=True), call("Describe", upgrade=True)):
        reply = await talker.ask(message)
        assert reply["parameters"]["parameter"] == "upgrade"
    assert outcome(await talker.ask(allocate(upgrade=False))) == "ok"


WATCH = "io.bcached.Monitor.Watch"


async def test_a_watch_continues(talker: Talker, service: ToyService) -> None:
    service.news = [News(changes=(Change("a", 1),)), News(changes=(Change("a", 2),))]
    talker.say(call(WATCH, {"interval_ms": 100}, more=True))
    replies = [await talker.hear(), await talker.hear()]
    assert [reply["parameters"]["changes"][0]["value"] for reply in replies] == [1, 2]
    assert all(reply["continues"] for reply in replies)


async def test_a_watch_behind_one_that_waits_begins_at_its_turn(talker: Talker, service: ToyService) -> None:
    service.news = [News(changes=())]
    talker.say(allocate(inode=WAITS), call(WATCH, {"interval_ms": 100}, more=True))
    await asyncio.sleep(0.3)
    assert service.news
    service.waiting[0].set_result(service.key(0, 8))
    assert "continues" not in await talker.hear()
    assert (await talker.hear())["continues"]


async def test_a_watch_without_more_is_refused(talker: Talker) -> None:
    reply = await talker.ask(call(WATCH))
    assert reply == {"error": "org.varlink.service.ExpectedMore", "parameters": {}}


async def test_a_watch_does_not_pile_up_for_a_peer_that_does_not_read(path: str, service: ToyService) -> None:
    service.news = [News(changes=(Change("a", LONG_LINE * 500),)) for _ in range(50)]
    async with Talker(path) as talker:
        talker.stop_reading()
        talker.say(call(WATCH, {"interval_ms": 100}, more=True))
        await asyncio.sleep(1)
        assert len(service.news) >= 47
        talker.hang_up()


# Limits


async def test_a_peer_that_does_not_read_is_not_worked_for(path: str, service: ToyService) -> None:
    explain = call("io.bcached.Admin.Explain")
    async with Talker(path) as talker:
        talker.stop_reading()
        talker.say(explain * 2000, DESCRIBE)
        await asyncio.sleep(0.2)
        assert service.log == []
        talker.read_on()
        for _ in range(2000):
            assert outcome(await talker.hear()) == "ok"
        assert outcome(await talker.hear()) == "ok"


async def test_a_request_beyond_the_limit_gets_an_error_and_the_end(path: str) -> None:
    async with serving(path, SocketLimits(message_bytes=4096)), Talker(path) as talker:
        talker.say(DESCRIBE, b"x" * 5000)
        assert outcome(await talker.hear()) == "ok"
        reply = await talker.hear()
        assert reply["error"] == "io.bcached.Allocator.LimitExceeded"
        assert reply["parameters"]["limit"] == "message_bytes"
        assert reply["parameters"]["value"] > 4096
        assert await talker.hears_the_end()


async def test_a_request_beyond_the_limit_waits_for_its_turn_to_be_refused(path: str) -> None:
    async with serving(path, SocketLimits(message_bytes=4096)) as (_, service), Talker(path) as talker:
        talker.say(allocate(inode=WAITS), b"x" * 5000)
        await until(lambda: service.waiting)
        assert await talker.hears_nothing_for(0.05)
        service.waiting[0].set_result(service.key(0, 8))
        assert [outcome(await talker.hear()) for _ in range(2)] == ["ok", "LimitExceeded"]
        assert await talker.hears_the_end()


async def test_one_mebibyte_is_the_limit(talker: Talker) -> None:
    space = b" " * ((1 << 20) - len(DESCRIBE) + 1)
    assert outcome(await talker.ask(DESCRIBE[:-1] + space + b"\0")) == "ok"
    assert outcome(await talker.ask(DESCRIBE[:-1] + space + b" \0")) == "LimitExceeded"


async def test_a_reply_beyond_four_mebibytes_is_refused(talker: Talker) -> None:
    reply = await talker.ask(call("io.bcached.Admin.ListVolumes"))
    assert reply["error"] == "io.bcached.Admin.LimitExceeded"
    assert reply["parameters"]["limit"] == "reply_bytes"


async def test_connections_beyond_the_limit_are_told_so(path: str) -> None:
    async with serving(path, SocketLimits(connections=2)), Talker(path) as first, Talker(path) as second:
        assert outcome(await first.ask(DESCRIBE)) == "ok"
        assert outcome(await second.ask(DESCRIBE)) == "ok"
        async with Talker(path) as third:
            reply = await third.hear()
            assert reply["error"] == "io.bcached.Allocator.LimitExceeded"
            assert reply["parameters"] == {"limit": "connections", "value": 3}
            assert await third.hears_the_end()
        second.hang_up()
        assert outcome(await first.ask(DESCRIBE)) == "ok"
        await asyncio.sleep(0.05)
        async with Talker(path) as fourth:
            assert outcome(await fourth.ask(DESCRIBE)) == "ok"


async def test_half_a_message_does_not_stay_half_for_ever(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcached.service.socket.socket_server.SWEEP_S", 0.02)
    monkeypatch.setattr("bcached.service.socket.connection.PARTIAL_PATIENCE_S", 0.1)
    async with serving(path), Talker(path) as slow, Talker(path) as idle:
        slow.say(b'{"method":')
        reply = await slow.hear()
        assert reply["parameters"]["limit"] == "seconds_for_a_message"
        assert await slow.hears_the_end()
        assert outcome(await idle.ask(DESCRIBE)) == "ok"


async def test_running_out_of_descriptors_is_survived_quietly(
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("bcached.service.socket.acceptor.ACCEPT_RETRY_S", 0.1)
    async with serving(path), Talker(path) as before:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = socket.socket(socket.AF_UNIX)
        waiting.setblocking(False)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, hard))
            waiting.connect(path)
            await asyncio.sleep(0.45)
            assert outcome(await before.ask(DESCRIBE)) == "ok"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(waiting, DESCRIBE)
        assert b"parameters" in await loop.sock_recv(waiting, 10_000)
        waiting.close()
    said = capsys.readouterr()
    lines = said.out.count("cannot accept") + said.err.count("cannot accept") + len(caplog.records)
    assert 1 <= lines <= 8


# The end of a connection


async def test_half_a_message_at_the_end_is_dropped_without_a_word(
    talker: Talker, service: ToyService
) -> None:
    talker.say(DESCRIBE, DESCRIBE[:20])
    talker.writer.write_eof()
    assert outcome(await talker.hear()) == "ok"
    assert await talker.hears_the_end()
    await until(lambda: len(service.gone) == 1)


async def test_a_half_closed_connection_still_gets_its_replies(talker: Talker, service: ToyService) -> None:
    talker.say(allocate(inode=WAITS), DESCRIBE)
    talker.writer.write_eof()
    await until(lambda: service.waiting)
    await asyncio.sleep(0.05)
    service.waiting[0].set_result(service.key(0, 8))
    assert [outcome(await talker.hear()) for _ in range(2)] == ["ok", "ok"]
    assert await talker.hears_the_end()


async def test_a_half_closed_connection_whose_peer_dies_ends(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcached.service.socket.socket_server.SWEEP_S", 0.02)
    async with serving(path) as (_, service):
        async with Talker(path) as talker:
            talker.say(allocate(inode=WAITS))
            talker.writer.write_eof()
            await until(lambda: service.waiting)
            await asyncio.sleep(0.05)
            assert not service.gone
        await until(lambda: service.gone)
        assert service.waiting[0].cancelled()


@pytest.mark.parametrize("reads", [True, False])
async def test_a_peer_that_dies_while_it_is_not_read_gives_its_turn_up(
    path: str, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    monkeypatch.setattr("bcached.service.socket.socket_server.SWEEP_S", 0.02)
    async with serving(path) as (_, service):
        async with Talker(path) as talker:
            talker.say(allocate(inode=WAITS), *[DESCRIBE] * (2 * REQUESTS_BEHIND_MAX))
            await until(lambda: len(service.log) > REQUESTS_BEHIND_MAX)
            if not reads:
                talker.say(*[DESCRIBE] * 20_000)
            await asyncio.sleep(0.05)
            assert not service.gone
            talker.hang_up()
        await until(lambda: service.gone)
        assert service.waiting[0].cancelled()


COMMITS = [commit(8 * number, durable=False) for number in range(50)]
COMMITTED = [f"commit {8 * number}" for number in range(50)]
EXPLAIN = call("io.bcached.Admin.Explain")


def made_of(service: ToyService) -> list[str]:
    return [line for line in service.log if line.startswith("commit")]


async def test_what_a_peer_has_sent_before_it_left_is_run(path: str, service: ToyService) -> None:
    for count in (0, 1, 20, 1000):
        service.gone.clear()
        service.log.clear()
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(path)
            peer.sendall(DESCRIBE * count + b"".join(COMMITS))  # less than a socket has room for
        await until(lambda: service.gone)
        assert made_of(service) == COMMITTED


@contextlib.asynccontextmanager
async def unread_commits(path: str, server: SocketServer) -> AsyncIterator[socket.socket]:
    """A peer whose commits the server does not read, since it reads no replies."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        peer.sendall(EXPLAIN * 1000)
        await until(lambda: any(one._sender.is_write_paused for one in server._connections))
        peer.sendall(b"".join(COMMITS))
        await asyncio.sleep(0.02)
        yield peer


async def test_so_is_what_was_not_read_when_a_reply_could_not_be_sent(
    path: str, server: SocketServer, service: ToyService
) -> None:
    async with unread_commits(path, server):
        assert not made_of(service)
    await until(lambda: service.gone)
    assert made_of(service) == COMMITTED
    assert not server._connections


async def test_what_waits_when_its_peer_leaves_ends_and_so_does_what_is_in_order_behind_it(
    path: str, service: ToyService
) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        peer.sendall(COMMITS[0] + commit(8, WAITS) + COMMITS[2] + allocate(inode=WAITS))
    await until(lambda: service.gone)
    assert made_of(service) == COMMITTED[:1]
    assert all(future.cancelled() for future in service.waiting)


async def test_what_has_not_run_is_dropped_when_the_server_closes_the_connection(
    path: str, server: SocketServer, service: ToyService
) -> None:
    async with unread_commits(path, server):
        (connection,) = server._connections
        connection.abort()
    await until(lambda: service.gone)
    assert not made_of(service)


async def test_a_peer_that_left_does_not_outlive_the_server(path: str) -> None:
    async with serving(path) as (server, service):
        async with unread_commits(path, server):
            pass
        await until(lambda: any(one._has_left for one in server._connections))
        server.drain()
    assert len(service.gone) == 1


async def test_many_clients_dying_at_any_moment_leave_nothing(path: str) -> None:
    async def one(number: int) -> None:
        async with Talker(path) as talker:
            inode = WAITS if number % 4 == 0 else 1
            talker.say(*(allocate(8 * index, inode=inode) for index in range(number)), DESCRIBE[: number % 9])
            if number % 3 == 0:
                await asyncio.sleep(0)
            elif number % 3 == 1 and inode == 1:
                for _ in range(number // 2):
                    assert outcome(await talker.hear()) == "ok"
            talker.hang_up()

    async with serving(path) as (server, service), Talker(path) as survivor:
        await asyncio.gather(*(one(number) for number in range(1, 65)))
        await until(lambda: len(service.gone) == 64)
        assert server.statistics().connections == 1
        assert all(future.cancelled() for future in service.waiting)
        assert outcome(await survivor.ask(DESCRIBE)) == "ok"


# Bugs, draining, counting


async def test_a_bug_in_a_method_ends_the_server(path: str) -> None:
    async def meet_a_bug() -> None:
        async with serving(path), Talker(path) as talker:
            talker.say(allocate(inode=BUG))
            await asyncio.sleep(20)

    with pytest.raises(ExceptionGroup) as caught:
        await meet_a_bug()
    assert caught.group_contains(AssertionError, match="a bug")


async def test_a_bug_in_a_task_of_a_method_ends_the_server(path: str) -> None:
    async def meet_a_bug() -> None:
        async with serving(path) as (_, service), Talker(path) as talker:
            service.collections = -1
            service.may_collect.set()
            talker.say(call("io.bcached.Admin.CollectGarbage"))
            await asyncio.sleep(20)

    with pytest.raises(ExceptionGroup) as caught:
        await meet_a_bug()
    assert caught.group_contains(AssertionError, match="a bug in a task")


async def test_a_bug_in_what_waited_ends_the_server(path: str) -> None:
    async def meet_a_bug() -> None:
        async with serving(path) as (_, service), Talker(path) as talker:
            talker.say(allocate(inode=WAITS))
            await until(lambda: service.waiting)
            service.waiting[0].set_exception(AssertionError("a bug in the set"))
            await asyncio.sleep(20)

    with pytest.raises(ExceptionGroup) as caught:
        await meet_a_bug()
    assert caught.group_contains(AssertionError, match="a bug in the set")


async def test_draining_refuses_changes_and_answers_what_waits(
    talker: Talker, server: SocketServer, path: str
) -> None:
    talker.say(allocate(inode=WAITS), DESCRIBE)
    await asyncio.sleep(0.02)
    server.drain()
    assert [outcome(await talker.hear()) for _ in range(2)] == ["ShuttingDown", "ok"]
    assert outcome(await talker.ask(allocate())) == "ShuttingDown"
    assert outcome(await talker.ask(call(WATCH, more=True))) == "ShuttingDown"
    assert outcome(await talker.ask(DESCRIBE)) == "ok"
    with pytest.raises(ConnectionRefusedError):
        async with Talker(path):
            pass


async def test_draining_ends_a_watch_with_a_last_reply(
    talker: Talker, server: SocketServer, service: ToyService
) -> None:
    service.news = [News(changes=())]
    talker.say(call(WATCH, more=True))
    assert (await talker.hear())["continues"]
    server.drain()
    assert await talker.hear() == {"error": "io.bcached.Monitor.ShuttingDown", "parameters": {}}


async def test_stopping_sends_what_is_written_and_closes(path: str) -> None:
    async with serving(path):
        talker = Talker(path)
        await talker.__aenter__()
        talker.say(allocate(inode=WAITS), *(DESCRIBE for _ in range(100)))
        await asyncio.sleep(0.05)
    replies = (await talker.reader.read()).split(b"\0")[:-1]
    assert [outcome(json.loads(reply)) for reply in replies] == ["ShuttingDown"] + ["ok"] * 100
    await talker.__aexit__()


async def test_stopping_does_not_wait_for_a_peer_that_does_not_read(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcached.service.socket.socket_server.LAST_REPLIES_S", 0.1)
    async with patience(20), contextlib.AsyncExitStack() as stack:
        async with serving(path):
            talker = await stack.enter_async_context(Talker(path))
            talker.stop_reading()
            talker.say(call("io.bcached.Admin.Explain") * 50)
            await asyncio.sleep(0.05)
        talker.hang_up()


async def test_requests_errors_and_durations_are_counted_by_method(
    talker: Talker, server: SocketServer
) -> None:
    talker.say(
        allocate(), allocate(), allocate(inode=FAILS), DESCRIBE, b"nonsense\0", allocate(inode=WAITS), RELEASE
    )
    for _ in range(7):
        await talker.hear()
    statistics = server.statistics()
    name = "io.bcached.Allocator."
    assert statistics.connections == 1
    assert {key: value for key, value in statistics.requests.items() if value} == {
        f"{name}Allocate": 4,
        f"{name}Release": 1,
        f"{name}Describe": 1,
        "unknown": 1,
    }
    assert {key: value for key, value in statistics.errors.items() if value} == {
        f"{name}Allocate": 1,
        "unknown": 1,
    }
    durations = statistics.durations[f"{name}Allocate"]
    assert sum(durations.counts) == 4
    assert 0 < durations.sum_s < 5
    assert len(durations.counts) == len(durations.bounds_s) + 1


async def test_an_error_is_named_in_the_interface_that_was_called(talker: Talker) -> None:
    reply = await talker.ask(allocate(inode=FAILS))
    assert reply == {
        "error": "io.bcached.Allocator.NoFreeBuckets",
        "parameters": {"reserve": "none", "waited_ms": 0},
    }


async def test_an_inherited_listening_socket_serves(path: str) -> None:
    inherited = socket.socket(socket.AF_UNIX)
    inherited.bind(path)
    inherited.listen()
    service = ToyService()
    async with SocketServer(service, EVERYBODY, SocketLimits()) as server:
        server.listen(socket.socket(fileno=os.dup(inherited.fileno())))
        inherited.close()
        async with Talker(path) as talker:
            assert outcome(await talker.ask(DESCRIBE)) == "ok"


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_asked_in_whatever_pieces_is_answered_in_order(path: str, seed: int) -> None:
    """Each kind of message has the outcome it must have, while another client lets go those that wait."""
    kinds = [
        (allocate(), "ok"),
        (allocate(inode=FAILS), "NoFreeBuckets"),
        (allocate(inode=WAITS), "ok"),
        (allocate(oneway=True), None),
        (allocate(inode=WAITS, oneway=True), None),
        (DESCRIBE, "ok"),
        (b"nonsense\0", "InvalidParameter"),
        (call("Nothing"), "MethodNotFound"),
        (allocate(offset=-1), "InvalidParameter"),
        (call("io.bcached.Admin.Explain"), "ok"),
        (call(WATCH), "ExpectedMore"),
    ]
    chance = random.Random(seed)
    asked = chance.choices(kinds, weights=[20, 3, 2, 3, 1, 3, 1, 1, 1, 1, 1], k=400)
    stream = b"".join(message for message, _ in asked)
    async with serving(path) as (server, service), Talker(path) as talker, Talker(path) as helper:

        async def help_now_and_then() -> None:
            while True:
                await asyncio.sleep(0.005)
                if service.waiting:
                    await helper.ask(RELEASE)

        helping = asyncio.create_task(help_now_and_then())
        while stream:
            cut = chance.choice([1, 7, 100, 3000])
            talker.say(stream[:cut])
            stream = stream[cut:]
            await asyncio.sleep(0)
        for _, expected in asked:
            if expected is not None:
                assert outcome(await talker.hear()) == expected
        helping.cancel()
        assert sum(server.statistics().requests.values()) >= len(asked)
