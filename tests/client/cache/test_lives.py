# SPDX-License-Identifier: GPL-2.0-only
"""A cache over restarts and kills of the daemon, kills of clients, and forks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

from bcached.client import BlockingClient, Cache
from bcached.client.cache.sender import Sender
from bcached.errors import BcachedError, ConnectionLost, NoFreeBuckets, NoSuchVolume
from instruments.clients.daemon_process import DaemonProcess


def in_child(work: Callable[[], object]) -> str:
    """What the work returns, as a str, in a forked child of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


def until_connected(cache: Cache, name: str) -> object:
    """The value, once the daemon can be reached again."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return cache.get(name)
        except ConnectionLost:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_what_was_answered_before_the_connection_is_lost_is_kept(
    own_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sender, "want", lambda _: None)  # its thread would look at the answer
    with Cache(str(own_daemon.socket_path)) as cache:
        cache.set("a", 1, wait=True)
        sessions = cache._objects.sessions
        session = sessions.current()
        cache.set("a", 2, durable=False)
        with sessions.lock:
            session.commits.send()
        session.flush()  # answered after the commit, which no caller has looked at since
        sessions.lose(session)
        assert cache.stats().lost == 0
        assert cache["a"] == 2
        assert sessions.current() is not session


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_durable_value_outlives_the_daemon(own_daemon: DaemonProcess, how: signal.Signals) -> None:
    path = str(own_daemon.socket_path)
    with Cache(path) as cache, Cache(path, ignore_unavailable=True) as patient:
        cache.set("kept", "v" * 100_000, durable=True)
        cache.set("flushed", 1)
        cache.flush()
        assert patient["kept"] == "v" * 100_000
        own_daemon.end(how)
        assert patient.get("kept", "missing") == "missing"
        patient.set("kept", "dropped")
        with pytest.raises(ConnectionLost):
            cache.get("kept")
        own_daemon.start()
        own_daemon.wait_until_ready()
        assert until_connected(cache, "kept") == "v" * 100_000
        assert cache["flushed"] == 1
        cache.set("after", 2, wait=True)
        deadline = time.monotonic() + 60
        while patient.get("after") != 2:  # its backoff
            assert time.monotonic() < deadline
            time.sleep(0.02)


def outcome_of(work: Callable[[], object]) -> str:
    try:
        work()
    except BcachedError as error:
        return type(error).__name__
    return "done"


def test_a_daemon_that_stops_is_a_lost_connection(own_daemon: DaemonProcess) -> None:
    path = str(own_daemon.socket_path)
    with (
        BlockingClient(path) as client,
        Cache(path) as cache,
        Cache(path, ignore_unavailable=True) as patient,
        ThreadPoolExecutor() as pool,
    ):
        for one in (cache, patient):
            one.set("a", 1, wait=True)
        with suppress(NoFreeBuckets):
            while True:
                client.allocate_bucket(timeout_ms=1)
        sets = [partial(one.set, "b", bytes(8 << 20)) for one in (cache, patient)]
        outcomes = [pool.submit(outcome_of, one) for one in sets]  # they wait for buckets
        deadline = time.monotonic() + 60
        while waiting(own_daemon) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        own_daemon.end(signal.SIGTERM)
        assert [one.result(60) for one in outcomes] == ["ConnectionLost", "done"]


def waiting(daemon: DaemonProcess) -> int:
    """How many allocations wait."""
    state = daemon.ask("Admin.Status")["parameters"]["state"]
    return sum(state["waiters"].values())


def test_no_older_value_comes_back_for_one_whose_commit_was_lost(own_daemon: DaemonProcess) -> None:
    path = str(own_daemon.socket_path)
    with Cache(path) as cache:
        cache.set("a", "older", durable=True)
        assert own_daemon.process is not None
        own_daemon.process.send_signal(signal.SIGSTOP)
        cache.set("a", "newer")  # sent, never answered
        assert cache["a"] == "newer"
        own_daemon.process.kill()
        own_daemon.process.wait()
        own_daemon.start()
        own_daemon.wait_until_ready()
        assert until_connected(cache, "a") is None
        assert cache.stats().lost == 1
        with pytest.raises(ConnectionLost, match="1 objects were not committed"):
            cache.flush()
        cache.flush()
        cache.set("a", "newest", wait=True)
        assert cache["a"] == "newest"


def test_a_cache_outlives_its_volume_and_never_reads_another(own_daemon: DaemonProcess) -> None:
    path = str(own_daemon.socket_path)
    with Cache(path, "one") as one, Cache(path, "other") as other:
        one.set("a", "of one", wait=True)
        assert one["a"] == "of one"
        (volume,) = own_daemon.ask("Admin.ListVolumes")["parameters"]["volumes"]
        own_daemon.ask("Admin.DeleteVolume", inode=volume["inode"], force=True)
        other.set("a", "of the other", wait=True)
        assert one.get("a") is None
        one.set("a", "again")
        one.flush()
        assert (one["a"], other["a"]) == ("again", "of the other")


def test_a_volume_that_is_deleted_while_objects_are_under_way(own_daemon: DaemonProcess) -> None:
    path = str(own_daemon.socket_path)
    with Cache(path, "one") as one:
        for number in range(300):
            one.set(str(number), number)
            if number == 150:
                (volume,) = own_daemon.ask("Admin.ListVolumes")["parameters"]["volumes"]
                own_daemon.ask("Admin.DeleteVolume", inode=volume["inode"], force=True)
        one.set("last", 1, wait=True)
        assert one["last"] == 1
        assert own_daemon.ask("Admin.Verify") == {"parameters": {"violations": []}}


def test_what_was_stored_in_a_deleted_volume_is_not_followed_by_what_is_older_in_the_next(
    own_daemon: DaemonProcess,
) -> None:
    path = str(own_daemon.socket_path)
    with Cache(path, "one") as one, Cache(path, "one") as other:
        one.set("space", 1, wait=True)
        (volume,) = own_daemon.ask("Admin.ListVolumes")["parameters"]["volumes"]
        own_daemon.ask("Admin.DeleteVolume", inode=volume["inode"], force=True)
        other.set("a", "older", wait=True)  # in a volume that it makes
        session = one._objects.sessions.existing
        assert session is not None
        one.set("a", "newer")
        with one._objects.sessions.lock, suppress(NoSuchVolume):
            session.commits.drain()
            session.commits.raise_error()
        assert one.get("a") is None
        one.set("a", "newest", wait=True)
        assert one["a"] == other["a"] == "newest"


STORE = """
import atexit, multiprocessing, os, sys, threading
if "at exit" in sys.argv:  # called after what the library does there
    atexit.register(lambda: store(Cache(*sys.argv[1:3])))
from bcached.client import Cache
def store(cache):
    for number in range(20): cache.set(str(number), number)
def store_and_drop():
    store(Cache(*sys.argv[1:3]))
def no_thread(thread):
    raise RuntimeError("can't start new thread")
"""
ENDS = {
    "program": "kept = Cache(*sys.argv[1:3]); store(kept)",
    "at exit": "",
    "without threads": """
threading.Thread.start = no_thread
kept = Cache(*sys.argv[1:3])
store(kept)
os._exit(0)""",
    "dropped": "store_and_drop()",
    "multiprocessing": """
kept = Cache(*sys.argv[1:3])
child = multiprocessing.get_context("fork").Process(target=store, args=(kept,))
child.start()
child.join()
os._exit(child.exitcode)""",
}


@pytest.mark.parametrize("how", ENDS)
def test_the_end_of_a_program_or_a_cache_sends_what_it_has_stored(daemon: DaemonProcess, how: str) -> None:
    path = str(daemon.socket_path)
    with Cache(path, how) as cache:
        cache.set_many({str(number): "old" for number in range(20)}, wait=True)
        command = [sys.executable, "-c", STORE + ENDS[how], path, how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        daemon.ask("Allocator.Flush")  # behind what it had sent
        assert cache.get_many(map(str, range(20))) == {str(number): number for number in range(20)}


def test_a_cache_that_is_collected_sends_what_it_has_stored(daemon: DaemonProcess) -> None:
    path = str(daemon.socket_path)
    script = STORE + "store_and_drop(); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, path, "collected"]
    with (
        Cache(path, "collected") as cache,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 60
        while cache.get("19") != 19:  # its thread may be about to see that it is collected
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert process.poll() is None
        assert cache.get_many(map(str, range(20))) == {str(number): number for number in range(20)}


def test_a_forked_child_has_a_session_of_its_own(own_daemon: DaemonProcess) -> None:
    path = str(own_daemon.socket_path)
    with Cache(path) as cache:
        for number in range(100):
            cache.set(f"parent {number}", number)
        cache.flush(durable=False)

        def own_work() -> object:
            cache.set("grandchild", 1, wait=True)
            return cache["child 1"]

        def work() -> object:
            found = len(cache.get_many(f"parent {number}" for number in range(100)))
            for number in range(100):
                cache.set(f"child {number}", number)
            grandchild = in_child(own_work)
            cache.close()
            return found, grandchild

        assert in_child(work) == "(100, '1')"
        assert len(cache.get_many(f"child {number}" for number in range(100))) == 100
        assert cache["grandchild"] == 1
        cache.set("parent", "afterwards", wait=True)
        assert cache["parent 99"] == 99


KILLED = """
import sys
from bcached.client import Cache
cache = Cache(sys.argv[1])
cache.set("done", 1, wait=True)
print("ready", flush=True)
number = 0
while True:
    cache.set(str(number % 50), number)
    number += 1
"""


def test_the_space_of_a_killed_client_is_taken_back(own_daemon: DaemonProcess) -> None:
    path = str(own_daemon.socket_path)
    for _ in range(3):
        client = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE)
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        time.sleep(0.2)
        client.kill()
        client.wait()
        client.stdout.close()
    with Cache(path) as cache:
        assert cache["done"] == 1
        numbers = cache.get_many(map(str, range(50)))
        assert all(value % 50 == int(name) for name, value in numbers.items())
        cache.set("another", 1, wait=True)
    deadline = time.monotonic() + 30
    while own_daemon.ask("Admin.Status")["parameters"]["state"]["reserved_sectors"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert own_daemon.ask("Admin.Verify") == {"parameters": {"violations": []}}
