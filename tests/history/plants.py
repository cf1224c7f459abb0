# SPDX-License-Identifier: GPL-2.0-only
"""Planted bugs of the cache: a step left out, by a patch in a worker. The rules must find each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from bcached.client.cache.commits import Commits
from bcached.client.cache.finding import reading
from bcached.client.cache.finding.known_object import KnownExtent, KnownObject
from bcached.client.cache.finding.placed_objects import PlacedObjects
from bcached.client.cache.finding.recall import Recall
from bcached.client.cache.session import CacheSession
from bcached.client.cache.values.object_format import CHECKED_AT, HEADER_BYTES, Seal, StoredObject, value_at
from bcached.wire.change_map import ChangeMap


def _unchecked(data: bytes, name: bytes) -> StoredObject | None:
    """Returns what an object of this name would have there, whatever the bytes are."""
    kinds, length = (int.from_bytes(data[at : at + 8], "little") for at in (16, 24))
    begins = value_at(kinds >> 32, length) if len(data) >= HEADER_BYTES else 0
    return StoredObject(
        Seal(0, 0, 0, data[CHECKED_AT:begins], begins + length), data[begins : begins + length]
    )


def _before_hits(change: Callable[[Recall, KnownObject], None]) -> Any:
    """What is known of an object is changed before each hit, so that a check of it finds what it expects."""
    known = Recall.known

    def changed(self: Recall, name: bytes, *how: Any, **named: Any) -> tuple[KnownObject, bytes] | None:
        one = self._positions.get(name)
        if isinstance(one, KnownObject):
            change(self, one)
        return known(self, name, *how, **named)

    return patch.object(Recall, "known", changed)


def _with_todays_counter(recall: Recall, one: KnownObject) -> None:
    one.version = recall._counters[one.counter]


def _with_todays_gens(_: Recall, one: KnownObject) -> None:
    parts: list[KnownObject | KnownExtent] = [one, *(one.others or ())]
    for part in parts:
        part.gen = part.member.gens[part.bucket]


@contextmanager
def without_change_counters() -> Iterator[None]:
    """A position that is known is used although the object was replaced."""
    with (
        patch.object(ChangeMap, "counter", lambda *_: 0),
        _before_hits(_with_todays_counter),
        without_condition(),  # which no counter would fulfil
    ):
        yield


@contextmanager
def without_gens() -> Iterator[None]:
    """The gens are not compared after a read; the object's checksum and name still are."""
    with (
        patch.object(reading, "valid_pointers", lambda _at, _gens, key, _since: key.pointers),
        _before_hits(_with_todays_gens),
    ):
        yield


@contextmanager
def without_gens_and_checksums() -> Iterator[None]:
    """Neither gens nor checksum and name are compared: what a reused bucket contains is returned."""
    with (
        without_gens(),
        patch.object(reading, "decoded", _unchecked),
        patch.object(Recall, "known", lambda *_, **__: None),
    ):
        yield


def without_versions_of_places() -> Any:
    """A place is believed although its region has changed since."""
    at = PlacedObjects.at

    def believing(self: PlacedObjects, name: bytes, offset: int, *how: Any) -> StoredObject | None:
        index = self._changes.index(self._inode, offset)
        region = offset >> self._shift
        placed = self._places.get(self._first + region, self._inode, region)
        real = self._counters
        self._counters = {index: placed.version} if placed is not None else real  # type: ignore[assignment]
        try:
            return at(self, name, offset, *how)
        finally:
            self._counters = real

    return patch.object(PlacedObjects, "at", believing)


def without_durability() -> Any:
    """A durable commit is answered before its flush."""
    add = Commits.add

    def added(self: Commits, one: Any, *, wait: bool = False, durable: bool = False) -> None:
        add(self, one, wait=wait or durable)
        self.send()

    return patch.object(Commits, "add", added)


def without_waiting() -> Any:
    """set(wait=True) returns before the commit is answered."""
    return patch.object(Commits, "finish", lambda *_: None)


@contextmanager
def without_condition() -> Iterator[None]:
    """An object is added in place of another one."""

    def added(self: Commits, one: Any, *_version: int, durable: bool) -> bool:
        self.add(one, wait=True, durable=durable)
        return True

    with (
        patch.object(CacheSession, "version_of", lambda *_: 0),
        patch.object(Commits, "send_if_unchanged", added),
        patch.object(Commits, "send_if_absent", added),
    ):
        yield


PLANTS: dict[str, Callable[[], Any]] = {
    "gens": without_gens,
    "gens and checksums": without_gens_and_checksums,
    "counters": without_change_counters,
    "places": without_versions_of_places,
    "durability": without_durability,
    "wait": without_waiting,
    "add": without_condition,
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """That bug while the block lasts; none without a name."""
    if not name:
        yield
        return
    with PLANTS[name]():
        yield
