# SPDX-License-Identifier: GPL-2.0-only
"""A client that makes no call releases what it holds with its connection, its lease after its last write."""

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from bcached.client import AsyncCache, BlockingClient, Cache, Client
from bcached.client.hang_up_watch import HangUpWatch, hang_up_watch
from bcached.device.claims.lease_file import OldLease
from bcached.errors import AmbiguousLabel, ConnectionLost
from instruments.clients.daemon_process import DaemonProcess
from instruments.clients.served_set import served
from instruments.time.patience import patience, tries


class Settled:
    """What is settled, and how often."""

    def __init__(self) -> None:
        self.times = 0
        self.is_settled = Event()

    def settle(self) -> None:
        self.times += 1
        self.is_settled.set()


def all_before_is_settled(watch: HangUpWatch) -> None:
    """Wait until the hang-ups before this call are dealt with: they are reported in order."""
    probe = Settled()
    here, there = socket.socketpair()
    with here:
        watch.add(here.fileno(), probe)
        there.close()
        assert probe.is_settled.wait(20)


def connected(path: str) -> BlockingClient:
    return BlockingClient(path).connect()


def read_once(path: str) -> Cache:
    cache = Cache(path)
    cache.get("a")
    return cache


def stored_once(path: str) -> Cache:
    cache = Cache(path)
    cache.set("a", 1)
    return cache


@pytest.mark.parametrize("begin", [connected, read_once, stored_once])
async def test_an_idle_client_releases_its_lease(tmp_path: Path, begin: Callable[[str], Any]) -> None:
    async with served(tmp_path, image=True) as it:
        client = await asyncio.to_thread(begin, it.path)
        lease = OldLease(it.cache_set.lease_path, "")
        assert not lease.is_released()
    async with patience(20):
        while not lease.is_released():
            await asyncio.sleep(0.001)
    assert os.path.exists(lease.path)
    await asyncio.to_thread(client.close)


def held_files(folder: Path) -> list[str]:
    """Returns the files below a folder that this process has open or mapped."""
    opened = []
    for entry in os.scandir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the scan's own
            opened.append(os.readlink(entry.path))
    mapped = [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    return [one for one in opened + mapped if one.startswith(f"{folder}/") and "/log" not in one]


def all_released(folder: Path) -> bool:
    return any(not held_files(folder) for _ in tries(20))


def stored_and_fetched(path: str) -> BlockingClient:
    client = connected(path)
    client.store(client.create_volume("kept"), 0, bytes(4096))
    assert client.fetch(0, 0, 8)
    return client


def read_by_place(path: str) -> Cache:
    with Cache(path) as other:
        other.set_many({"a": 1, "long": bytes(1 << 19)}, wait=True)
    cache = Cache(path)
    assert len(cache.get_many(["a", "long"])) == 2
    assert cache.get("a") == 1
    return cache


@pytest.fixture
def own_daemon() -> Iterator[DaemonProcess]:
    with DaemonProcess() as process:
        yield process.wait_until_ready()


@pytest.fixture
def no_collector() -> Iterator[None]:
    """A program that does nothing collects nothing."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_an_idle_client_keeps_no_file_open_when_the_daemon_has_ended(own_daemon: DaemonProcess) -> None:
    path = str(own_daemon.socket_path)
    client, caches = stored_and_fetched(path), (read_by_place(path), stored_once(path))
    since, (key,) = client.now(), client.lookup(0, 0, 8).keys
    assert client.is_current(key, since)
    assert held_files(own_daemon.folder)
    own_daemon.end()
    assert all_released(own_daemon.folder)
    # Nor does it open any again for good.
    assert not client.is_current(key, since)
    assert client.read(key) == bytes(4096)  # at its pointer, without a check
    for ends_with in (client.now, partial(client.fetch, 0, 0, 8), partial(caches[0].get, "a")):
        with pytest.raises(ConnectionLost):
            ends_with()
    assert not held_files(own_daemon.folder)
    for one in (client, *caches):
        one.close()


@pytest.mark.usefixtures("no_collector")
async def test_nor_does_an_asyncio_client_whose_loop_is_blocked(own_daemon: DaemonProcess) -> None:
    path = str(own_daemon.socket_path)
    async with AsyncCache(path) as cache, Client(path) as client:
        await cache.set("a", 1, wait=True)
        await client.store(0, 1 << 40, bytes(4096))
        assert await client.fetch(0, 1 << 40, 8)
        own_daemon.end()
        assert all_released(own_daemon.folder)  # without an await
        assert not client.is_connected


async def test_a_cache_that_cannot_be_connected_holds_no_lease(tmp_path: Path) -> None:
    async with served(tmp_path, image=True) as it:
        async with Client(it.path) as client:
            await client.create_volume("twice")
            await client.create_volume("twice")
        with pytest.raises(AmbiguousLabel) as kept:  # with all frames
            await asyncio.to_thread(Cache(it.path, "twice").get, "a")
        assert OldLease(it.cache_set.lease_path, "").is_released()
        assert "twice" in str(kept.value)


async def test_a_write_that_is_under_way_keeps_it_until_it_has_returned(tmp_path: Path) -> None:
    write = object()
    async with served(tmp_path, image=True) as it:
        client = await asyncio.to_thread(connected, it.path)
        client._at.begin_write(write)
        lease = OldLease(it.cache_set.lease_path, "")
    await asyncio.to_thread(all_before_is_settled, hang_up_watch)
    assert not client.is_connected
    assert not lease.is_released()
    client._at.end_write(write)
    assert lease.is_released()
    client.close()


async def test_a_forked_child_watches_its_own(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    begun, begins = os.pipe()
    async with served(tmp_path, image=True) as it:

        def fork() -> int:
            with BlockingClient(it.path):
                child = os.fork()
            if child == 0:
                client = connected(it.path)
                os.write(begins, b"!")
                os.close(writing)
                os.read(reading, 1)
                os._exit(client.is_connected)
            os.read(begun, 1)
            return child

        child = await asyncio.to_thread(fork)
        lease = OldLease(it.cache_set.lease_path, "")
        assert not lease.is_released()
    async with patience(20):
        while not lease.is_released():
            await asyncio.sleep(0.001)
    for descriptor in (writing, reading, begun, begins):
        os.close(descriptor)
    assert os.waitpid(child, 0)[1] == 0


def test_a_hang_up_is_reported_once_although_the_socket_has_a_copy() -> None:
    watch, one = HangUpWatch(), Settled()
    here, there = socket.socketpair()
    with socket.socket(fileno=os.dup(here.fileno())), here:
        watch.add(here.fileno(), one)
        there.close()
        all_before_is_settled(watch)
        all_before_is_settled(watch)
        assert one.times == 1


def test_what_has_hung_up_before_it_is_added_is_settled_and_what_is_forgotten_is_not() -> None:
    watch, late, forgotten = HangUpWatch(), Settled(), Settled()
    ours, theirs = socket.socketpair()
    here, there = socket.socketpair()
    with ours, here:
        theirs.close()
        watch.forget(ours.fileno())  # nothing was added
        watch.add(ours.fileno(), late)
        watch.add(here.fileno(), forgotten)
        watch.forget(here.fileno())
        there.close()
        all_before_is_settled(watch)
        assert (late.times, forgotten.times) == (1, 0)
