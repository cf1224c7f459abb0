# SPDX-License-Identifier: GPL-2.0-only
"""A client in a child of its process: it asks nothing, and its end there is not the parent's."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcached.client import BlockingClient, Client
from bcached.device.claims.lease_file import OldLease
from bcached.errors import ConnectionLost, ForkedClient
from bcached.keys import Key, Pointer
from instruments.clients.served_set import Served, served
from instruments.time.patience import patience

KEY = Key(0, 0, 8, False, (Pointer(0, 8000, 0),))


def in_child(work: Callable[[], str]) -> str:
    """What the work says in a child of this process, which ends as a process does that is not interested."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


def refused(*calls: Callable[[], object]) -> str:
    said = []
    for one in calls:
        try:
            one()
        except ForkedClient as error:
            said.append(str(error.owner == os.getppid() and error.caller == os.getpid()))
        except BaseException as error:
            said.append(repr(error))
        else:
            said.append("done")
    return " ".join(said)


def is_leased(it: Served) -> bool:
    return not OldLease(it.cache_set.lease_path, "").is_released()


def with_a_child(path: str, direct: bool) -> dict[str, object]:
    with BlockingClient(path, direct=direct) as client:
        since = client.now()
        client.store(0, 0, b"parent's" * 512)
        states = client.watch(100)
        next(states)
        (held,) = client.allocate(0, 640, 8)
        calls = [
            lambda: client.fetch(0, 0, 8),
            lambda: client.store(0, 0, bytes(4096)),
            lambda: client.lookup(0, 0, 8),
            lambda: client.write(held, bytes(4096)),
            lambda: client.read(held),
            client.now,
            lambda: client.is_current(held, since),
            lambda: next(states),
            lambda: client.watch(100).__next__(),
            client.connect,
        ]
        said = in_child(lambda: refused(*calls))

        def end() -> str:
            client.close()
            client.__exit__(None, None, None)
            return str(client.is_connected)

        ended = in_child(end)
        fetched = [client.fetch(0, 0, 8)[0].data[:8] for _ in range(50)]
        client.write(held, b"written." * 512)
        client.commit([held])
        return {
            "said": said,
            "ended": ended,
            "fetched": set(fetched),
            "kept": client.fetch(0, 640, 8)[0].data[:8],
        }


@pytest.mark.parametrize("direct", [True, False])
async def test_a_child_is_refused_and_takes_nothing_from_its_parent(tmp_path: Path, direct: bool) -> None:
    async with served(tmp_path, image=True) as it:
        found = await asyncio.to_thread(with_a_child, it.path, direct)
    assert found["said"] == " ".join(["True"] * 10)
    assert found["ended"] == "False"
    assert (found["fetched"], found["kept"]) == ({b"parent's"}, b"written.")


async def test_the_lease_is_the_parents_and_goes_with_it_though_the_child_lives_on(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it:

        def story() -> tuple[bool, bool, bool]:
            reading, writing = os.pipe()
            begun, begins = os.pipe()
            with BlockingClient(it.path) as client:
                child = os.fork()
                if child == 0:
                    os.write(begins, b"!")
                    client.close()
                    del client
                    os.close(writing)
                    os.read(reading, 1)  # until the parent is done with it
                    os._exit(0)
                os.read(begun, 1)  # a child that has not run yet still has its copy of the lease
                held = is_leased(it)
                client.store(0, 0, bytes(4096))
            left = is_leased(it)
            for descriptor in (writing, reading, begun, begins):
                os.close(descriptor)
            os.waitpid(child, 0)
            return held, left, client.is_connected

        assert await asyncio.to_thread(story) == (True, False, False)


async def test_the_daemon_notices_the_parents_end_though_the_child_lives_on(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path):
        reading, writing = os.pipe()

        def story() -> int:
            with BlockingClient(it.path) as client:
                client.allocate(0, 0, 8)
                child = os.fork()
                if child == 0:
                    os.close(writing)
                    os.read(reading, 1)
                    os._exit(0)
            return child

        child = await asyncio.to_thread(story)
        async with patience(20):
            while it.server.statistics().connections > 1:
                await asyncio.sleep(0.001)
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)


async def test_an_asyncio_client_is_refused_in_a_child_and_ends_there_without_harm(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it, Client(it.path) as client:
        await client.store(0, 0, b"parent's" * 512)

        def step(work: Any) -> object:  # a coroutine that is refused does not wait for anything
            try:
                work.send(None)
            except StopIteration as end:
                return end.value
            return "waits"

        calls = [
            lambda: step(client.fetch(0, 0, 8)),
            lambda: step(client.store(0, 0, bytes(4096))),
            lambda: step(client.write(KEY, bytes(4096))),
            lambda: step(client.read(KEY)),
            lambda: step(client.now()),
            lambda: step(client.connect()),
            lambda: step(client.watch().__anext__()),
        ]
        assert in_child(lambda: refused(*calls)) == " ".join(["True"] * 7)

        def end() -> str:
            closed = step(client.close())
            assert client._channel._transport is not None
            client._channel._transport.abort()  # as its finaliser may
            return f"{closed} {client.is_connected}"

        assert in_child(end) == "None False"
        for _ in range(20):
            (piece,) = await client.fetch(0, 0, 8)
            assert piece.data[:8] == b"parent's"
        assert is_leased(it)


async def test_a_client_that_was_not_connected_may_be_in_the_child(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it:
        client = BlockingClient(it.path)

        def story() -> str:
            def child() -> str:
                with client:
                    client.store(0, 0, b"child's." * 512)
                    return client.fetch(0, 0, 8)[0].data[:8].decode()

            return in_child(child)

        assert await asyncio.to_thread(story) == "child's."
        with pytest.raises(ConnectionLost):
            client.status()
