# SPDX-License-Identifier: GPL-2.0-only
"""Hits without a request: every check that fails makes the caller look it up."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from bcached.client import Cache
from bcached.client.cache.commits import Pending
from bcached.client.cache.finding.known_object import KnownExtent, KnownObject
from bcached.client.cache.finding.reading import StaleRead
from bcached.client.cache.finding.recall import Read
from bcached.client.cache.session import CacheSession
from bcached.wire.gen_map import GC_EPOCH_WORD, LIFE_WORD
from instruments.clients.daemon_process import DaemonProcess

VALUES = [b"", b"v" * 200, b"w" * 4096, b"x" * 65_535, b"y" * 65_536, b"z" * 300_000]
SHORT, MEDIUM, LONG = b"v" * 200, b"m" * 70_000, b"z" * 300_000


@pytest.fixture
def session(daemon: DaemonProcess, request: pytest.FixtureRequest) -> Iterator[CacheSession]:
    """The session of a cache with three objects that it knows."""
    with Cache(str(daemon.socket_path), request.node.name[:32]) as cache:
        cache.set_many({"short": SHORT, "medium": MEDIUM, "long": LONG}, wait=True)
        session = cache._objects.sessions.existing
        assert session is not None
        yield session


def value(session: CacheSession, name: bytes, read: Read = os.pread) -> bytes | None:
    found = session.recall.known(name, read)
    return None if found is None else found[1]


def is_known(session: CacheSession, name: bytes) -> bool:
    """Whether it is, if need be after it was read once more: a collection ends what is known."""
    for _ in range(10):
        if value(session, name) is not None:
            return True
        position = session.positions.get(name)
        if position is None:
            return False
        session.find_known(name, position)
    return False


@pytest.mark.parametrize("stored", VALUES, ids=len)
def test_an_object_is_known_to_the_one_that_stored_it_and_to_one_that_read_it(
    daemon: DaemonProcess, stored: bytes
) -> None:
    path = str(daemon.socket_path)
    with Cache(path, "known") as here, Cache(path, "known") as there:
        name = b"%d" % len(stored)
        here.set(name, stored, wait=True)
        assert there[name] == stored
        for cache in (here, there):
            session = cache._objects.sessions.existing
            assert session is not None
            assert is_known(session, name)
            assert value(session, name) in (stored, None)
            assert value(session, b"another") is None


@contextmanager
def changed(member: object, slot: str, at: int) -> Iterator[None]:
    """One word of a mapped file with another value."""
    real = getattr(member, slot)
    other = memoryview(bytearray(real)).cast(real.format)
    other[at] ^= 1
    setattr(member, slot, other)
    yield
    setattr(member, slot, real)


@pytest.mark.parametrize("name", [b"short", b"long"])
@pytest.mark.parametrize("place", ["gen", "life", "gc_epoch"])
@pytest.mark.parametrize("which", [0, -1])
def test_each_word_of_the_maps_counts(session: CacheSession, name: bytes, place: str, which: int) -> None:
    assert is_known(session, name)
    one = session.positions.get(name)
    assert isinstance(one, KnownObject)
    parts: list[KnownObject | KnownExtent] = [one, *(one.others or ())]
    part = parts[which]
    at = {"gen": part.bucket, "life": LIFE_WORD, "gc_epoch": GC_EPOCH_WORD}[place]
    with changed(part.member, "gens" if place == "gen" else "words", at):
        assert value(session, name) is None
    assert is_known(session, name)


@pytest.mark.parametrize("name", [b"short", b"long"])
def test_the_change_counter_counts(session: CacheSession, name: bytes) -> None:
    assert is_known(session, name)
    one = session.positions.get(name)
    assert isinstance(one, KnownObject)
    one.version ^= 1
    assert value(session, name) is None


@pytest.mark.parametrize("name", [b"short", b"medium"])
@pytest.mark.parametrize("where", ["first", "name", "last"])
def test_each_byte_that_is_read_counts(session: CacheSession, name: bytes, where: str) -> None:
    def spoilt(at: Callable[[bytearray], int]) -> Read:
        def read(descriptor: int, length: int, offset: int) -> bytes:
            data = bytearray(os.pread(descriptor, length, offset))
            data[at(data)] ^= 0x10
            return bytes(data)

        return read

    ats: dict[str, Callable[[bytearray], int]] = {
        "first": lambda _: 0,
        "name": lambda data: max(0, data.find(name)),
        "last": lambda _: -1,
    }
    assert is_known(session, name)
    assert value(session, name, spoilt(ats[where])) is None
    assert value(session, name, lambda *_: b"") is None
    assert is_known(session, name)


@contextmanager
def spoilt_byte(descriptor: int, at: int) -> Iterator[None]:
    """One byte of the device with another value."""
    real = os.pread(descriptor, 1, at)
    os.pwrite(descriptor, bytes([real[0] ^ 0x10]), at)
    yield
    os.pwrite(descriptor, real, at)


@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("at_end", [False, True])
def test_each_byte_of_a_long_object_counts(session: CacheSession, which: int, at_end: bool) -> None:
    assert is_known(session, b"long")
    one = session.positions.get(b"long")
    assert isinstance(one, KnownObject)
    parts: list[KnownObject | KnownExtent] = [one, *(one.others or ())]
    part = parts[which]
    device = next(it for it in session.at.description.devices if it.device == part.member.device)
    writer = os.open(device.data_path, os.O_RDWR)
    try:
        with spoilt_byte(writer, part.at + (part.length - 1 if at_end else 0)):
            assert value(session, b"long") is None
            position = session.positions.get(b"long")
            assert position is not None
            with suppress(StaleRead):  # a collection ends what is known
                assert session.find_known(b"long", position) is None
    finally:
        os.close(writer)
    assert is_known(session, b"long")


def test_what_is_not_in_memory_is_left_to_the_caller(session: CacheSession) -> None:
    def read(*_: int) -> bytes:
        raise BlockingIOError

    assert value(session, b"short", read) is None


def test_the_connection_counts(session: CacheSession) -> None:
    assert is_known(session, b"short")
    session.channel.close()
    assert value(session, b"short") is None
    assert value(session, b"long") is None


def test_a_value_under_way_is_not_taken_for_the_one_before_it(session: CacheSession) -> None:
    one = session.positions.get(b"short")
    assert isinstance(one, KnownObject)
    own = Pending(b"short", one.offset, one.keys, one.since, None)
    session.commits.newest[one.offset] = own
    assert value(session, b"short") is None
    assert is_known(session, b"long")
    own.known = one
    assert is_known(session, b"short")
    del session.commits.newest[one.offset]
    session.refused.append(0)
    assert value(session, b"long") is None
    session.refused.clear()
    assert is_known(session, b"short")


def test_a_closed_session_keeps_no_data_path_open(daemon: DaemonProcess) -> None:
    def images() -> int:
        links = [os.path.realpath(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd")]
        return sum(link.endswith("cache.img") for link in links)

    cache = Cache(str(daemon.socket_path), "open files")
    cache.set("a", 1, wait=True)
    assert cache["a"] == 1
    assert images() == 2
    cache.close()
    assert images() == 0
