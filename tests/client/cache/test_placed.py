# SPDX-License-Identifier: GPL-2.0-only
"""What another process stored is found without a request, as long as it is the newest."""

from collections.abc import Callable, Iterator

import pytest

from bcached.client import Cache
from bcached.client.cache.session import CacheSession
from bcached.client.cache.values.names import offset_of
from instruments.clients.daemon_process import DaemonProcess


@pytest.fixture
def here(daemon: DaemonProcess, request: pytest.FixtureRequest) -> Iterator[Cache]:
    with Cache(str(daemon.socket_path), request.node.name[:32]) as cache:
        yield cache


@pytest.fixture
def there(here: Cache, daemon: DaemonProcess, request: pytest.FixtureRequest) -> Iterator[Cache]:
    """Another one on the same volume, connected."""
    with Cache(str(daemon.socket_path), request.node.name[:32]) as cache:
        cache.get("connected")
        yield cache


def session_of(cache: Cache) -> CacheSession:
    session = cache._objects.sessions.existing
    assert session is not None
    return session


def placed(cache: Cache, name: bytes) -> bytes | None:
    """The stored bytes, if they are found without a request."""
    found = session_of(cache).placed.find(name)
    return None if found is None else found.value


@pytest.mark.parametrize("value", [b"", b"v" * 200, b"w" * 3000], ids=len)
def test_what_was_stored_there_is_found_here_without_a_request(
    here: Cache, there: Cache, value: bytes, daemon: DaemonProcess
) -> None:
    there.set("a", value, wait=True)
    there.set("a", value[::-1] + b".", wait=True)
    here.get("connected")
    lookups = daemon.ask("Admin.Status")["parameters"]["state"]["lookups"]
    assert here["a"] == value[::-1] + b"."
    assert daemon.ask("Admin.Status")["parameters"]["state"]["lookups"] == lookups


CHANGES: dict[str, Callable[[Cache], object]] = {
    "set": lambda cache: cache.set("a", b"2" * 200_000, wait=True),  # in several extents
    "touch": lambda cache: cache.touch("a", 1000),
    "delete": lambda cache: cache.delete("a"),
    "clear": lambda cache: cache.clear(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_it_is_looked_up(here: Cache, there: Cache, change: str) -> None:
    there.set("a", b"1", wait=True)
    here.get("connected")
    assert placed(here, b"a") == b"1"
    CHANGES[change](there)
    assert placed(here, b"a") is None
    assert here.get("a") == there.get("a") == {"set": b"2" * 200_000, "touch": b"1"}.get(change)


def test_what_one_has_looked_up_another_finds(here: Cache, there: Cache) -> None:
    there.set("a", b"1", wait=True)
    session = session_of(there)
    assert session.changes.places is not None
    index = session.changes.index(session.inode, offset_of(b"a"))
    here.get("connected")
    there.add("b", b"2")  # without a range to replace: it is not published by its commit
    assert placed(here, b"a") == b"1"
    assert session.changes.places.get(index, session.inode, offset_of(b"b") >> 17) is None
    assert session.find(b"a", offset_of(b"a")) is not None
    assert placed(here, b"a") == b"1"


def test_another_names_object_is_not_taken(here: Cache, there: Cache) -> None:
    there.set("a", b"1", wait=True)
    here.get("connected")
    session = session_of(here)
    assert session.placed.at(b"b", offset_of(b"a")) is None


def test_a_place_of_before_two_collections_is_not_believed(
    here: Cache, there: Cache, daemon: DaemonProcess
) -> None:
    there.set("a", b"1", wait=True)
    here.get("connected")
    session = session_of(here)
    now = session.gens.now().gc_epochs[0]
    for _ in range(2):
        daemon.ask("Admin.CollectGarbage", wait=True)
    assert session.gens.now().gc_epochs[0] >= now + 2
    assert placed(here, b"a") is None
    assert here["a"] == b"1"
