# SPDX-License-Identifier: GPL-2.0-only
"""What is made of a cache by pickling or copying it."""

import copy
import json
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from bcached.client import AsyncCache, BlockingClient, Cache, Client
from instruments.clients.daemon_process import DaemonProcess

WAYS = [lambda one: pickle.loads(pickle.dumps(one)), copy.copy, copy.deepcopy]


@pytest.mark.parametrize("way", WAYS, ids=["pickle", "copy", "deepcopy"])
def test_a_copy_is_a_cache_of_its_own(daemon: DaemonProcess, way: Callable[[Cache], Cache]) -> None:
    with Cache(str(daemon.socket_path), "copies", serializer="pickle") as cache:
        cache.set("name", {1, 2}, wait=True)
        with way(cache) as another:
            assert another["name"] == {1, 2}
        cache.set("name", {3}, wait=True)  # the other one's end is not its own
        assert cache["name"] == {3}
    assert repr(way(cache)) == repr(cache)  # closed, and none the less


def store(cache: Cache) -> None:
    cache.set("by the child", 1)


def test_a_cache_is_passed_to_a_process(daemon: DaemonProcess) -> None:
    with Cache(str(daemon.socket_path), "passed") as cache:
        child = multiprocessing.get_context("spawn").Process(target=store, args=(cache,))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        daemon.ask("Allocator.Flush")
        assert cache["by the child"] == 1


def test_the_options_are_the_same() -> None:
    options = {"serializer": json, "ignore_unavailable": True, "patience_s": 0.01}
    made: Any = copy.deepcopy(AsyncCache("/nowhere/socket", 7, **options))  # type: ignore[arg-type]
    assert repr(made) == "<AsyncCache 7 at /nowhere/socket>"
    assert made._again.keywords == options


@pytest.mark.parametrize("kind", [Client, BlockingClient])
@pytest.mark.parametrize("way", WAYS, ids=["pickle", "copy", "deepcopy"])
def test_a_client_is_not_copied(kind: type, way: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match="connect another one to /nowhere"):
        way(kind("/nowhere"))
