# SPDX-License-Identifier: GPL-2.0-only
import asyncio
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from bcached.client import Cache, connecting
from bcached.client.blocking import BlockingClient
from bcached.client.channel import Channel, connect
from bcached.errors import ConnectionLost
from instruments.clients.daemon_process import DaemonProcess
from instruments.time.patience import patience


@contextmanager
def listening(path: Path, backlog: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(backlog)
        yield listener


async def accept_slowly(listener: socket.socket, count: int) -> list[socket.socket]:
    listener.setblocking(False)
    accepted = []
    for _ in range(count):
        await asyncio.sleep(0.005)
        accepted.append((await asyncio.get_running_loop().sock_accept(listener))[0])
    return accepted


@pytest.mark.parametrize("backlog", [0, 1])
async def test_a_full_queue_is_waited_for_and_never_taken_for_a_connection(
    tmp_path: Path, backlog: int
) -> None:
    with listening(tmp_path / "s", backlog) as listener:
        accepting = asyncio.ensure_future(accept_slowly(listener, 32))
        channels = await asyncio.gather(*(Channel.open(str(tmp_path / "s")) for _ in range(32)))
        accepted = await accepting
        assert all(channel.is_connected for channel in channels)
        for served in accepted:
            served.close()
        await asyncio.gather(*(channel.close() for channel in channels))


async def test_a_queue_that_stays_full_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "QUEUE_PATIENCE_S", 0.1)
    path = str(tmp_path / "s")
    with listening(tmp_path / "s", 0), await connect(path):
        before = os.listdir("/proc/self/fd")
        with pytest.raises(
            ConnectionLost, match=r"no connection to the daemon: its queue was full for 0.1 s"
        ):
            await connect(path)
        assert os.listdir("/proc/self/fd") == before


async def test_a_daemon_that_is_not_there_is_told_of_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with patience(5):
        with pytest.raises(ConnectionLost, match="No such file or directory"):
            await connect(path)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        with pytest.raises(ConnectionLost, match="Connection refused"):
            await connect(path)


async def test_what_patience_does_not_help_is_told_of_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with patience(30):
        for path in (tmp_path / "file" / "s", tmp_path / ("x" * 200)):
            with pytest.raises(ConnectionLost):
                await connect(str(path), patience_s=60)


async def test_a_daemon_that_restarts_is_waited_for_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # refuses, then is gone, then listens
    waiting = asyncio.ensure_future(connect(str(path), patience_s=60))
    await asyncio.sleep(0.05)
    path.unlink()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    with listening(path, 1):
        (await waiting).close()


async def test_one_who_stops_waiting_leaves_nothing_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    waiting = asyncio.ensure_future(connect(str(tmp_path / "s"), patience_s=60))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert os.listdir("/proc/self/fd") == before


def test_many_clients_at_once_are_all_served() -> None:
    roles: list[str] = []

    def use(path: str) -> None:
        with BlockingClient(path) as client:
            roles.append(client.description.role)

    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        threads = [threading.Thread(target=use, args=[str(daemon.socket_path)]) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert roles == ["admin"] * 64
        assert daemon.end() == 0


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Leave this process so many descriptors."""
    free = [os.dup(0) for _ in range(count + 1)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for one in free:
        os.close(one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("count", [0, 1])
async def test_without_descriptors_a_client_is_not_connected_and_says_why(tmp_path: Path, count: int) -> None:
    with listening(tmp_path / "s", 8):
        path = str(tmp_path / "s")
        before = os.listdir("/proc/self/fd")
        with descriptors_left(count):
            for connects in (BlockingClient(path).connect, partial(Cache(path).get, "a")):
                with pytest.raises(ConnectionLost, match="Too many open files"):
                    connects()
            with pytest.raises(ConnectionLost, match="Too many open files"):
                await Channel.open(path)
            assert Cache(path, ignore_unavailable=True).get("a") is None
        assert os.listdir("/proc/self/fd") == before
