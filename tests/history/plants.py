# SPDX-License-Identifier: GPL-2.0-only
"""Planted bugs of the cache: a step left out, by a patch in a worker. The rules must find each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from bcached.client.cache import reading
from bcached.client.cache.commits import Commits
from bcached.client.cache.object_format import HEADER_BYTES, StoredObject, value_at
from bcached.wire.change_map import ChangeMap


def _unchecked(data: bytes, name: bytes) -> StoredObject | None:
    """Returns what an object of this name would have there, whatever the bytes are."""
    kinds, length = (int.from_bytes(data[at : at + 8], "little") for at in (16, 24))
    begins = value_at(kinds >> 32, length) if len(data) >= HEADER_BYTES else 0
    return StoredObject(0, data[begins : begins + length], 0, 0, 0)


def without_change_counters() -> Any:
    """A position that is known is used although the object was replaced."""
    return patch.object(ChangeMap, "counter", lambda *_: 0)


def without_gens() -> Any:
    """The gens are not compared after a read; the object's checksum and name still are."""
    return patch.object(reading, "valid_pointers", lambda _at, _gens, key, _since: key.pointers)


@contextmanager
def without_gens_and_checksums() -> Iterator[None]:
    """Neither gens nor checksum and name are compared: what a reused bucket contains is returned."""
    with without_gens(), patch.object(reading, "decoded", _unchecked):
        yield


def without_durability() -> Any:
    """A durable commit is answered before its flush."""
    add = Commits.add

    def added(self: Commits, one: Any, *, durable: bool = False) -> None:
        add(self, one)
        self.send()

    return patch.object(Commits, "add", added)


def without_waiting() -> Any:
    """set(wait=True) returns before the commit is answered."""
    return patch.object(Commits, "finish", lambda *_: None)


def without_if_absent() -> Any:
    """An object is added in place of another one."""

    def added(self: Commits, one: Any, *, durable: bool = False) -> bool:
        self.add(one, durable=durable)
        self.finish(one)
        return True

    return patch.object(Commits, "add_if_absent", added)


PLANTS: dict[str, Callable[[], Any]] = {
    "gens": without_gens,
    "gens and checksums": without_gens_and_checksums,
    "counters": without_change_counters,
    "durability": without_durability,
    "wait": without_waiting,
    "if_absent": without_if_absent,
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """That bug while the block lasts; none without a name."""
    if not name:
        yield
        return
    with PLANTS[name]():
        yield
