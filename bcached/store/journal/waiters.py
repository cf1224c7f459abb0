# SPDX-License-Identifier: GPL-2.0-only
"""Waiters for the journal: for an entry to be durable, or for space. Each may be cancelled at any time."""

import asyncio


class Waiters:
    """Futures by a number: a seq, or words."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def most(self) -> int:
        """The largest number of any waiter; 0 without waiters."""
        return max((number for number, future in self._waiting if not future.done()), default=0)

    async def wait(self, number: int) -> None:
        """Return when waiters with this number are woken."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((number, future))
        await future

    def wake(self, through: int) -> None:
        """Wake waiters up to a number."""
        still = []
        for number, future in self._waiting:
            if future.done():
                continue
            if number <= through:
                future.set_result(None)
            else:
                still.append((number, future))
        self._waiting = still

    def wake_all(self) -> None:
        """Wake all waiters: each checks its own condition again."""
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_result(None)
