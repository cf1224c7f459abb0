# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.errors import DeviceFailed
from bcached.wire.codec import decode_requests
from instruments.clients.pipeline_bench import PipelineBench, allocate, commit, lookup, settled
from instruments.clients.talker import outcome
from instruments.clients.toy_service import WAITS


async def test_replies_to_requests_that_wait_for_one_thing_are_sent_by_one_write() -> None:
    it = PipelineBench()
    it.service.journal_is_shared = True
    it.run(commit(0), commit(8), lookup(), commit(16))
    (recorded,) = set(it.service.journal)
    assert (it.outcomes(), it.progress) == ([], 0)
    recorded.set_result(None)
    await settled()
    assert [[outcome(reply) for reply in write] for write in it.replies()] == [["ok"] * 4]
    assert (it.progress, it.is_idle, it.held_bytes) == (1, True, 0)
    assert it.counts.of(type(decode_requests(commit())[0])).requests == 3


async def test_a_decided_request_behind_one_that_waits_is_answered_after_it() -> None:
    it = PipelineBench()
    it.run(allocate(inode=WAITS), commit(0))
    it.service.journal[0].set_result(None)
    await settled()
    assert it.outcomes() == []
    it.service.waiting[0].set_result(it.service.key(0, 8))
    await settled()
    assert it.outcomes() == ["ok", "ok"]


async def test_if_what_decided_requests_wait_for_fails_each_is_refused() -> None:
    it = PipelineBench()
    it.service.journal_is_shared = True
    it.run(commit(0), commit(8))
    it.service.journal[0].set_exception(DeviceFailed("sdb"))
    await settled()
    assert it.outcomes() == ["DeviceFailed", "DeviceFailed"]
    assert it.bugs == []


@pytest.mark.parametrize("closed", [False, True])
async def test_a_bug_in_what_decided_requests_wait_for_is_reported(closed: bool) -> None:
    it = PipelineBench()
    it.run(commit(0))
    it.service.journal[0].set_exception(ZeroDivisionError())
    if closed:
        it.pipeline.abort()
    await settled()
    assert [type(bug) for bug in it.bugs] == [ZeroDivisionError]


async def test_an_aborted_pipeline_leaves_what_others_wait_for_too() -> None:
    it = PipelineBench()
    it.run(commit(0))
    it.pipeline.abort()
    assert not it.service.journal[0].cancelled()
    it.service.journal[0].set_result(None)
    await settled()
    assert (it.writes, it.bugs, it.progress) == ([], [], 0)
