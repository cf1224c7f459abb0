# SPDX-License-Identifier: GPL-2.0-only
"""A pipeline by itself, on the operations of the toy service: bytes in, writes out."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest

from bcached.errors import DeviceFailed
from bcached.service.socket.access import Role
from bcached.service.socket.method import Operation
from bcached.service.socket.peer import Peer
from bcached.service.socket.pipeline import BATCH_REQUESTS, EARLY_REQUESTS, IDLE_NS, RequestPipeline
from bcached.service.socket.reply_queue import REQUESTS_BEHIND_MAX
from bcached.service.socket.request_counts import RequestCounts
from bcached.service.socket.turns import Turns
from bcached.wire.codec import decode_requests
from bcached.wire.methods import Request
from instruments.clients.talker import call, outcome
from instruments.clients.toy_service import BUG, FAILS, WAITS, ToyService

KEY = {
    "inode": 1,
    "offset": 0,
    "sectors": 8,
    "dirty": False,
    "pointers": [{"device": 0, "sector": 0, "gen": 0}],
}


class Bench:
    """A server for one pipeline, whose writes it keeps."""

    def __init__(self, role: Role = Role.ADMIN) -> None:
        self.service = ToyService()
        self.counts = RequestCounts()
        self.turns = Turns(lambda _: None, lambda: 0)
        self.turns.run_ns = 1 << 63
        self.draining = False
        self.bugs: list[Exception] = []
        self.writes: list[bytes] = []
        self.progress = 0
        session = self.service.open_session(Peer(1, 0, frozenset()), role)
        self.pipeline = RequestPipeline(self, session, self._count_progress)
        self.pipeline.write = self.writes.append
        self.at_once: list[bytes] = []
        self.pipeline.write_at_once = self.at_once.append

    def operation_of(self, kind: type[Request]) -> Operation:
        return self.service.operations[kind]

    def ready_operations(self, role: Role) -> dict[type, Operation]:
        operations = self.service.operations.items()
        return {kind: it for kind, it in operations if it.brief and role >= it.role}

    def spawn(self, coroutine: Coroutine[Any, Any, Any], cancellable: bool) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().create_task(coroutine)

    def fail(self, error: Exception) -> None:
        self.bugs.append(error)

    def _count_progress(self) -> None:
        self.progress += 1

    def run(self, *messages: bytes) -> int:
        block = b"".join(messages)
        return self.pipeline.run(decode_requests(block), 0, block)

    def replies(self) -> list[list[Any]]:
        """What was written since the last call, each write by itself."""
        written, self.writes[:] = self.writes[:], []
        return [[json.loads(reply) for reply in write.split(b"\0")[:-1]] for write in written]

    def outcomes(self) -> list[str]:
        return [outcome(reply) for write in self.replies() for reply in write]


def allocate(offset: int = 0, inode: int = 0, **more: Any) -> bytes:
    return call("Allocate", {"inode": inode, "offset": offset, "sectors": 8}, **more)


def commit(offset: int = 8, inode: int = 0, **more: Any) -> bytes:
    return call("Commit", {"keys": [{**KEY, "offset": offset, "inode": inode}], **more})


def lookup(offset: int = 0, sectors: int = 8) -> bytes:
    return call("Lookup", {"inode": 0, "offset": offset, "sectors": sectors})


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_brief_requests_are_answered_by_one_write() -> None:
    it = Bench()
    assert it.run(allocate(0), lookup(8), allocate(16)) == 3
    assert [len(write) for write in it.replies()] == [3]
    assert it.pipeline.is_idle


async def test_a_write_answers_a_limited_number_of_requests() -> None:
    it = Bench()
    it.run(*map(allocate, range(BATCH_REQUESTS)))
    assert [len(write) for write in it.replies()] == [BATCH_REQUESTS]
    it.run(*map(allocate, range(2 * BATCH_REQUESTS + 1)))
    assert [len(write) for write in it.replies()] == [BATCH_REQUESTS, BATCH_REQUESTS, 1]


@pytest.mark.parametrize("count", [EARLY_REQUESTS, EARLY_REQUESTS + 1, 3 * BATCH_REQUESTS])
async def test_the_first_half_of_many_that_were_waited_for_is_answered_at_once(count: int) -> None:
    it = Bench()
    block = b"".join(map(allocate, range(count)))
    assert it.pipeline.run(decode_requests(block), IDLE_NS + 1, block) == count
    early = [len(write.split(b"\0")) - 1 for write in it.at_once]
    assert early == [min(count // 2, BATCH_REQUESTS)]
    assert sum(map(len, it.replies())) == count - early[0]


async def test_nothing_is_answered_at_once_where_the_server_was_busy_or_there_is_little() -> None:
    for count, busy_until_ns in ((EARLY_REQUESTS, 1), (EARLY_REQUESTS - 1, 0)):
        it = Bench()
        it.turns.busy_until_ns = busy_until_ns
        block = b"".join(map(allocate, range(count)))
        it.pipeline.run(decode_requests(block), IDLE_NS + 1, block)
        assert (it.at_once, [len(write) for write in it.replies()]) == ([], [count])


async def test_nothing_is_answered_at_once_behind_one_that_waits() -> None:
    it = Bench()
    block = b"".join([allocate(0, WAITS), *map(allocate, range(EARLY_REQUESTS))])
    it.pipeline.run(decode_requests(block), IDLE_NS + 1, block)
    it.service.waiting[0].set_result(it.service.key(0, 8))
    await settled()
    assert it.run(allocate(0)) == 1
    assert (it.at_once, len(it.outcomes())) == ([], EARLY_REQUESTS + 2)


async def test_a_refused_brief_request_is_answered_with_the_others() -> None:
    it = Bench()
    assert it.run(allocate(), allocate(inode=FAILS), allocate()) == 3
    assert it.outcomes() == ["ok", "NoFreeBuckets", "ok"]
    assert it.counts.of(type(decode_requests(allocate())[0])).errors == 1


async def test_a_long_result_is_written_by_itself() -> None:
    it = Bench()
    assert it.run(lookup(), lookup(sectors=16), lookup()) == 3
    assert [len(write) for write in it.replies()] == [1, 1, 1]


async def test_replies_wait_behind_a_request_that_waits() -> None:
    it = Bench()
    assert it.run(allocate(0), allocate(8, WAITS), allocate(16)) == 3
    assert it.outcomes() == ["ok"]
    assert (it.progress, it.pipeline.is_idle) == (0, False)
    it.service.waiting[0].set_result(it.service.key(8, 8))
    await settled()
    assert [len(write) for write in it.replies()] == [2]
    assert (it.progress, it.pipeline.is_idle) == (1, True)


async def test_replies_to_requests_that_stop_waiting_together_are_sent_by_one_write() -> None:
    it = Bench()
    it.run(*[allocate(offset, WAITS) for offset in range(0, 32, 8)], lookup())
    for offset, future in zip((8, 0, 16), [it.service.waiting[number] for number in (1, 0, 2)], strict=True):
        future.set_result(it.service.key(offset, 8))
    await settled()
    assert [[outcome(reply) for reply in write] for write in it.replies()] == [["ok"] * 3]
    assert (it.progress, it.pipeline.is_idle) == (1, False)
    it.service.waiting[3].set_result(it.service.key(24, 8))
    await settled()
    assert [len(write) for write in it.replies()] == [2]
    assert (it.progress, it.pipeline.is_idle, it.pipeline.held_bytes) == (2, True, 0)


async def test_what_waits_to_be_sent_is_not_sent_once_it_is_aborted() -> None:
    it = Bench()
    it.run(allocate(0, WAITS), allocate(8, WAITS))
    it.service.waiting[0].set_result(it.service.key(0, 8))
    it.service.waiting[0].add_done_callback(lambda _: it.pipeline.abort())
    await settled()
    assert (it.writes, it.bugs, it.progress, it.pipeline.held_bytes) == ([], [], 0, 0)


async def test_oneway_requests_run_without_end_behind_one_that_waits_for_them() -> None:
    it = Bench()
    it.run(allocate(inode=WAITS))
    release = call("Release", {"keys": []}, oneway=True)
    for _ in range(REQUESTS_BEHIND_MAX + 1):
        assert it.run(allocate(oneway=True)) == 1
    assert it.run(release) == 1
    await settled()
    assert it.outcomes() == ["ok"]


async def test_a_full_queue_runs_nothing_more() -> None:
    it = Bench()
    it.run(allocate(inode=WAITS))
    assert it.pipeline.free_slots == REQUESTS_BEHIND_MAX
    block = [allocate(offset) for offset in range(REQUESTS_BEHIND_MAX + 5)]
    assert it.run(*block) == REQUESTS_BEHIND_MAX
    assert it.pipeline.is_blocked
    assert it.run(allocate()) == 0


async def test_while_the_peer_does_not_read_nothing_runs() -> None:
    it = Bench()
    it.pipeline.is_write_paused = True
    assert it.run(allocate()) == 0
    assert it.service.log == []


async def test_a_read_is_deferred_until_the_change_before_it_is_made() -> None:
    it = Bench()
    assert it.run(commit(8, WAITS, durable=False), lookup(16), commit(24, durable=False)) == 3
    assert it.service.log == []
    it.service.may_commit.release()
    await settled()
    assert it.service.log == ["commit 8", "lookup 16", "commit 24"]
    assert it.outcomes() == ["ok"] * 3
    assert it.progress == 1


async def test_nothing_is_deferred_behind_a_change_that_only_waits_to_be_durable() -> None:
    it = Bench()
    it.run(commit(8), lookup(16))
    assert it.service.log == ["commit 8", "lookup 16"]
    assert it.outcomes() == []
    it.service.journal[0].set_result(None)
    await settled()
    assert it.outcomes() == ["ok"] * 2


async def test_a_deferred_request_is_checked_again_when_it_runs() -> None:
    it = Bench()
    it.run(commit(0, WAITS), lookup(8), commit(16))
    it.pipeline.set_role(Role.READER)
    it.service.may_commit.release()
    await settled()
    assert it.service.log == ["lookup 8"]
    assert it.outcomes() == ["NotReserved", "ok", "PermissionDenied"]


async def test_a_request_without_permission_is_refused_in_order() -> None:
    it = Bench(Role.READER)
    assert it.run(lookup(), allocate(), lookup()) == 3
    assert it.outcomes() == ["ok", "PermissionDenied", "ok"]


async def test_a_message_that_is_no_request_is_refused_in_order() -> None:
    it = Bench()
    assert it.run(allocate(), b"{}\0", allocate()) == 3
    assert it.outcomes() == ["ok", "InvalidParameter", "ok"]


async def test_a_stream_needs_a_reader() -> None:
    it = Bench()
    it.run(call("io.bcached.Monitor.Watch"))
    assert it.outcomes() == ["ExpectedMore"]


async def test_a_reply_of_too_many_bytes_becomes_a_refusal() -> None:
    it = Bench()
    it.run(call("io.bcached.Admin.ListVolumes"))
    ((reply,),) = it.replies()
    assert outcome(reply) == "LimitExceeded"
    assert reply["error"] == "io.bcached.Admin.LimitExceeded"


async def test_stopping_refuses_what_waits_but_not_what_is_decided() -> None:
    it = Bench()
    it.run(commit(0), allocate(inode=WAITS), commit(8, WAITS), lookup())
    it.pipeline.give_up_waiting()
    await settled()
    assert it.outcomes() == []
    it.service.journal[0].set_result(None)
    await settled()
    assert it.outcomes() == ["ok", "ShuttingDown", "ShuttingDown", "ShuttingDown"]
    assert it.bugs == []


async def test_replies_to_requests_that_wait_for_one_thing_are_sent_by_one_write() -> None:
    it = Bench()
    it.service.journal_is_shared = True
    it.run(commit(0), commit(8), lookup(), commit(16))
    (recorded,) = set(it.service.journal)
    assert (it.outcomes(), it.progress) == ([], 0)
    recorded.set_result(None)
    await settled()
    assert [[outcome(reply) for reply in write] for write in it.replies()] == [["ok"] * 4]
    assert (it.progress, it.pipeline.is_idle, it.pipeline.held_bytes) == (1, True, 0)
    assert it.counts.of(type(decode_requests(commit())[0])).requests == 3


async def test_a_decided_request_behind_one_that_waits_is_answered_after_it() -> None:
    it = Bench()
    it.run(allocate(inode=WAITS), commit(0))
    it.service.journal[0].set_result(None)
    await settled()
    assert it.outcomes() == []
    it.service.waiting[0].set_result(it.service.key(0, 8))
    await settled()
    assert it.outcomes() == ["ok", "ok"]


async def test_if_what_decided_requests_wait_for_fails_each_is_refused() -> None:
    it = Bench()
    it.service.journal_is_shared = True
    it.run(commit(0), commit(8))
    it.service.journal[0].set_exception(DeviceFailed("sdb"))
    await settled()
    assert it.outcomes() == ["DeviceFailed", "DeviceFailed"]
    assert it.bugs == []


@pytest.mark.parametrize("closed", [False, True])
async def test_a_bug_in_what_decided_requests_wait_for_is_reported(closed: bool) -> None:
    it = Bench()
    it.run(commit(0))
    it.service.journal[0].set_exception(ZeroDivisionError())
    if closed:
        it.pipeline.abort()
    await settled()
    assert [type(bug) for bug in it.bugs] == [ZeroDivisionError]


async def test_an_aborted_pipeline_leaves_what_others_wait_for_too() -> None:
    it = Bench()
    it.run(commit(0))
    it.pipeline.abort()
    assert not it.service.journal[0].cancelled()
    it.service.journal[0].set_result(None)
    await settled()
    assert (it.writes, it.bugs, it.progress) == ([], [], 0)


async def test_aborted_it_cancels_what_waits_and_writes_nothing_more() -> None:
    it = Bench()
    it.run(allocate(inode=WAITS), commit(0, WAITS), lookup())
    it.pipeline.abort()
    assert it.service.waiting[0].cancelled()
    await settled()
    assert (it.writes, it.bugs, it.pipeline.held_bytes, it.progress) == ([], [], 0, 0)


@pytest.mark.parametrize("closed", [False, True])
async def test_a_bug_in_what_was_waited_for_is_reported(closed: bool) -> None:
    it = Bench()
    it.run(allocate(inode=WAITS))
    it.service.waiting[0].set_exception(ZeroDivisionError())
    if closed:
        it.pipeline.abort()
    await settled()
    assert [type(bug) for bug in it.bugs] == [ZeroDivisionError]
    assert it.progress == 0


async def test_a_bug_in_a_deferred_request_is_reported() -> None:
    it = Bench()
    it.run(commit(8, WAITS, durable=False), call("Commit", {"keys": []}))  # the toy wants one key
    it.service.may_commit.release()
    await settled()
    assert [type(bug) for bug in it.bugs] == [ValueError]
    assert it.progress == 0


def test_a_bug_in_a_request_is_the_callers_to_report() -> None:
    it = Bench()
    with pytest.raises(AssertionError, match="a bug"):
        it.run(allocate(inode=BUG))


def test_its_repr_shows_what_waits() -> None:
    it = Bench()
    it.pipeline.is_write_paused = True
    assert repr(it.pipeline) == (
        "<RequestPipeline admin: <ReplyQueue: 0 replies of 0 bytes behind nothing>, "
        "<InOrderRequests: no change and 0 reads run, 0 deferred>, writing is paused>"
    )
