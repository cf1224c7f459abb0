# SPDX-License-Identifier: GPL-2.0-only
"""A service of a few lines behind the real socket server: sectors from a counter, waiting on demand.

A Commit is made at once, or with WAITS when `may_commit` lets one through, and then durable when one of
`journal` is done; a Lookup gives as many keys as it has sectors, at the offset WAITS in its turn too.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from bcached.errors import NoFreeBuckets, NotReserved
from bcached.keys import Key, Pointer
from bcached.service.requests.method import (
    Decided,
    Later,
    Long,
    Operation,
    Operations,
    Outcome,
    Session,
    Stream,
)
from bcached.service.users.access import Role
from bcached.service.users.peer import Peer
from bcached.wire import admin_messages, messages, volume_messages
from bcached.wire.methods import METHODS

WAITS = 1000  # an inode for which Allocate waits until somebody releases something
FAILS = 1001  # an inode for which there is never room
BUG = 1002
LONG_LINE = "x" * 1000


class ToyService:
    """What it was asked is in `log`, in the order it ran."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.on_allocate: Callable[[], object] = lambda: None
        self.waiting: list[asyncio.Future[Key]] = []
        self.news: list[admin_messages.News] = []
        self.gone: list[Session] = []
        self.may_commit = asyncio.Semaphore(0)
        self.journal: list[asyncio.Future[None]] = []
        self.journal_is_shared = False  # all changes wait for one entry
        self.collections = 0
        self.may_collect = asyncio.Event()
        self._next = 0
        table = {
            "io.bcached.Allocator.Allocate": Operation(Role.ALLOCATOR, self.allocate, True, True),
            "io.bcached.Allocator.Release": Operation(Role.ALLOCATOR, self.release, True, True),
            "io.bcached.Allocator.Commit": Operation(
                Role.ALLOCATOR, self.commit, brief=True, changes=True, in_order=True
            ),
            "io.bcached.Allocator.Lookup": Operation(Role.READER, self.lookup, brief=True, in_order=True),
            "io.bcached.Allocator.Describe": Operation(Role.READER, self.describe),
            "io.bcached.Admin.Explain": Operation(Role.ADMIN, self.explain),
            "io.bcached.Admin.ListVolumes": Operation(Role.ADMIN, self.endless),
            "io.bcached.Admin.CollectGarbage": Operation(Role.ADMIN, self.collect, changes=True),
            "io.bcached.Monitor.Watch": Operation(Role.READER, self.watch, streams=True),
        }
        self.operations: Operations = {METHODS[name].request: operation for name, operation in table.items()}

    def open_session(self, peer: Peer, role: Role) -> Session:
        return Session(peer, role, holder=[])

    def note_role(self, session: Session) -> None:
        self.log.append(f"role {session.role.label}")

    def close_session(self, session: Session) -> None:
        self.gone.append(session)

    def allocate(self, session: Session, asked: messages.Allocate) -> Outcome:
        self.log.append(f"allocate {asked.offset}")
        self.on_allocate()
        if asked.inode == FAILS:
            raise NoFreeBuckets("none", 0)
        assert asked.inode != BUG, "a bug"
        if asked.inode == WAITS:
            future: asyncio.Future[Key] = asyncio.get_running_loop().create_future()
            self.waiting.append(future)
            return Later(future, lambda key: messages.Allocated((key,)))
        return messages.Allocated((self.key(asked.offset, asked.sectors),))

    def key(self, offset: int, sectors: int) -> Key:
        self._next += sectors
        return Key(1, offset, sectors, False, (Pointer(0, self._next - sectors, 0),))

    def release(self, session: Session, asked: messages.Release) -> Outcome:
        self.log.append("release")
        if not asked.keys and not self.waiting:
            raise NotReserved(None)
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(self.key(0, 8))
        self.waiting.clear()
        return messages.Done()

    def commit(self, session: Session, asked: messages.Commit) -> Outcome:
        (key,) = asked.keys
        if key.inode == FAILS:
            raise NotReserved(key)
        if key.inode != WAITS:
            return self.committed(key, asked)
        return Later(self._commit(key), lambda _: self.committed(key, asked), cancellable=True)

    async def _commit(self, key: Key) -> None:
        await self.may_commit.acquire()
        if key.offset == 0:
            raise NotReserved(key)

    def committed(self, key: Key, asked: messages.Commit) -> messages.Results | Decided:
        self.log.append(f"commit {key.offset}")
        results = messages.Committed(key.offset)
        if asked.durable is False:
            return results
        if not (self.journal and self.journal_is_shared):
            self.journal.append(asyncio.get_running_loop().create_future())
        return Decided(self.journal[-1], results)

    def lookup(self, session: Session, asked: messages.Lookup) -> Outcome:
        self.log.append(f"lookup {asked.offset}")
        found = messages.Found((self.key(asked.offset, 1),) * asked.sectors)
        if asked.offset == WAITS:
            return Later(self.may_commit.acquire(), lambda _: found, cancellable=True)
        return found if asked.sectors < 16 else Long(found)

    def describe(self, session: Session, _: Any) -> Outcome:
        self.log.append("describe")
        return messages.Description("set", (), "", 0, "0", session.role.label)

    def explain(self, session: Session, _: Any) -> Outcome:
        return admin_messages.Lines((LONG_LINE,) * 100)

    def endless(self, session: Session, _: Any) -> Outcome:
        return volume_messages.ListedVolumes(
            (volume_messages.Volume(0, "", "x" * 1000, 0, flash_only=False),) * 5000
        )

    def collect(self, session: Session, asked: admin_messages.CollectGarbage) -> Outcome:
        return Later(self._collect(), lambda _: messages.Done())

    async def _collect(self) -> None:
        await self.may_collect.wait()
        assert self.collections >= 0, "a bug in a task"
        self.collections += 1

    def watch(self, session: Session, asked: admin_messages.Watch) -> Outcome:
        return Stream(lambda: self.news.pop(0) if self.news else None, (asked.interval_ms or 1000) / 1000)
