# SPDX-License-Identifier: GPL-2.0-only
"""Blocking calls in threads: none outlives the await of its caller."""

import asyncio
import threading
from functools import partial

import pytest
from aiofiles.os import wrap

from bcached.device.io_threads import IoThreads, ended


class Call:
    """A blocking call that ends when it is allowed to."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.done = False

    def run(self, result: int = 0) -> int:
        self.begun.set()
        assert self.may_end.wait(10)
        self.done = True
        return result


async def begun(call: Call) -> None:
    await asyncio.to_thread(call.begun.wait, 10)


@pytest.fixture
def threads() -> IoThreads:
    return IoThreads("test", 1)


async def test_a_call_returns_its_result_or_raises_its_error(threads: IoThreads) -> None:
    call = Call()
    call.may_end.set()
    assert await threads.run(wrap(call.run), 7) == 7
    with pytest.raises(ZeroDivisionError):
        await threads.run(wrap(lambda: 1 // 0))
    await asyncio.to_thread(threads.drain)


async def test_a_cancelled_call_that_runs_is_waited_for_even_if_cancelled_again(threads: IoThreads) -> None:
    call = Call()
    running = asyncio.create_task(threads.run(wrap(call.run)))
    await begun(call)
    for _ in range(3):
        running.cancel()
        await asyncio.sleep(0)
    assert not running.done()
    call.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert call.done
    await asyncio.to_thread(threads.drain)


async def test_a_cancelled_call_that_has_not_begun_is_dropped(threads: IoThreads) -> None:
    first, second = Call(), Call()
    running = asyncio.create_task(threads.run(wrap(first.run)))
    await begun(first)
    waiting = asyncio.create_task(threads.run(wrap(second.run)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    first.may_end.set()
    await running
    await asyncio.to_thread(threads.drain)
    assert not second.begun.is_set()


async def test_the_last_call_runs_after_all_others_and_is_waited_for_when_cancelled(
    threads: IoThreads,
) -> None:
    call, order = Call(), list[str]()
    running = asyncio.create_task(threads.run(wrap(call.run)))
    await begun(call)
    last = threads.run_last(partial(order.append, "last"))
    waiting = asyncio.create_task(ended(last))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    assert order == []
    call.may_end.set()
    await running
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert order == ["last"]
    with pytest.raises(RuntimeError):
        threads.run_last(lambda: None)
