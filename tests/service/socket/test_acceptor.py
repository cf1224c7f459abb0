# SPDX-License-Identifier: GPL-2.0-only
"""The acceptor: every connection is passed on, few at a time, and a lack of descriptors is waited out."""

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bcached.service.socket import acceptor
from bcached.service.socket.acceptor import ACCEPTS_AT_ONCE, Acceptor
from instruments.time.patience import tries


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as it:
        it.bind(str(tmp_path / "socket"))
        it.listen(256)
        yield it


def connected(listener: socket.socket, count: int) -> list[socket.socket]:
    clients = [socket.socket(socket.AF_UNIX) for _ in range(count)]
    for client in clients:
        client.setblocking(False)
        client.connect(listener.getsockname())
    return clients


async def until_accepted(accepted: list[socket.socket], count: int) -> None:
    for _ in tries(20):
        if len(accepted) == count:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{len(accepted)} of {count} connections were accepted")


def close(sockets: list[socket.socket]) -> None:
    for it in sockets:
        it.close()
    sockets.clear()


async def test_all_that_wait_are_accepted_without_blocking(listener: socket.socket) -> None:
    accepted: list[socket.socket] = []
    clients = connected(listener, ACCEPTS_AT_ONCE + 5)
    it = Acceptor(listener, accepted.append)
    await until_accepted(accepted, len(clients))
    assert not any(connection.getblocking() for connection in accepted)
    it.close()
    close(clients + accepted)


async def test_other_callbacks_run_between_two_batches(listener: socket.socket) -> None:
    accepted: list[socket.socket] = []
    counts: list[int] = []
    clients = connected(listener, 2 * ACCEPTS_AT_ONCE)
    it = Acceptor(listener, accepted.append)
    while len(accepted) < len(clients):
        counts.append(len(accepted))
        await asyncio.sleep(0)
    assert ACCEPTS_AT_ONCE in counts
    it.close()
    close(clients + accepted)


async def test_without_descriptors_it_pauses_and_then_goes_on(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "ACCEPT_RETRY_S", 0.01)
    accepted: list[socket.socket] = []
    clients = connected(listener, 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(used - len(os.listdir("/proc/self/fd")) + 1)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(used, soft), hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            os.dup(0)
        it = Acceptor(listener, accepted.append)
        for _ in range(20):
            await asyncio.sleep(0)
        assert accepted == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in spare:
            os.close(descriptor)
    await until_accepted(accepted, 3)
    it.close()
    close(clients + accepted)


async def test_closed_it_accepts_no_more(listener: socket.socket) -> None:
    accepted: list[socket.socket] = []
    address = listener.getsockname()
    Acceptor(listener, accepted.append).close()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(address)
    assert accepted == []
