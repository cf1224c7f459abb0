# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.service.requests.pipeline import BATCH_REQUESTS, EARLY_REQUESTS, IDLE_NS
from bcached.service.requests.reply_queue import REQUESTS_BEHIND_MAX
from bcached.service.users.access import Role
from bcached.wire.codec import decode_requests
from instruments.clients.pipeline_bench import PipelineBench, allocate, commit, lookup, settled
from instruments.clients.talker import call, outcome
from instruments.clients.toy_service import BUG, FAILS, WAITS


async def test_brief_requests_are_answered_by_one_write() -> None:
    it = PipelineBench()
    assert it.run(allocate(0), lookup(8), allocate(16)) == 3
    assert [len(write) for write in it.replies()] == [3]
    assert it.is_idle


async def test_a_write_answers_a_limited_number_of_requests() -> None:
    it = PipelineBench()
    it.run(*map(allocate, range(BATCH_REQUESTS)))
    assert [len(write) for write in it.replies()] == [BATCH_REQUESTS]
    it.run(*map(allocate, range(2 * BATCH_REQUESTS + 1)))
    assert [len(write) for write in it.replies()] == [BATCH_REQUESTS, BATCH_REQUESTS, 1]


@pytest.mark.parametrize("count", [EARLY_REQUESTS, EARLY_REQUESTS + 1, 3 * BATCH_REQUESTS])
async def test_the_first_half_of_many_that_were_waited_for_is_answered_at_once(count: int) -> None:
    it = PipelineBench()
    block = b"".join(map(allocate, range(count)))
    assert it.pipeline.run(decode_requests(block), IDLE_NS + 1, block) == count
    early = [len(write.split(b"\0")) - 1 for write in it.at_once]
    assert early == [min(count // 2, BATCH_REQUESTS)]
    assert sum(map(len, it.replies())) == count - early[0]


async def test_nothing_is_answered_at_once_where_the_server_was_busy_or_there_is_little() -> None:
    for count, busy_until_ns in ((EARLY_REQUESTS, 1), (EARLY_REQUESTS - 1, 0)):
        it = PipelineBench()
        it.turns.busy_until_ns = busy_until_ns
        block = b"".join(map(allocate, range(count)))
        it.pipeline.run(decode_requests(block), IDLE_NS + 1, block)
        assert (it.at_once, [len(write) for write in it.replies()]) == ([], [count])


async def test_nothing_is_answered_at_once_behind_one_that_waits() -> None:
    it = PipelineBench()
    block = b"".join([allocate(0, WAITS), *map(allocate, range(EARLY_REQUESTS))])
    it.pipeline.run(decode_requests(block), IDLE_NS + 1, block)
    it.service.waiting[0].set_result(it.service.key(0, 8))
    await settled()
    assert it.run(allocate(0)) == 1
    assert (it.at_once, len(it.outcomes())) == ([], EARLY_REQUESTS + 2)


async def test_a_refused_brief_request_is_answered_with_the_others() -> None:
    it = PipelineBench()
    assert it.run(allocate(), allocate(inode=FAILS), allocate()) == 3
    assert it.outcomes() == ["ok", "NoFreeBuckets", "ok"]
    assert it.counts.of(type(decode_requests(allocate())[0])).errors == 1


async def test_a_long_result_is_written_by_itself() -> None:
    it = PipelineBench()
    assert it.run(lookup(), lookup(sectors=16), lookup()) == 3
    assert [len(write) for write in it.replies()] == [1, 1, 1]


async def test_replies_wait_behind_a_request_that_waits() -> None:
    it = PipelineBench()
    assert it.run(allocate(0), allocate(8, WAITS), allocate(16)) == 3
    assert it.outcomes() == ["ok"]
    assert (it.progress, it.is_idle) == (0, False)
    it.service.waiting[0].set_result(it.service.key(8, 8))
    await settled()
    assert [len(write) for write in it.replies()] == [2]
    assert (it.progress, it.is_idle) == (1, True)


async def test_oneway_requests_run_without_end_behind_one_that_waits_for_them() -> None:
    it = PipelineBench()
    it.run(allocate(inode=WAITS))
    release = call("Release", {"keys": []}, oneway=True)
    for _ in range(REQUESTS_BEHIND_MAX + 1):
        assert it.run(allocate(oneway=True)) == 1
    assert it.run(release) == 1
    await settled()
    assert it.outcomes() == ["ok"]


async def test_a_full_queue_runs_nothing_more() -> None:
    it = PipelineBench()
    it.run(allocate(inode=WAITS))
    assert it.sender.queue.free_slots == REQUESTS_BEHIND_MAX
    block = [allocate(offset) for offset in range(REQUESTS_BEHIND_MAX + 5)]
    assert it.run(*block) == REQUESTS_BEHIND_MAX
    assert it.sender.is_blocked
    assert it.run(allocate()) == 0


async def test_while_the_peer_does_not_read_nothing_runs() -> None:
    it = PipelineBench()
    it.sender.is_write_paused = True
    assert it.run(allocate()) == 0
    assert it.service.log == []


async def test_a_read_is_deferred_until_the_change_before_it_is_made() -> None:
    it = PipelineBench()
    assert it.run(commit(8, WAITS, durable=False), lookup(16), commit(24, durable=False)) == 3
    assert it.service.log == []
    it.service.may_commit.release()
    await settled()
    assert it.service.log == ["commit 8", "lookup 16", "commit 24"]
    assert it.outcomes() == ["ok"] * 3
    assert it.progress == 1


async def test_nothing_is_deferred_behind_a_change_that_only_waits_to_be_durable() -> None:
    it = PipelineBench()
    it.run(commit(8), lookup(16))
    assert it.service.log == ["commit 8", "lookup 16"]
    assert it.outcomes() == []
    it.service.journal[0].set_result(None)
    await settled()
    assert it.outcomes() == ["ok"] * 2


async def test_a_deferred_request_is_checked_again_when_it_runs() -> None:
    it = PipelineBench()
    it.run(commit(0, WAITS), lookup(8), commit(16))
    it.pipeline.set_role(Role.READER)
    it.service.may_commit.release()
    await settled()
    assert it.service.log == ["lookup 8"]
    assert it.outcomes() == ["NotReserved", "ok", "PermissionDenied"]


async def test_a_request_without_permission_is_refused_in_order() -> None:
    it = PipelineBench(Role.READER)
    assert it.run(lookup(), allocate(), lookup()) == 3
    assert it.outcomes() == ["ok", "PermissionDenied", "ok"]


async def test_a_message_that_is_no_request_is_refused_in_order() -> None:
    it = PipelineBench()
    assert it.run(allocate(), b"{}\0", allocate()) == 3
    assert it.outcomes() == ["ok", "InvalidParameter", "ok"]


async def test_a_stream_needs_a_reader() -> None:
    it = PipelineBench()
    it.run(call("io.bcached.Monitor.Watch"))
    assert it.outcomes() == ["ExpectedMore"]


async def test_a_reply_of_too_many_bytes_becomes_a_refusal() -> None:
    it = PipelineBench()
    it.run(call("io.bcached.Admin.ListVolumes"))
    ((reply,),) = it.replies()
    assert outcome(reply) == "LimitExceeded"
    assert reply["error"] == "io.bcached.Admin.LimitExceeded"


async def test_stopping_refuses_what_waits_but_not_what_is_decided() -> None:
    it = PipelineBench()
    it.run(commit(0), allocate(inode=WAITS), commit(8, WAITS), lookup())
    it.pipeline.give_up_waiting()
    await settled()
    assert it.outcomes() == []
    it.service.journal[0].set_result(None)
    await settled()
    assert it.outcomes() == ["ok", "ShuttingDown", "ShuttingDown", "ShuttingDown"]
    assert it.bugs == []


async def test_aborted_it_cancels_what_waits_and_writes_nothing_more() -> None:
    it = PipelineBench()
    it.run(allocate(inode=WAITS), commit(0, WAITS), lookup())
    it.pipeline.abort()
    assert it.service.waiting[0].cancelled()
    await settled()
    assert (it.writes, it.bugs, it.held_bytes, it.progress) == ([], [], 0, 0)


@pytest.mark.parametrize("closed", [False, True])
async def test_a_bug_in_what_was_waited_for_is_reported(closed: bool) -> None:
    it = PipelineBench()
    it.run(allocate(inode=WAITS))
    it.service.waiting[0].set_exception(ZeroDivisionError())
    if closed:
        it.pipeline.abort()
    await settled()
    assert [type(bug) for bug in it.bugs] == [ZeroDivisionError]
    assert it.progress == 0


async def test_a_bug_in_a_deferred_request_is_reported() -> None:
    it = PipelineBench()
    it.run(commit(8, WAITS, durable=False), call("Commit", {"keys": []}))  # the toy wants one key
    it.service.may_commit.release()
    await settled()
    assert [type(bug) for bug in it.bugs] == [ValueError]
    assert it.progress == 0


def test_a_bug_in_a_request_is_the_callers_to_report() -> None:
    it = PipelineBench()
    with pytest.raises(AssertionError, match="a bug"):
        it.run(allocate(inode=BUG))


def test_its_repr_shows_what_waits() -> None:
    it = PipelineBench()
    it.sender.is_write_paused = True
    assert repr(it.pipeline) == (
        "<RequestPipeline admin: <ReplyQueue: 0 replies of 0 bytes behind nothing>, "
        "<InOrderRequests: no change and 0 reads run, 0 deferred>, writing is paused>"
    )
