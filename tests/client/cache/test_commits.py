# SPDX-License-Identifier: GPL-2.0-only
"""Commits of several threads that wait for them, and what becomes of them when the connection is lost."""

import re
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from bcached.client import Cache
from bcached.client.cache.commits import DROPPED_SECTORS_MAX, Commits
from bcached.errors import ConnectionLost
from instruments.clients.daemon_process import DaemonProcess
from instruments.clients.relay import Relay
from instruments.time.patience import tries

THREADS = 8


def commits_of(cache: Cache) -> Commits:
    session = cache._objects.sessions.existing
    assert session is not None
    return session.commits


def commit_requests(daemon: DaemonProcess) -> float:
    found = re.search(
        r'^bcached_rpc_requests_total\{.*method="[^"]*Commit".*\} (\S+)$', daemon.scrape(), re.MULTILINE
    )
    return float(found[1]) if found else 0.0


def stopped_while(daemon: DaemonProcess, cache: Cache, pool: ThreadPoolExecutor) -> list[Future[None]]:
    """Have the daemon stopped while all threads store and wait."""
    cache.set("space", 1, wait=True)
    daemon.send(signal.SIGSTOP)
    waits = [pool.submit(cache.set, str(number), number, wait=True) for number in range(THREADS)]
    for _ in tries(30):
        if len(commits_of(cache).newest) == THREADS:
            return waits
    raise AssertionError("not all have stored")


def test_threads_that_wait_share_messages(daemon: DaemonProcess) -> None:
    path = str(daemon.socket_path)
    with Cache(path) as cache, Cache(path) as other, ThreadPoolExecutor(THREADS) as pool:
        before = commit_requests(daemon)
        waits = stopped_while(daemon, cache, pool)
        daemon.send(signal.SIGCONT)
        for wait in waits:
            wait.result(30)
        names = [str(number) for number in range(THREADS)]
        assert other.get_many(names) == dict(zip(names, range(THREADS), strict=True))
        # That of "space", the first thread's, and one for all others.
        assert commit_requests(daemon) - before == 3


@pytest.mark.parametrize("options", [{"wait": True}, {"durable": True}], ids=str)
def test_each_thread_waits_for_its_own(daemon: DaemonProcess, options: dict[str, bool]) -> None:
    path, label = str(daemon.socket_path), next(iter(options))
    with Cache(path, label) as cache, Cache(path, label) as other, ThreadPoolExecutor(THREADS) as pool:

        def work(own: int) -> None:
            for number in range(10):
                cache.set(f"{own} {number % 4}", number, **options)
                assert other[f"{own} {number % 4}"] == number
                assert cache.add(f"{own} added {number}", own)
                assert cache.incr(f"{own} {number % 4}") == number + 1
                assert cache.delete(f"{own} added {number}")

        for done in [pool.submit(work, own) for own in range(THREADS)]:
            done.result(60)
        assert not commits_of(cache).newest


def test_each_thread_that_waits_is_told_of_a_loss(own_daemon: DaemonProcess) -> None:
    with Cache(str(own_daemon.socket_path)) as cache, ThreadPoolExecutor(THREADS) as pool:
        waits = stopped_while(own_daemon, cache, pool)
        own_daemon.end(signal.SIGKILL)
        for wait in waits:
            with pytest.raises(ConnectionLost):
                wait.result(30)
        assert cache.stats().lost == 0  # of which no caller would have been told


def cut_once(pattern: bytes) -> Callable[[bytes], None]:
    """A hook of a relay that ends the connection instead of passing on the first reply with this in it."""
    times = [1]

    def cut(reply: bytes) -> None:
        if pattern in reply and times:
            times.pop()
            raise ConnectionResetError

    return cut


def test_what_was_repeated_after_a_loss_is_not_lost(daemon: DaemonProcess) -> None:
    with (
        Relay(daemon.folder / "relay", daemon.socket_path, cut_once(b'"versions":[')) as relay,
        Cache(str(relay.path), "repeated") as cache,
    ):
        cache.set("a", 1, wait=True)
        assert cache["a"] == 1
        cache.flush()
        assert cache.stats()[2:4] == (1, 0)


def test_a_touch_whose_answer_was_lost_drops_no_object(daemon: DaemonProcess) -> None:
    with Cache(str(daemon.socket_path), "touched") as other:
        other.set("a", 1, wait=True)
        with (
            Relay(daemon.folder / "other relay", daemon.socket_path, cut_once(b'"versions":[')) as relay,
            Cache(str(relay.path), "touched") as cache,
        ):
            assert cache.touch("a", 1000)
        assert other["a"] == 1
        left_s = other.get_with_expiry("a")[1]
        assert left_s is not None
        assert 0 < left_s <= 1000


def reserved_sectors(daemon: DaemonProcess) -> int:
    state = daemon.ask("Admin.Status")["parameters"]["state"]
    return int(state["reserved_sectors"])


def test_of_what_is_stored_again_only_the_newest_is_committed(own_daemon: DaemonProcess) -> None:
    path = str(own_daemon.socket_path)
    with Cache(path) as cache, Cache(path) as other:
        cache.set("space", 1, wait=True)
        own_daemon.send(signal.SIGSTOP)
        cache.set("under way", 1)
        commits = commits_of(cache)
        commits.send()
        for number in range(3):
            for name in ("a", "b"):
                cache.set(name, number)
        assert {one.name for one in commits._gathered.values()} == {b"a", b"b"}
        assert len(commits._dropped) == 4
        assert cache["a"] == 2
        own_daemon.send(signal.SIGCONT)
        cache.flush(durable=False)
        assert other.get_many(["a", "b", "under way"]) == {"a": 2, "b": 2, "under way": 1}
        session = cache._objects.sessions.existing
        assert session is not None
        session.release_leases()
        for _ in tries(30):
            if not reserved_sectors(own_daemon):
                break
        assert not reserved_sectors(own_daemon), "the space of those that were not committed is returned"


def test_what_a_thread_waits_for_and_what_is_long_is_committed(own_daemon: DaemonProcess) -> None:
    path = str(own_daemon.socket_path)
    with Cache(path) as cache, Cache(path) as other, ThreadPoolExecutor(THREADS) as pool:
        waits = stopped_while(own_daemon, cache, pool)
        again = [pool.submit(cache.set, str(number), -number) for number in range(THREADS)]
        own_daemon.send(signal.SIGCONT)
        for one in (*waits, *again):
            one.result(30)
        assert not commits_of(cache)._dropped
        for number in range(3):
            cache.set("long", bytes([number]) * (DROPPED_SECTORS_MAX * 512))
        assert not commits_of(cache)._dropped
        cache.flush(durable=False)
        assert other["long"] == bytes([2]) * (DROPPED_SECTORS_MAX * 512)
        assert other.get_many([str(number) for number in range(THREADS)]) == {
            str(number): -number for number in range(THREADS)
        }
