# SPDX-License-Identifier: GPL-2.0-only
"""A cache whose calls are interrupted anywhere: it stays usable, and all processes agree on what it has."""

import contextlib
import os
import threading
from collections.abc import Callable
from functools import partial

import pytest

from bcached.client import Cache
from bcached.errors import ConnectionLost
from instruments.clients.daemon_process import DaemonProcess
from instruments.time.interruptions import interrupted_at

ALL = bool(os.environ.get("BCACHED_SWEEP"))
STEP = 1 if ALL else 23  # of the places, the first ones of which differ from verb to verb


def set_and_flush(cache: Cache) -> None:
    cache.set_many({"c": 1, "d": 2})
    cache.flush()


VERBS: dict[str, Callable[[Cache], object]] = {
    "set": lambda cache: cache.set("a", b"new"),
    "set and wait": lambda cache: cache.set("a", b"new", wait=True),
    "set a long value": lambda cache: cache.set("a", bytes(300_000), durable=True),
    "add": lambda cache: cache.add("b", 1),
    "incr": lambda cache: cache.incr("n"),
    "touch": lambda cache: cache.touch("a", 60),
    "delete": lambda cache: cache.delete("a"),
    "get many": lambda cache: cache.get_many(["a", "n", "c"]),
    "set many and flush": set_and_flush,
}


@pytest.mark.parametrize("verb", VERBS)
def test_an_interruption_anywhere_leaves_a_cache_that_others_agree_with(
    daemon: DaemonProcess, verb: str
) -> None:
    path, label = str(daemon.socket_path), f"interrupted {verb}"[:32]
    with Cache(path, label) as cache, Cache(path, label) as other:
        number = list(VERBS).index(verb)
        prepare(cache)
        while interrupted_at(number, partial(VERBS[verb], cache)):
            with contextlib.suppress(ConnectionLost):  # for what was lost, and dropped
                cache.flush(durable=False)
            for name in ("a", "b", "c", "d", "n"):
                assert cache.get(name) == other.get(name), f"{name} after an interruption at {number}"
            in_another_thread(lambda: cache.set("after", number, wait=True))  # noqa: B023 - ends before the next
            assert other["after"] == number
            number += STEP
            prepare(cache)
        assert number > STEP
        with contextlib.suppress(ConnectionLost):
            cache.flush()


def test_a_call_within_another_one_is_refused_and_a_hit_is_not(daemon: DaemonProcess) -> None:
    """As a signal handler makes it."""
    with Cache(str(daemon.socket_path), "handlers") as cache:
        cache.set("known", b"value", wait=True)
        session = cache._objects.sessions.existing
        assert session is not None
        for lock in (cache._objects.sessions.lock, session.channel._lock):
            with lock:
                assert cache["known"] == b"value"
                for call in (
                    cache.close,
                    cache.flush,
                    lambda: cache.set("a", 1),
                    lambda: cache.get("unknown"),
                ):
                    with pytest.raises(RuntimeError, match="in the middle of another call"):
                        call()
        cache.flush()
        assert cache.stats().lost == 0


def prepare(cache: Cache) -> None:
    cache.delete_many(["b", "c", "d"])
    cache.set("a", b"old", wait=True)
    cache.set("n", 1, wait=True)
    cache.set("gathered", 1)


def in_another_thread(work: Callable[[], object]) -> None:
    """Do it where no lock that an interrupted call kept is one's own."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits for what an interrupted call has kept"
