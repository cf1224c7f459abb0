# SPDX-License-Identifier: GPL-2.0-only
"""The bucket lock, and the facts the tasks wait for, each a condition on it.

A request's ready path changes tables without the lock (it cannot be interrupted) and so cannot call notify
itself. It announces instead; the notifier, a separate task, takes the lock and notifies.

notify_all only: before Python 3.13 a notify() of one waiter that is cancelled in the same iteration of the
loop is lost for all others.
"""

import asyncio
from enum import Enum, auto


class Fact(Enum):
    """A change that tasks wait for, each with its condition."""

    BUCKETS_MOVED = auto()  # a bucket was taken, freed or retired, or a request waits: allocators check again
    PRIOS_WANTED = auto()  # a prio write is requested
    GENS_DURABLE = auto()  # a prio write ended
    COLLECTION_WANTED = auto()  # a collection or an evacuation is requested
    MARKS_VALID = auto()  # a garbage collection ended
    LEAVES_WANTED = auto()  # leaves of the index are to be written out
    LEAVES_WRITTEN = auto()  # the leaf writer wrote them, or waits for buckets

    # Enum.__hash__ hashes the name, which costs as much as the rest of announce().
    __hash__ = object.__hash__


class Conditions:
    """One lock, and one condition per fact."""

    def __init__(self) -> None:
        self.bucket_lock = asyncio.Lock()
        self._conditions = {fact: asyncio.Condition(self.bucket_lock) for fact in Fact}
        self._announced: set[Fact] = set()
        self._anything = asyncio.Event()

    def __getitem__(self, fact: Fact) -> asyncio.Condition:
        """Returns the condition to wait on; the lock must be held."""
        return self._conditions[fact]

    def announce(self, *facts: Fact) -> None:
        """Have all waiters for these facts woken soon; needs no lock."""
        self._announced.update(facts)
        self._anything.set()

    async def notify_announced(self) -> None:
        """Notify the waiters of announced facts, until cancelled."""
        while True:
            await self._anything.wait()
            self._anything.clear()
            await self.notify_now()

    async def notify_now(self) -> None:
        """Wake the waiters of the announced facts."""
        async with self.bucket_lock:
            for fact in self._announced:
                self._conditions[fact].notify_all()
            self._announced.clear()
