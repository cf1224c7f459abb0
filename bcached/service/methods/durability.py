# SPDX-License-Identifier: GPL-2.0-only
"""Waiting until a journal entry is durable: one task per entry, shared by all its waiters.

Many clients commit into one entry. A task waits on the journal for the first of them; each of the others
costs one future.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from bcached.runtime.index.index import Index


class Durability:
    """The waiters of each journal entry."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}

    def is_reached(self, seq: int) -> bool:
        """Whether the entry is durable."""
        return self._index.durable_seq >= seq

    def reached(self, seq: int) -> "asyncio.Future[None] | Coroutine[Any, Any, None]":
        """Returns what completes when the entry is durable; a coroutine must be run: others wait on it."""
        waiting = self._waiting.get(seq)
        if waiting is None:
            self._waiting[seq] = []
            return self._wait(seq)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(future)
        return future

    async def flushed(self) -> int:
        """Returns the newest entry's number once every change accepted before is durable."""
        return await self._index.flush()

    async def _wait(self, seq: int) -> None:
        failure: BaseException | None = None
        try:
            await self._index.durable(seq)
        except BaseException as error:  # DeviceFailed: it ends the journal's writer and the daemon
            failure = error
            raise
        finally:
            for future in self._waiting.pop(seq):
                _settle(future, failure)


def _settle(future: "asyncio.Future[None]", failure: BaseException | None) -> None:
    if future.done():  # its connection is closed
        return
    if failure is None:
        future.set_result(None)
    elif isinstance(failure, asyncio.CancelledError):
        future.cancel()
    else:
        future.set_exception(failure)
