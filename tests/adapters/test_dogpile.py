# SPDX-License-Identifier: GPL-2.0-only
"""The backend of dogpile.cache: the suite that dogpile.cache ships, and what several processes do."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dogpile.cache import CacheRegion, make_region
from dogpile.cache.api import NO_VALUE
from dogpile.testing.fixtures import (
    _GenericBackendFixture,
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

from bcached.adapters.dogpile import LONGEST_KEY_BYTES, BcachedBackend
from bcached.adapters.shared_caches import close_shared_caches
from bcached.client import Cache
from bcached.errors import ConnectionLost
from instruments.clients.daemon_process import DaemonProcess

ARGUMENTS: dict[str, Any] = {"volume": "suite"}  # the fixture adds the path
WITHOUT_TIMEOUT: dict[str, Any] = {"volume": "suite", "lock_timeout": None}
OF_THIS_PROCESS: dict[str, Any] = {"volume": "suite", "distributed_lock": False}


@pytest.fixture(scope="module", autouse=True)
def path(daemon: DaemonProcess) -> Iterator[str]:
    for arguments in (ARGUMENTS, WITHOUT_TIMEOUT, OF_THIS_PROCESS):
        arguments["path"] = str(daemon.socket_path)
    yield str(daemon.socket_path)
    close_shared_caches()


@pytest.mark.filterwarnings("ignore:arguments of bcached")  # which the suite makes up
class TestSuite(_GenericBackendTestSuite, _GenericMutexTestSuite):
    backend = "bcached"
    config_args = {"arguments": ARGUMENTS}  # noqa: RUF012 - as the suite has it


if "BCACHED_SWEEP" in os.environ:  # the same suites with other locks take as long again, most of it in waits

    class TestSuiteWithoutLockTimeout(_GenericBackendTestSuite, _GenericMutexTestSuite):
        backend = "bcached"
        config_args = {"arguments": WITHOUT_TIMEOUT}  # noqa: RUF012 - as the suite has it

    class TestSuiteWithLocksOfThisProcess(_GenericBackendTestSuite):
        backend = "bcached"
        config_args = {"arguments": OF_THIS_PROCESS}  # noqa: RUF012 - as the suite has it


class TestSerializerSuite(_GenericSerializerTestSuite, _GenericBackendFixture):
    backend = "bcached"
    config_args = {"arguments": ARGUMENTS}  # noqa: RUF012 - as the suite has it


def region_of(path: str, volume: str, **arguments: object) -> CacheRegion:
    region = make_region()
    region.configure("bcached", arguments={"path": path, "volume": volume, **arguments})
    return region


CREATE = """
import json, os, sys, time
from dogpile.cache import make_region
path, folder = sys.argv[1:]
region = make_region().configure("bcached", arguments={"path": path, "volume": "processes"})
def create(key):
    with open(os.path.join(folder, key), "a") as calls:
        calls.write(f"{os.getpid()}\\n")
    time.sleep(0.05)
    return [key, os.getpid()]
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps([region.get_or_create(str(n), create, creator_args=((str(n),), {})) for n in range(20)]))
"""


def test_of_several_processes_one_creates_a_value_and_all_have_it(path: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CREATE, path, str(tmp_path)]
    programs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for one in programs:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in programs:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    answers = [json.loads(one.communicate(timeout=60)[0]) for one in programs]
    assert answers[1:] == answers[:1] * 3
    for number, (key, creator) in enumerate(answers[0]):
        assert key == str(number)
        assert (tmp_path / key).read_text() == f"{creator}\n"


HOLD = """
import sys
from bcached.adapters.dogpile import BcachedBackend
backend = BcachedBackend({"path": sys.argv[1], "volume": "killed", "lock_timeout": 1.0})
backend.get_mutex("key").acquire()
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_lock_whose_holder_was_killed_is_free_after_its_timeout(path: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == b"held\n"
    holder.kill()
    holder.communicate()
    region = region_of(path, "killed", lock_timeout=1.0)
    began = time.monotonic()
    assert region.get_or_create("key", lambda: 7) == 7
    assert time.monotonic() - began < 30
    assert not region.key_is_locked("key")


def test_a_holder_whose_lock_expired_does_not_release_the_next_ones(path: str) -> None:
    backend = BcachedBackend({"path": path, "volume": "expired", "lock_timeout": 0.05})
    patient = BcachedBackend({"path": path, "volume": "expired", "lock_timeout": None})
    first, second = backend.get_mutex("key"), patient.get_mutex("key")
    assert first is not None
    assert second is not None
    assert first.acquire()
    assert second.acquire()
    first.release()
    assert second.locked()
    second.release()
    assert not second.locked()


def values_of(region: CacheRegion, keys: list[str]) -> list[object]:
    return list(region.get_multi(keys, ignore_expiration=True))


def test_a_long_key_is_a_key(path: str) -> None:
    region = region_of(path, "long")
    keys = ["k" * LONGEST_KEY_BYTES, "k" * (LONGEST_KEY_BYTES + 1), "k" * 100_000]
    for number, key in enumerate(keys):
        assert region.get_or_create(key, lambda number=number: number) == number
    assert values_of(region, keys) == [0, 1, 2]
    region.delete_multi(keys)
    assert values_of(region, keys) == [NO_VALUE] * 3


def test_a_value_is_dropped_when_it_expires(path: str) -> None:
    region = region_of(path, "expire", expire=0.05)
    region.set("a", 1)
    region.set_multi({"b": 2})
    time.sleep(0.06)
    assert values_of(region, ["a", "b"]) == [NO_VALUE, NO_VALUE]


def test_a_value_that_was_set_is_seen_by_all(path: str) -> None:
    region = region_of(path, "seen")
    with Cache(path, "seen") as other:
        for number in range(20):
            region.set("a", number)
            assert isinstance(stored := other["a"], bytes)
            assert region._parse_serialized_from_backend(stored).payload == number


def test_arguments_are_checked(path: str) -> None:
    with pytest.warns(UserWarning, match=r"\['volum'\] are none of .*'volume'"):
        BcachedBackend({"path": path, "volum": "typo"})


def test_without_a_daemon(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nothing")
    with pytest.raises(ConnectionLost):
        region_of(nowhere, "away").get("a")
    region = region_of(nowhere, "away", ignore_unavailable=True)
    region.set("a", 1)
    region.set_multi({"a": 1})
    assert region.get("a") is NO_VALUE
    assert region.get_or_create("a", lambda: 2) == 2
    assert region.get_or_create_multi(["a", "b"], lambda *keys: list(keys)) == ["a", "b"]
    region.delete("a")
    region.delete_multi(["a"])
    assert not region.key_is_locked("a")
