# SPDX-License-Identifier: GPL-2.0-only
import asyncio

from instruments.clients.pipeline_bench import PipelineBench, allocate, commit, lookup, settled
from instruments.clients.talker import outcome
from instruments.clients.toy_service import WAITS


async def test_replies_to_requests_that_stop_waiting_together_are_sent_by_one_write() -> None:
    it = PipelineBench()
    it.run(*[allocate(offset, WAITS) for offset in range(0, 32, 8)], lookup())
    for offset, future in zip((8, 0, 16), [it.service.waiting[number] for number in (1, 0, 2)], strict=True):
        future.set_result(it.service.key(offset, 8))
    await settled()
    assert [[outcome(reply) for reply in write] for write in it.replies()] == [["ok"] * 3]
    assert (it.progress, it.is_idle) == (1, False)
    it.service.waiting[3].set_result(it.service.key(24, 8))
    await settled()
    assert [len(write) for write in it.replies()] == [2]
    assert (it.progress, it.is_idle, it.held_bytes) == (2, True, 0)


async def test_what_waits_to_be_sent_is_not_sent_once_it_is_aborted() -> None:
    it = PipelineBench()
    it.run(allocate(0, WAITS), allocate(8, WAITS))
    it.service.waiting[0].set_result(it.service.key(0, 8))
    it.service.waiting[0].add_done_callback(lambda _: it.pipeline.abort())
    await settled()
    assert (it.writes, it.bugs, it.progress, it.held_bytes) == ([], [], 0, 0)


async def test_a_lone_reply_is_sent_at_once_and_others_together_with_what_was_deferred() -> None:
    it = PipelineBench()
    it.run(allocate(0, WAITS))
    it.service.waiting[0].set_result(it.service.key(0, 8))
    await asyncio.sleep(0)
    assert ([len(write) for write in it.replies()], it.progress) == ([1], 1)
    it.run(commit(8, WAITS, durable=False), lookup(16), commit(24, durable=False))
    it.service.may_commit.release()
    await settled()
    assert ([len(write) for write in it.replies()], it.progress) == ([3], 2)


async def test_a_request_that_runs_before_what_is_ready_is_sent_is_answered_with_it() -> None:
    it = PipelineBench()
    it.run(allocate(0, WAITS), allocate(8))
    it.service.waiting[0].add_done_callback(lambda _: it.run(allocate(16)))
    it.service.waiting[0].set_result(it.service.key(0, 8))
    await settled()
    assert ([len(write) for write in it.replies()], it.is_idle) == ([3], True)


async def test_a_bug_in_sending_is_reported() -> None:
    def fail(_: bytes) -> None:
        raise ZeroDivisionError

    it = PipelineBench()
    it.run(allocate(0, WAITS))
    it.sender.write = fail
    it.service.waiting[0].set_result(it.service.key(0, 8))
    await settled()
    assert ([type(bug) for bug in it.bugs], it.progress) == ([ZeroDivisionError], 0)


async def test_closed_it_has_no_slots_and_discards_what_is_sent() -> None:
    it = PipelineBench()
    it.run(allocate(0, WAITS), allocate(8))
    assert [slot.kind.__name__ for slot in it.sender.close()] == ["Allocate", "Allocate"]
    it.sender.send_ready()
    it.sender.write(b"more")
    assert (it.writes, it.progress, it.is_idle) == ([], 0, True)
