# SPDX-License-Identifier: GPL-2.0-only
"""Which backends of a process share a cache."""

import os

from bcached.adapters.shared_caches import close_shared_caches, shared_cache
from instruments.clients.daemon_process import DaemonProcess


def test_a_cache_is_shared_by_those_that_use_it_in_the_same_way(daemon: DaemonProcess) -> None:
    path = str(daemon.socket_path)
    one = shared_cache(path, "a", serializer="pickle")
    one.set("name", {1})
    assert shared_cache(path, "a", serializer="pickle") is one
    assert shared_cache(path, "b", serializer="pickle") is not one
    assert shared_cache(path, "a", serializer="msgpack") is not one
    assert shared_cache(path, "a", serializer="pickle", ignore_unavailable=True) is not one


def test_after_they_were_closed_another_one_opens(daemon: DaemonProcess) -> None:
    path = str(daemon.socket_path)
    one = shared_cache(path, "closed", serializer="pickle")
    one.set("name", 1)
    close_shared_caches()
    close_shared_caches()
    another = shared_cache(path, "closed", serializer="pickle")
    assert another is not one
    assert another.get("name") == 1


def test_a_forked_child_has_the_same_values_on_a_connection_of_its_own(daemon: DaemonProcess) -> None:
    path = str(daemon.socket_path)
    shared_cache(path, "forked", serializer="pickle").set("parent", 1, wait=True)
    child = os.fork()
    if child == 0:
        cache = shared_cache(path, "forked", serializer="pickle")
        cache.set("child", 2, wait=True)
        os._exit(3 if cache.get("parent") == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    cache = shared_cache(path, "forked", serializer="pickle")
    assert cache.get_many(["parent", "child"]) == {"parent": 1, "child": 2}
