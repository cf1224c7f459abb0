# SPDX-License-Identifier: GPL-2.0-only
"""The verbs of a cache for asyncio, on a real daemon. What objects promise is tested with Cache."""

import asyncio
import contextlib
import os
import signal
import time
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bcached.client import AsyncCache, Cache
from bcached.client.cache import async_cache
from bcached.errors import ClientClosed, ConnectionLost
from instruments.clients.daemon_process import DaemonProcess

Open = Callable[..., AsyncCache]
VALUES = [b"", b"b" * 4096, "text", None, [1, {"k": 2.5}], b"y" * 65_536, b"z" * 1_000_001]


def label_of(request: pytest.FixtureRequest) -> str:
    """The test's own volume, one for each loop and each value."""
    return f"{zlib.crc32(request.node.name.encode())}"


@pytest.fixture
async def opened(daemon: DaemonProcess, request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Opens caches on a volume of the test's own; they are closed at its end."""
    caches, label = [], label_of(request)

    def open_one(**options: object) -> AsyncCache:
        caches.append(AsyncCache(str(daemon.socket_path), label, **options))  # type: ignore[arg-type]
        return caches[-1]

    yield open_one
    for one in caches:
        await one.close()


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}-{len(repr(value))}")
async def test_what_is_set_is_got_here_and_by_cache(
    opened: Open, daemon: DaemonProcess, request: pytest.FixtureRequest, value: object
) -> None:
    here = opened()
    await here.set("name", value)
    assert await here.get("name", "missing") == value
    await here.flush(durable=False)
    assert await here.get("name", "missing") == value
    assert await here.contains("name")
    assert not await here.contains("another")
    assert await here.get("another", 7) == 7
    with Cache(str(daemon.socket_path), label_of(request)) as there:
        assert there.get("name", "missing") == value
        there.set("name", "theirs", wait=True)
    assert await here.get("name") == "theirs"
    assert here.stats()[:3] == (4, 2, 1)


async def test_what_is_known_and_in_memory_does_not_leave_the_loop(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = opened()
    await cache.set_many({"a": b"v" * 4096, "b": b"w" * 100_000, "huge": b"x" * 2_000_000}, wait=True)

    async def left(*_: object) -> None:
        raise AssertionError("the loop was left")

    for _ in range(10):  # a collection ends what is known
        found = await cache.get_many(["a", "b"])
        with monkeypatch.context() as patch, contextlib.suppress(AssertionError):
            patch.setattr(cache, "_in_thread", left)
            assert await cache.get_many(["a", "b"]) == found
            assert await cache.get("a") == found["a"]
            break
    else:
        pytest.fail("the loop was left each time")
    assert found == {"a": b"v" * 4096, "b": b"w" * 100_000}
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_in_thread", left)
        with pytest.raises(AssertionError):
            await cache.get("huge")  # its copy would hold the loop
    assert await cache.get("huge") == b"x" * 2_000_000


async def test_what_another_process_stored_does_not_leave_the_loop(
    opened: Open, daemon: DaemonProcess, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def left(*_: object) -> None:
        raise AssertionError("the loop was left")

    here = opened()
    assert await here.get("a") is None
    with Cache(str(daemon.socket_path), label_of(request)) as there:
        for number in range(3):
            there.set("a", number, wait=True)
            with monkeypatch.context() as patch:
                patch.setattr(here, "_in_thread", left)
                assert await here.get("a") == number
        there.set("a", "expired", expire=0, wait=True)
        assert await here.get("a") is None


async def test_what_is_not_in_memory_is_read_in_a_thread(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_in_memory(*_: object) -> bytes:
        raise BlockingIOError

    cache = opened()
    await cache.set("a", b"v" * 4096, wait=True)
    monkeypatch.setattr(async_cache, "read_cached", not_in_memory)
    assert await cache.get("a") == b"v" * 4096
    assert await cache.get_many(["a", "b"]) == {"a": b"v" * 4096}
    assert cache.stats()[:2] == (2, 1)


async def test_a_daemon_that_does_not_answer_holds_no_other_task(own_daemon: DaemonProcess) -> None:
    async with AsyncCache(str(own_daemon.socket_path)) as cache:
        await cache.set("known", 1, wait=True)
        assert await cache.get("known") == 1
        assert own_daemon.process is not None
        own_daemon.process.send_signal(signal.SIGSTOP)
        waiting = [
            asyncio.create_task(cache.get("unknown")),
            asyncio.create_task(cache.set("b", 2, wait=True)),
        ]
        for _ in range(50):
            assert await cache.get("known") == 1
            await asyncio.sleep(0)
        assert not any(one.done() for one in waiting)
        own_daemon.process.send_signal(signal.SIGCONT)
        assert await asyncio.gather(*waiting) == [None, None]
        assert await cache.get("b") == 2


async def test_of_many_that_add_one_does(opened: Open) -> None:
    caches = [opened() for _ in range(3)]
    added = await asyncio.gather(*(cache.add("lock", number) for number, cache in enumerate(caches)))
    assert sum(added) == 1
    assert await caches[0].get("lock") == added.index(True)
    assert not await caches[1].add("lock", 5)


async def test_a_sum_loses_no_part(opened: Open) -> None:
    here, there = opened(), opened()
    await here.set("count", 0, wait=True)
    sums = await asyncio.gather(*(cache.incr("count", 2) for cache in (here, there) for _ in range(5)))
    assert sorted(sums) == list(range(2, 21, 2))
    with pytest.raises(KeyError, match="nothing"):
        await here.incr("nothing")


async def test_dropping(opened: Open) -> None:
    here, there = opened(), opened()
    await here.set_many([("a", 1), ("b", 2), ("c", 3), ("d", 4)], wait=True)
    assert await there.delete("a")
    assert not await here.delete("a")
    assert await here.pop("b") == 2
    assert await there.pop("b", "gone") == "gone"
    assert await there.delete_many(["c", "x"]) == 1
    assert await here.get_many([*"abcd"]) == {"d": 4}
    await there.clear()
    assert await here.get_many([*"abcd"]) == {}


async def test_expiry(opened: Open) -> None:
    here, there = opened(), opened()
    await here.set("soon", 1, expire=0.05, wait=True)
    await here.set("later", 2, expire=1000, wait=True)
    assert await there.add("third", 3, expire=1000)
    assert await there.touch("third", 0)
    await asyncio.sleep(0.06)
    assert await here.get_many(["soon", "later", "third"]) == {"later": 2}
    value, left_s = await there.get_with_expiry("later")
    assert value == 2
    assert left_s is not None
    assert 900 < left_s <= 1000
    assert await there.get_with_expiry("soon", 7) == (7, None)


async def test_a_coroutine_function_is_called_once_for_each_arguments(opened: Open) -> None:
    cache, calls = opened(), []

    @cache.memoize(expire=100)
    async def work(one: object, *, two: object = 2) -> list[object]:
        calls.append((one, two))
        await asyncio.sleep(0)
        return [one, two]

    assert await work(1) == await work(1) == [1, 2]
    assert await work(1, two=3) == [1, 3]
    assert calls == [(1, 2), (1, 3)]


async def test_a_cancelled_call_leaves_the_cache_usable(opened: Open) -> None:
    cache = opened()
    for number in range(20):
        call = asyncio.create_task(cache.set(str(number), number, wait=True))
        for _ in range(number % 4):
            await asyncio.sleep(0)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):  # it may have been faster
            await call
    await cache.set("after", 1, wait=True)
    found = await cache.get_many([*map(str, range(20)), "after"])
    assert found.pop("after") == 1
    assert all(int(name) == value for name, value in found.items())


async def test_it_connects_again(own_daemon: DaemonProcess) -> None:
    async with AsyncCache(str(own_daemon.socket_path)) as cache:
        await cache.set("kept", 1, durable=True)
        own_daemon.end(signal.SIGKILL)
        with pytest.raises(ConnectionLost):
            await cache.get("kept")
        own_daemon.start()
        own_daemon.wait_until_ready()
        deadline = time.monotonic() + 60
        while True:
            try:
                assert await cache.get("kept") == 1
                break
            except ConnectionLost:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)


def test_a_forked_child_has_a_session_and_threads_of_its_own(daemon: DaemonProcess) -> None:
    cache = AsyncCache(str(daemon.socket_path), "async fork")

    async def child() -> bool:
        await cache.set("child", await cache.get("parent"), wait=True)
        await cache.close()
        return True

    async def parent() -> None:
        await cache.set("parent", 1, wait=True)
        if (pid := os.fork()) == 0:
            status = 1
            try:
                asyncio._set_running_loop(None)  # the parent's
                status = not asyncio.run(child())
            finally:
                os._exit(status)
        assert await asyncio.to_thread(os.waitpid, pid, 0) == (pid, 0)
        assert await cache.get("child") == 1
        await cache.close()

    asyncio.run(parent())


async def test_a_closed_cache_says_so(opened: Open) -> None:
    cache, other = opened(ignore_unavailable=True), opened()
    await cache.set_many({str(number): number for number in range(50)})
    await cache.close()
    await cache.close()
    assert len(await other.get_many(map(str, range(50)))) == 50
    with pytest.raises(ClientClosed):
        await cache.get("1")
    with pytest.raises(ClientClosed):
        await cache.set("1", 1)


async def test_a_closed_cache_starts_no_thread(daemon: DaemonProcess) -> None:
    async with AsyncCache(str(daemon.socket_path), "closed") as cache:
        await cache.set("a", 1)
    with pytest.raises(ClientClosed):
        await cache.get("a")
    await cache.close()
    assert cache._pool is None


async def test_without_a_daemon(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nothing")
    async with AsyncCache(nowhere) as cache:
        with pytest.raises(ConnectionLost, match="No such file"):
            await cache.get("a")
    async with AsyncCache(nowhere, ignore_unavailable=True) as cache:
        await cache.set("a", 1)
        assert await cache.get("a", 7) == 7
        assert await cache.get_many(["a"]) == {}
        assert not await cache.delete("a")
