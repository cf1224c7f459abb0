# SPDX-License-Identifier: GPL-2.0-only
import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bcached.client.cache.hop import in_thread


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def raising(error: BaseException) -> None:
    raise error


async def test_a_call_is_made_in_a_thread_and_its_result_or_error_is_the_callers(
    pool: ThreadPoolExecutor,
) -> None:
    assert await in_thread(pool, threading.get_ident) != threading.get_ident()
    with pytest.raises(KeyError, match="missing"):
        await in_thread(pool, lambda: raising(KeyError("missing")))
    with pytest.raises(SystemExit):
        await in_thread(pool, lambda: raising(SystemExit(1)))
    assert await asyncio.gather(*[in_thread(pool, lambda n=n: n) for n in range(50)]) == list(range(50))  # type: ignore[misc]


async def test_an_error_that_no_future_takes_does_not_leave_the_caller_waiting(
    pool: ThreadPoolExecutor,
) -> None:
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        await in_thread(pool, lambda: raising(StopIteration()))


async def test_a_call_that_is_cancelled_is_not_answered_and_one_that_has_not_begun_is_not_made(
    pool: ThreadPoolExecutor,
) -> None:
    may_go_on, made = threading.Event(), []
    under_way = [asyncio.ensure_future(in_thread(pool, may_go_on.wait)) for _ in range(2)]
    waiting = asyncio.ensure_future(in_thread(pool, lambda: made.append(1)))
    await asyncio.sleep(0)
    for one in (*under_way, waiting):
        one.cancel()
    await asyncio.wait([*under_way, waiting])
    may_go_on.set()
    assert await in_thread(pool, lambda: "after") == "after"
    assert made == []


async def test_an_error_is_freed_with_its_future(pool: ThreadPoolExecutor) -> None:
    class Failure(Exception):
        pass

    def failing() -> None:
        raise Failure

    async def story() -> "weakref.ref[Failure]":
        try:
            await in_thread(pool, failing)
        except Failure as error:
            return weakref.ref(error)
        raise AssertionError

    gc.disable()
    try:
        found = await story()
        await in_thread(pool, int)
        assert found() is None
    finally:
        gc.enable()


def test_a_loop_that_is_closed_meanwhile_is_not_told(pool: ThreadPoolExecutor) -> None:
    may_go_on, loop = threading.Event(), asyncio.new_event_loop()
    task = loop.create_task(in_thread(pool, may_go_on.wait))
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()
    may_go_on.set()
    assert pool.submit(int).result(20) == 0
