# SPDX-License-Identifier: GPL-2.0-only
"""Calls that share a hop to a thread: all are made, in order, and each caller learns of its own error."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from bcached.client.cache.shared_hops import AT_ONCE, SharedHops
from instruments.time.patience import patience


class CountingThreads(ThreadPoolExecutor):
    """Counts hops."""

    hops = 0

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> "Future[Any]":
        self.hops += 1
        return super().submit(call, *arguments, **named)


@pytest.fixture
def threads() -> Iterator[CountingThreads]:
    with CountingThreads(4) as pool:
        yield pool


async def test_calls_that_are_made_during_a_hop_share_the_next(threads: CountingThreads) -> None:
    made, may_go_on = list[int](), Event()

    def call(number: int) -> None:
        made.append(number)
        if not number:
            assert may_go_on.wait(60)
        if number == 3:
            raise KeyError(number)

    hops = SharedHops(call, lambda: threads)
    calls = [asyncio.create_task(hops.make(0))]
    async with patience(60):
        while not made:
            await asyncio.sleep(0.001)
    calls += [asyncio.create_task(hops.make(number)) for number in range(1, 3 * AT_ONCE)]
    calls[2].cancel()  # before it was made
    await asyncio.sleep(0)
    calls[4].cancel()  # it is in the queue, and is made
    may_go_on.set()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [number for number, one in enumerate(done) if one is not None] == [2, 3, 4]
    assert isinstance(done[3], KeyError)
    assert made == [number for number in range(3 * AT_ONCE) if number != 2]
    assert threads.hops == 3  # the first had all that fit


def test_another_loop_may_follow_one_that_ended_in_the_middle(threads: CountingThreads) -> None:
    began, may_go_on, made = Event(), Event(), list[str]()

    def call(name: str) -> None:
        began.set()
        assert may_go_on.wait(60)
        made.append(name)

    hops = SharedHops(call, lambda: threads)

    async def give_up() -> None:
        asyncio.create_task(hops.make("given up"))  # noqa: RUF006 - it ends with the loop
        while not began.is_set():
            await asyncio.sleep(0.001)

    async def follow() -> None:
        asyncio.get_running_loop().call_later(0.01, may_go_on.set)
        await asyncio.gather(*[hops.make("following") for _ in range(5)])

    asyncio.run(give_up())
    asyncio.run(follow())
    assert made.count("following") == 5
