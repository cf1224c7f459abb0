# SPDX-License-Identifier: GPL-2.0-only
"""A client that was closed, or was not connected yet, says so at every call; closing twice is fine."""

import asyncio
import gc
import inspect
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bcached.client import BlockingClient, Client, ClientClosed
from bcached.device.claims.lease_file import OldLease
from bcached.errors import ConnectionLost
from bcached.keys import Key, Pointer
from instruments.clients.served_set import served
from instruments.time.patience import patience

KEY = Key(0, 0, 8, False, (Pointer(0, 8000, 0),))
ARGUMENTS = {
    "inode": 0, "offset": 0, "sectors": 8, "requests": (), "keys": (), "key": KEY, "data": bytes(4096),
    "since": None, "policy": "lru", "discard": True, "label": "x", "ranges": (), "items": (), "buckets": (),
    "owner": None,
}  # fmt: skip
NOT_CALLS = {"connect", "close", "atomic_bytes"}


def calls(client: Client | BlockingClient) -> list[Callable[[], Any]]:
    """Every method with arguments that would do."""
    found: list[Callable[[], Any]] = []
    for name, _ in inspect.getmembers(type(client), inspect.isfunction):
        if name.startswith("_") or name in NOT_CALLS:
            continue
        method = getattr(client, name)
        needed = [
            one.name
            for one in inspect.signature(method).parameters.values()
            if one.default is one.empty and one.name in ARGUMENTS
        ]
        found.append(partial(method, *[ARGUMENTS[one] for one in needed]))
    assert len(found) > 30
    return found


async def outcome(asked: Any) -> None:
    if inspect.isasyncgen(asked):
        await anext(asked)
    elif inspect.isawaitable(asked):
        await asked
    elif inspect.isgenerator(asked):
        next(asked)


@pytest.mark.parametrize("kind", [Client, BlockingClient])
async def test_every_call_says_so(tmp_path: Path, kind: type) -> None:
    async with served(tmp_path, image=True) as it:
        new = kind(it.path)
        for call in calls(new):
            with pytest.raises(ConnectionLost, match="it is made by `with`"):
                await outcome(call())
        closed = kind(it.path)
        await _maybe(closed.connect)
        await _maybe(closed.close)
        for call in calls(closed):
            with pytest.raises(ClientClosed):
                await outcome(call())
        with pytest.raises(ClientClosed):
            await _maybe(closed.connect)
        assert closed.description.role == "admin"
        assert not closed.is_connected


async def _maybe(method: Callable[[], Any]) -> Any:
    """Run it where it belongs."""
    return await (method() if inspect.iscoroutinefunction(method) else asyncio.to_thread(method))


@pytest.mark.parametrize("kind", [Client, BlockingClient])
async def test_closing_and_connecting_twice_are_fine(tmp_path: Path, kind: type) -> None:
    async with served(tmp_path) as it:
        client = kind(it.path)
        assert await _maybe(client.connect) is client
        assert await _maybe(client.connect) is client
        assert it.server.statistics().connections == 1
        await _maybe(client.close)
        await _maybe(client.close)
        unused = kind(it.path)
        await _maybe(unused.close)
        with pytest.raises(ClientClosed):
            await _maybe(unused.connect)


async def test_a_client_can_be_connected_later_if_the_daemon_was_not_there(tmp_path: Path) -> None:
    client, blocking = Client(str(tmp_path / "s")), BlockingClient(str(tmp_path / "s"))
    for one in (client, blocking):
        with pytest.raises(ConnectionLost, match="No such file"):
            await _maybe(one.connect)
    async with served(tmp_path):
        for one in (client, blocking):
            await _maybe(one.connect)
            assert one.is_connected
            await _maybe(one.close)


async def test_a_client_that_is_dropped_holds_nothing_any_more(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it:

        def story() -> None:
            client = BlockingClient(it.path).connect()
            client.store(0, 0, bytes(4096))
            client.fetch(0, 0, 8)
            assert not OldLease(it.cache_set.lease_path, "").is_released()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                del client
                gc.collect()
            assert OldLease(it.cache_set.lease_path, "").is_released()

        await asyncio.to_thread(story)
        async with patience(20):
            while it.server.statistics().connections:
                await asyncio.sleep(0.001)
