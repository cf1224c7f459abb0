"""Waiting until a journal entry is durable: all who wait for the same entry wait together.

Many clients commit into one entry. Its first one waits for the journal, in a task; for each of the others
there is a future and nothing else.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from bcached.runtime.index import Index


class Durability:
    """Who waits for which entry."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}

    def is_reached(self, seq: int) -> bool:
        """Whether the entry cannot be lost any more."""
        return self._index.durable_seq >= seq

    def reached(self, seq: int) -> "asyncio.Future[None] | Coroutine[Any, Any, None]":
        """What is done when that is so; a coroutine must run to its end, for others wait for it."""
        waiting = self._waiting.get(seq)
        if waiting is None:
            self._waiting[seq] = []
            return self._wait(seq)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(future)
        return future

    async def flushed(self) -> int:
        """The newest entry, once all that was accepted before is durable."""
        return await self._index.flush()

    async def _wait(self, seq: int) -> None:
        failure: BaseException | None = None
        try:
            await self._index.durable(seq)
        except BaseException as error:  # DeviceFailed: it ends whoever writes the journal, and the daemon
            failure = error
            raise
        finally:
            for future in self._waiting.pop(seq):
                _tell(future, failure)


def _tell(future: "asyncio.Future[None]", failure: BaseException | None) -> None:
    if future.done():  # its connection is gone
        return
    if failure is None:
        future.set_result(None)
    elif isinstance(failure, asyncio.CancelledError):
        future.cancel()
    else:
        future.set_exception(failure)
