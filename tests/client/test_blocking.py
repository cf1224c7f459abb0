# SPDX-License-Identifier: GPL-2.0-only
import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest

from bcached.client import BlockingClient, Client, Piece
from bcached.errors import ConnectionLost, InvalidParameter
from instruments.clients.served_set import served


def session(path: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with BlockingClient(path) as client:
        found["role"] = client.description.role
        since = client.now()
        (key,) = client.allocate(0, 0, 16)
        client.write(key, b"blocking" * 1024)
        found["read"] = client.read(key, since)
        found["current"] = client.is_current(key, since)
        try:
            client.allocate(0, 1, 8)
        except InvalidParameter as error:
            found["error"] = error.fields["parameter"]
        client.release([key])
        client.store(0, 640, b"stored" * 2048, dirty=True)
        found["fetched"] = client.fetch(0, 0, 1024)
        found["dirty"] = [key.dirty for key in client.lookup(0, 640, 24).keys]
        found["dropped"] = client.invalidate(0, 0, 1024)
        found["state"] = client.status().reserved_sectors
        for state in client.watch(100):
            found["watched"] = state.set_uuid
            break
        found["connected"] = client.is_connected
    return found


async def test_the_same_calls_without_a_loop(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it:
        found = await asyncio.to_thread(session, it.path)
        assert found["watched"] == str(it.cache_set.set_uuid)
    assert found["read"] == b"blocking" * 1024
    assert (found["role"], found["current"], found["error"]) == ("admin", True, "offset")
    assert (found["state"], found["connected"]) == (0, True)
    assert found["fetched"] == (Piece(640, b"stored" * 2048),)
    assert (found["dirty"], found["dropped"]) == ([True], 24)


def test_every_method_of_the_one_is_one_of_the_other() -> None:
    def methods(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}

    assert methods(BlockingClient) == methods(Client)
    for name in methods(Client) - {"watch"}:
        assert inspect.signature(getattr(Client, name)).parameters.keys() == (
            inspect.signature(getattr(BlockingClient, name)).parameters.keys()
        )


def test_nobody_there_is_an_error_and_leaves_nothing_open(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost), BlockingClient(str(tmp_path / "nothing")):
        pass


async def test_a_daemon_gone_between_two_calls_is_noticed_before_a_write(tmp_path: Path) -> None:
    client = BlockingClient(str(tmp_path / "s"))
    async with served(tmp_path, image=True) as it:
        await asyncio.to_thread(client.__enter__)
        (key,) = await asyncio.to_thread(client.allocate, 0, 0, 8)
        assert it.server.statistics().connections == 1
    assert not client.is_connected
    with pytest.raises(ConnectionLost):
        await asyncio.to_thread(client.write, key, bytes(4096))
    await asyncio.to_thread(client.__exit__, None, None, None)
