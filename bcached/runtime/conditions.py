"""The bucket lock, and the facts the tasks wait for, each a condition on it.

A request's ready path changes tables without the lock (it cannot be interrupted) and so cannot notify
anybody itself. It announces instead; the herald, a task of its own, takes the lock and passes it on.

notify_all only: before Python 3.13 a wake-up given to one waiter that is cancelled in the same turn of the
loop is lost for all others.
"""

import asyncio
from enum import Enum, auto


class Fact(Enum):
    """What can become true."""

    BUCKETS_MOVED = auto()  # taken, freed or retired, or somebody waits for one: allocators look again
    PRIOS_WANTED = auto()
    GENS_DURABLE = auto()  # a prio write ended
    COLLECTION_WANTED = auto()
    MARKS_VALID = auto()  # a garbage collection ended
    LEAVES_WANTED = auto()  # leaves of the index are to be written out
    LEAVES_WRITTEN = auto()  # they are, as somebody asked, or have to wait for buckets

    # Enum's own hashes the name, which costs as much as all the rest of announcing.
    __hash__ = object.__hash__


class Conditions:
    """One lock, one condition a fact."""

    def __init__(self) -> None:
        self.bucket_lock = asyncio.Lock()
        self._conditions = {fact: asyncio.Condition(self.bucket_lock) for fact in Fact}
        self._announced: set[Fact] = set()
        self._anything = asyncio.Event()

    def __getitem__(self, fact: Fact) -> asyncio.Condition:
        """The condition to wait on; the lock must be held."""
        return self._conditions[fact]

    def announce(self, *facts: Fact) -> None:
        """Have everybody who waits for these facts woken soon; needs no lock."""
        self._announced.update(facts)
        self._anything.set()

    async def herald(self) -> None:
        """Pass on what is announced, for ever."""
        while True:
            await self._anything.wait()
            self._anything.clear()
            await self.pass_on()

    async def pass_on(self) -> None:
        """Wake those who wait for what is announced."""
        async with self.bucket_lock:
            for fact in self._announced:
                self._conditions[fact].notify_all()
            self._announced.clear()
