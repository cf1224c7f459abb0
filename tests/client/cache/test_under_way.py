# SPDX-License-Identifier: GPL-2.0-only
"""What a process reads of its own objects while their commits are under way."""

import math
from collections.abc import Iterator
from threading import Event

import pytest

from bcached.client import Cache
from bcached.client.cache.commits import Pending
from bcached.client.cache.sender import Sender
from bcached.client.cache.session import CacheSession
from bcached.client.cache.values.names import offset_of
from bcached.client.protocol import verbs
from bcached.errors import ConnectionLost, NotReserved
from instruments.clients.daemon_process import DaemonProcess
from instruments.clients.relay import Relay

NAME = "a"


class Replies:
    """A hook of a relay: while they are held, commits have no replies."""

    def __init__(self) -> None:
        self.may_pass = Event()
        self.may_pass.set()
        self.is_held = Event()  # one is

    def __call__(self, reply: bytes) -> None:
        if b'"versions":[' in reply and not self.may_pass.is_set():
            self.is_held.set()
            assert self.may_pass.wait(60)


@pytest.fixture
def replies() -> Replies:
    return Replies()


@pytest.fixture
def cache(daemon: DaemonProcess, replies: Replies) -> Iterator[Cache]:
    """A cache that has space, and whose replies may be held."""
    with (
        Relay(daemon.folder / "relay", daemon.socket_path, replies) as relay,
        Cache(str(relay.path), "under way") as cache,
    ):
        cache.clear()
        cache.set("space", 1, wait=True)
        yield cache
        replies.may_pass.set()
        relay.path.unlink()


def session_of(cache: Cache) -> CacheSession:
    session = cache._objects.sessions.existing
    assert session is not None
    return session


def test_what_was_gathered_when_the_session_was_lost_is_not_waited_for(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sender, "want", lambda _: None)
    session = session_of(cache)
    session.commits._due_s = math.inf
    cache.set(NAME, "gathered")
    pending = session.commits.newest[offset_of(NAME.encode())]
    assert not pending.is_sent
    cache._objects.sessions.lose(session)
    for _ in range(2):  # the first thread tries to send it, the second finds it neither sent nor to be sent
        with pytest.raises(ConnectionLost):
            session.commits.settle(pending)
    cache.set(NAME, "again", wait=True)
    assert cache.stats().lost == 1


def test_an_object_is_read_without_a_look_at_answers_until_its_slot_changes(
    cache: Cache, replies: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, looks = session_of(cache), []
    monkeypatch.setattr(session.commits, "poll", lambda: looks.append(1))
    monkeypatch.setattr(session.commits, "send", lambda: None)  # it stays gathered
    cache.set(NAME, b"own")
    looks.clear()
    assert cache[NAME] == b"own"
    assert looks == []
    monkeypatch.undo()
    cache.flush(durable=False)
    assert session.recall.known(NAME.encode()) is not None, "it is known as what was committed"


def test_an_object_that_is_not_sent_is_known_whatever_others_commit(
    daemon: DaemonProcess, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(cache)
    monkeypatch.setattr(session.commits, "send", lambda: None)  # it stays gathered
    cache.set(NAME, b"own")
    with Cache(str(daemon.socket_path), "under way") as other:
        other.set(NAME, b"theirs", wait=True)
        found = session.recall.known(NAME.encode())
        assert found is not None
        assert found[1] == b"own"
        session.commits.newest[offset_of(NAME.encode())].is_sent = True  # it may be committed before theirs
        assert session.recall.known(NAME.encode()) is None
        session.commits.newest[offset_of(NAME.encode())].is_sent = False
        monkeypatch.undo()
        cache.flush(durable=False)
        assert cache[NAME] == other[NAME] == b"own"


def let_pass_what_is_awaited(cache: Cache, replies: Replies, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit may have been carried out before its object is read, which then waits for the reply."""
    commits = session_of(cache).commits
    settle = commits.settle

    def settle_at_last(one: Pending) -> None:
        replies.may_pass.set()
        settle(one)

    monkeypatch.setattr(commits, "settle", settle_at_last)


def test_the_newest_of_several_is_read(
    cache: Cache, replies: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_pass_what_is_awaited(cache, replies, monkeypatch)
    replies.may_pass.clear()
    for number in range(3):
        cache.set(NAME, number)
        assert cache[NAME] == number
    replies.may_pass.set()
    cache.flush(durable=False)
    assert cache[NAME] == 2


def test_another_processs_later_object_is_read_although_no_answer_came_yet(
    daemon: DaemonProcess, cache: Cache, replies: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cache(str(daemon.socket_path), "under way") as other:
        replies.may_pass.clear()
        cache.set(NAME, "own")
        session_of(cache).commits.send()
        assert replies.is_held.wait(60)  # so it is committed
        other.set(NAME, "newer", wait=True)
        let_pass_what_is_awaited(cache, replies, monkeypatch)
        assert cache[NAME] == "newer"


def test_an_object_that_was_refused_is_read_no_more(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(cache)
    add = session.commits.add

    def add_what_is_not_reserved(one: Pending, *, wait: bool, durable: bool) -> None:
        session.at.send_oneway(verbs.release_message(tuple(one.keys)))
        add(one, wait=wait, durable=durable)

    monkeypatch.setattr(session.commits, "add", add_what_is_not_reserved)
    cache.set(NAME, b"own")
    with pytest.raises(NotReserved):
        cache.flush(durable=False)
    assert cache.get(NAME) is None
    assert cache.get(NAME) is None
