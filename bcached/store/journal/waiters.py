# SPDX-License-Identifier: GPL-2.0-only
"""Waiters for the journal: for space, and for an entry to be durable."""

import asyncio

from bcached.errors import DeviceError


class Waiters:
    """Waiters for space, each for so many words. Each may be cancelled at any time."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def most(self) -> int:
        """The most words that any of them waits for; 0 without waiters."""
        return max((words for words, future in self._waiting if not future.done()), default=0)

    async def wait(self, words: int) -> None:
        """Return when all are woken."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((words, future))
        await future

    def wake_all(self) -> None:
        """Wake all waiters: each checks its own condition again."""
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_result(None)


class AwaitedEntries:
    """One future for each entry that is waited for. All its waiters share it, so none may cancel it."""

    def __init__(self) -> None:
        self._futures: dict[int, asyncio.Future[None]] = {}

    def future(self, seq: int) -> "asyncio.Future[None]":
        """Returns the future of an entry."""
        future = self._futures.get(seq)
        if future is None:
            future = self._futures[seq] = asyncio.get_running_loop().create_future()
        return future

    def complete(self, through_seq: int) -> None:
        """All entries through this one are durable."""
        for seq in [seq for seq in self._futures if seq <= through_seq]:
            self._futures.pop(seq).set_result(None)

    def fail(self, error: DeviceError) -> None:
        """No entry will be written any more."""
        futures, self._futures = self._futures, {}
        for future in futures.values():
            future.set_exception(error.with_traceback(None))
            future.exception()  # retrieved, if all waiters were cancelled
