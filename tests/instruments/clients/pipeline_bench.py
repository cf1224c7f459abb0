# SPDX-License-Identifier: GPL-2.0-only
"""A request pipeline by itself, on the operations of the toy service: bytes in, writes out."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

from bcached.service.requests.method import Operation
from bcached.service.requests.pipeline import RequestPipeline
from bcached.service.requests.reply_sender import ReplySender
from bcached.service.requests.request_counts import RequestCounts
from bcached.service.users.access import Role
from bcached.service.users.peer import Peer
from bcached.service.users.turns import Turns
from bcached.wire.codec import decode_requests
from bcached.wire.methods import Request
from instruments.clients.talker import call, outcome
from instruments.clients.toy_service import ToyService

KEY = {
    "inode": 1,
    "offset": 0,
    "sectors": 8,
    "dirty": False,
    "pointers": [{"device": 0, "sector": 0, "gen": 0}],
}


class PipelineBench:
    """A server for one pipeline, whose writes it keeps."""

    def __init__(self, role: Role = Role.ADMIN) -> None:
        self.service = ToyService()
        self.counts = RequestCounts()
        self.turns = Turns(lambda _: None, lambda: 0)
        self.turns.run_ns = 1 << 63
        self.draining = False
        self.bugs: list[Exception] = []
        self.writes: list[bytes] = []
        self.progress = 0
        session = self.service.open_session(Peer(1, 0, frozenset()), role)
        self.sender = ReplySender(self, self._count_progress)
        self.sender.write = self.writes.append
        self.at_once: list[bytes] = []
        self.sender.write_at_once = self.at_once.append
        self.pipeline = RequestPipeline(self, session, self.sender)

    @property
    def is_idle(self) -> bool:
        return not self.sender.slots

    @property
    def held_bytes(self) -> int:
        return self.sender.queue.held_bytes

    def operation_of(self, kind: type[Request]) -> Operation:
        return self.service.operations[kind]

    def ready_operations(self, role: Role) -> dict[type, Operation]:
        operations = self.service.operations.items()
        return {kind: it for kind, it in operations if it.brief and role >= it.role}

    def spawn(self, coroutine: Coroutine[Any, Any, Any], cancellable: bool) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().create_task(coroutine)

    def fail(self, error: Exception) -> None:
        self.bugs.append(error)

    def _count_progress(self) -> None:
        self.progress += 1

    def run(self, *messages: bytes) -> int:
        block = b"".join(messages)
        return self.pipeline.run(decode_requests(block), 0, block)

    def replies(self) -> list[list[Any]]:
        """What was written since the last call, each write by itself."""
        written, self.writes[:] = self.writes[:], []
        return [[json.loads(reply) for reply in write.split(b"\0")[:-1]] for write in written]

    def outcomes(self) -> list[str]:
        return [outcome(reply) for write in self.replies() for reply in write]


def allocate(offset: int = 0, inode: int = 0, **more: Any) -> bytes:
    return call("Allocate", {"inode": inode, "offset": offset, "sectors": 8}, **more)


def commit(offset: int = 8, inode: int = 0, **more: Any) -> bytes:
    return call("Commit", {"keys": [{**KEY, "offset": offset, "inode": inode}], **more})


def lookup(offset: int = 0, sectors: int = 8) -> bytes:
    return call("Lookup", {"inode": 0, "offset": offset, "sectors": sectors})


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
