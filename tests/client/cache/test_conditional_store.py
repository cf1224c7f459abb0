# SPDX-License-Identifier: GPL-2.0-only
"""Adds and changes beside those of another process, at each step; and over a lost connection."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

import pytest

from bcached.client import BlockingClient, Cache
from bcached.client.cache.session import CacheSession
from bcached.client.cache.values.names import SLOT_SECTORS, offset_of
from bcached.client.protocol.exchange import Call
from bcached.errors import ConnectionLost
from instruments.clients.daemon_process import DaemonProcess
from instruments.clients.relay import Relay
from instruments.time.patience import tries

BYTES = 300_000  # some five buckets
STEPS = ["version_of", "encoded", "written"]


def session_of(cache: Cache) -> CacheSession:
    session = cache._objects.sessions.existing
    assert session is not None
    return session


@contextmanager
def before_step(cache: Cache, step: str, act: Callable[[], object]) -> Iterator[None]:
    """The act is done once, before that step of the cache's next conditional store."""
    session, real, acts = session_of(cache), getattr(CacheSession, step), [act]

    def delayed(*arguments: Any, **named: Any) -> Any:
        if acts:
            acts.pop()()
        return real(session, *arguments, **named)

    setattr(session, step, delayed)
    yield
    delattr(session, step)
    assert not acts, "the step was not reached"


def evict_the_end_of(client: BlockingClient, inode: int, filler: Cache, name: bytes) -> None:
    """Fill the set until the daemon has reused a bucket of the object, but not its first one."""
    offset, sectors = offset_of(name), None
    for number in range(2000):
        client.lookup(inode, offset, 8)  # which renews the first bucket
        keys = client.lookup(inode, offset, SLOT_SECTORS, touch=False).keys
        sectors = sectors or sum(key.sectors for key in keys)
        if sum(key.sectors for key in keys) < sectors:
            assert keys[0].offset == offset, "the first bucket was reused, too"
            return
        filler.set(str(number), bytes(1 << 20))
    raise AssertionError("nothing was evicted")


PARTLY = "an object that lost a part"


@pytest.mark.parametrize(
    ("before", "step"),
    [(before, step) for before in ("nothing", "an expired object") for step in STEPS] + [(PARTLY, "written")],
)
def test_of_two_that_add_one_wins_whenever_the_other_does(
    daemon: DaemonProcess, before: str, step: str
) -> None:
    path, label = str(daemon.socket_path), f"{STEPS.index(step)} {before}"
    with Cache(path, label) as one, Cache(path, label) as other, BlockingClient(path) as client:
        if before != "nothing":
            one.set("a", bytes(BYTES), wait=True, expire=0 if before == "an expired object" else None)
        if before == PARTLY:
            with Cache(path, "filler") as filler:
                evict_the_end_of(client, client.open_volume(label)[0], filler, b"a")
        one.set("other", 1, wait=True)
        won = []
        with before_step(one, step, lambda: won.append(other.add("a", b"o" * BYTES))):
            won.append(one.add("a", b"one"))
        assert sorted(won) == [False, True]
        assert one["a"] == other["a"] == (b"one" if won[1] else b"o" * BYTES)
        assert not other.add("a", 3)


def test_an_add_takes_one_request_unless_something_is_there(
    daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, label, requests = str(daemon.socket_path), "requests of an add", list[str]()
    with Cache(path, label) as one, Cache(path, label) as other:
        one.set("space", 1, wait=True)
        channel = session_of(one).channel
        send = channel._send

        def noted(*calls: Call[Any]) -> None:
            for call in calls:
                requests.extend(re.findall(r"Allocator\.(Lookup|Commit)", call.message.decode()))
            send(*calls)

        monkeypatch.setattr(channel, "_send", noted)

        def taken(name: str, expected: bool) -> list[str]:
            requests.clear()
            assert one.add(name, b"1") is expected
            return requests

        assert taken("new", True) == ["Commit"]
        assert taken("new", False) == []
        assert one.get("missed") is None
        assert taken("missed", True) == ["Commit"]
        other.set("there", b"2", wait=True)
        assert taken("there", False) == []
        other.set("expired", b"2", expire=0, wait=True)
        assert taken("expired", True) == ["Commit"]
        other.set("in extents", bytes(BYTES), wait=True)  # which has no place
        assert taken("in extents", False) == ["Commit", "Lookup"]
        assert one["in extents"] == bytes(BYTES)


@pytest.mark.parametrize("step", STEPS)
def test_a_sum_includes_what_another_added_meanwhile(daemon: DaemonProcess, step: str) -> None:
    path, label = str(daemon.socket_path), f"sum {step}"
    with Cache(path, label) as one, Cache(path, label) as other:
        one.set("a", 1, wait=True)
        with before_step(one, step, lambda: other.incr("a", 10)):
            assert one.incr("a", 100) == 111
        assert other["a"] == 111


class Cut:
    """A hook of a relay: ends the connection instead of passing on the reply to a conditional commit."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, reply: bytes) -> None:
        if self.times and b'"committed":[' in reply:
            self.times -= 1
            raise ConnectionResetError


def test_a_caller_that_lost_the_answer_recognises_its_own_object(daemon: DaemonProcess) -> None:
    path, cut = str(daemon.socket_path), Cut()
    with (
        Relay(daemon.folder / "relay", daemon.socket_path, cut) as relay,
        Cache(str(relay.path), "own") as one,
        Cache(path, "own") as other,
    ):
        one.set("count", 1, wait=True)
        cut.times = 1
        assert one.add("lock", b"1", durable=True)
        assert not other.add("lock", b"1")
        cut.times = 1
        assert one.incr("count") == other["count"] == 2
        assert one.stats().lost == 0


def once_connected(call: Callable[[], bool]) -> bool:
    for _ in tries(60):
        with suppress(ConnectionLost):
            return call()
    raise AssertionError("not connected again")


def test_what_another_added_is_not_dropped_for_an_add_that_was_lost(own_daemon: DaemonProcess) -> None:
    path = str(own_daemon.socket_path)
    with Cache(path) as one, Cache(path) as other:
        one.set("space", 1, wait=True)  # has a bucket leased
        assert one.get("lock") is None  # so that its add takes one request, the commit
        other.set("space", 1, wait=True)
        own_daemon.send(signal.SIGSTOP)
        lost = list[type[BaseException]]()

        def add() -> None:
            try:
                one.add("lock", b"one")
            except ConnectionLost as error:
                lost.append(type(error))

        thread = Thread(target=add)
        thread.start()
        for _ in tries(30):
            if session_of(one).commits.unsettled() or not session_of(one).commits.is_idle:
                break
        own_daemon.end(signal.SIGKILL)
        thread.join()
        assert lost == [ConnectionLost]
        own_daemon.start()
        own_daemon.wait_until_ready()
        assert once_connected(lambda: other.add("lock", b"other"))
        assert not once_connected(lambda: one.add("lock", b"one again"))
        assert one["lock"] == other["lock"] == b"other"
