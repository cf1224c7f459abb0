# SPDX-License-Identifier: GPL-2.0-only
import asyncio

from bcached.service.requests.method import Last, Operation, Stream
from bcached.service.users.access import Role
from bcached.wire.admin_messages import Change, News
from bcached.wire.messages import Done
from bcached.wire.methods import METHODS
from instruments.clients.pipeline_bench import PipelineBench, allocate, settled
from instruments.clients.talker import call
from instruments.clients.toy_service import WAITS
from instruments.time.virtual_time import in_virtual_time

NAME = "io.bcached.Monitor.Watch"
WATCH = call(NAME, {"interval_ms": 100}, more=True)


def news(*values: int) -> list[News]:
    return [News(changes=(Change("a", value),)) for value in values]


class Source:
    """A stream of these items, and whether it was closed."""

    def __init__(self, *items: News | Last | Exception | None) -> None:
        self.items = list(items)
        self.closed = 0

    def following(self) -> News | Last | None:
        item = self.items.pop(0) if self.items else None
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self.closed += 1

    def watched_by(self, it: PipelineBench) -> None:
        stream = Stream(self.following, 0.1, self.close)
        it.service.operations = {
            **it.service.operations,
            METHODS[NAME].request: Operation(Role.READER, lambda *_: stream, streams=True),
        }
        it.run(WATCH)


@in_virtual_time
async def test_news_is_sent_at_once_and_then_at_intervals() -> None:
    it = PipelineBench()
    it.service.news = news(1, 2)
    it.run(WATCH)
    assert [reply["continues"] for write in it.replies() for reply in write] == [True]
    await asyncio.sleep(0.09)
    assert it.replies() == []
    await asyncio.sleep(0.02)
    assert [len(write) for write in it.replies()] == [1]
    await asyncio.sleep(1)
    assert (it.replies(), it.is_idle) == ([], False)
    it.pipeline.abort()


@in_virtual_time
async def test_a_stream_behind_one_that_waits_is_polled_from_its_turn_on() -> None:
    it = PipelineBench()
    it.service.news = news(1)
    it.run(allocate(0, WAITS), WATCH)
    await asyncio.sleep(1)
    assert len(it.service.news) == 1
    it.service.waiting[0].set_result(it.service.key(0, 8))
    await settled()
    assert (len(it.replies()), it.service.news) == (2, [])
    it.pipeline.abort()


@in_virtual_time
async def test_it_is_not_polled_while_the_peer_does_not_read() -> None:
    it = PipelineBench()
    it.run(WATCH)
    it.sender.is_write_paused = True
    it.service.news = news(1)
    await asyncio.sleep(1)
    assert len(it.service.news) == 1
    it.sender.is_write_paused = False
    await asyncio.sleep(0.11)
    assert (len(it.replies()), it.service.news) == (1, [])
    it.pipeline.abort()


@in_virtual_time
async def test_the_last_results_end_it_and_let_what_is_behind_it_pass() -> None:
    it, source = PipelineBench(), Source(News(), None, Last(Done()))
    source.watched_by(it)
    it.run(allocate(8))
    assert [len(write) for write in it.replies()] == [1]
    await asyncio.sleep(1)
    assert [len(write) for write in it.replies()] == [2]
    assert (source.closed, it.progress, it.is_idle) == (1, 1, True)


@in_virtual_time
async def test_one_behind_another_begins_when_that_ends() -> None:
    it = PipelineBench()
    first, second = Source(Last(Done())), Source(News())
    first.items.insert(0, None)
    first.watched_by(it)
    second.watched_by(it)
    assert second.items
    await asyncio.sleep(1)
    assert ([len(write) for write in it.replies()], second.items, second.closed) == ([1, 1], [], 0)
    it.pipeline.abort()
    assert (first.closed, second.closed) == (1, 1)


@in_virtual_time
async def test_stopping_refuses_every_stream_and_closes_it_once() -> None:
    it, source, behind = PipelineBench(), Source(), Source()
    source.watched_by(it)
    behind.watched_by(it)
    it.pipeline.give_up_waiting()
    assert (it.outcomes(), source.closed, behind.closed) == (["ShuttingDown"] * 2, 1, 1)
    await asyncio.sleep(1)
    assert (it.writes, it.progress, it.is_idle) == ([], 1, True)


@in_virtual_time
async def test_a_bug_in_a_stream_is_reported_and_it_is_polled_no_more() -> None:
    it, source = PipelineBench(), Source(ZeroDivisionError(), News())
    source.watched_by(it)
    await asyncio.sleep(1)
    assert ([type(bug) for bug in it.bugs], len(source.items), it.writes) == ([ZeroDivisionError], 1, [])
    it.pipeline.abort()
    assert source.closed == 1
