"""Who waits for buckets: first come, first served, with deadlines.

One queue a reserve. When buckets come, the head of each queue takes what it needs right there, and its
future gets the result; nobody is woken to find that another was faster. A head that goes away, by its
deadline or because its client did, gives back what it gathered and passes the turn on.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from bcached.errors import BcachedError, LimitExceeded, NoFreeBuckets
from bcached.state.gathering import Work
from bcached.state.reserves import Reserve
from bcached.state.statistics import WAIT_BOUNDS_S, Histogram

T = TypeVar("T")


class Waiter:
    """One place in a queue."""

    __slots__ = ("deadline", "future", "in_queue", "since", "work")

    def __init__(self, work: Work[Any], future: "asyncio.Future[Any]", since: float) -> None:
        self.work = work
        self.future = future
        self.since = since
        self.in_queue = True
        self.deadline: asyncio.TimerHandle | None = None


class WaitQueue:
    """The queues of a set. `limit` bounds how many may wait in all; on_change hears of comings and goings."""

    def __init__(self, limit: int, on_change: Callable[[], None]) -> None:
        self.limit = limit
        self.waits = Histogram(WAIT_BOUNDS_S)
        self.failures = {"timeout": 0, "no_wait": 0, "cancelled": 0, "limit": 0}
        self._queues: dict[Reserve, deque[Waiter]] = {reserve: deque() for reserve in Reserve}
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()

    def submit(self, work: Work[T], timeout_s: float) -> "asyncio.Future[T]":
        """Have work done as soon as it is its turn and there are buckets; NoFreeBuckets after timeout_s.

        With a timeout of 0 or less it is now or never.
        """
        queue = self._queues[work.reserve]
        future: asyncio.Future[T] = self._loop.create_future()
        if not queue:
            result = self._advance(work)
            if result is not None:
                future.set_result(result)
                return future
        name = work.reserve.name.lower()
        if timeout_s <= 0:
            work.undo()
            self.failures["no_wait"] += 1
            raise NoFreeBuckets(name, 0)
        if len(self) >= self.limit:
            work.undo()
            self.failures["limit"] += 1
            raise LimitExceeded("waiters", len(self) + 1)
        waiter = Waiter(work, future, self._loop.time())
        waiter.deadline = self._loop.call_later(timeout_s, self._expire, waiter)
        queue.append(waiter)
        future.add_done_callback(lambda _: self._forget(waiter))
        self._on_change()
        return future

    def serve(self) -> None:
        """Let the head of each queue take what it needs, as far as there are buckets."""
        for queue in self._queues.values():
            while queue:
                waiter = queue[0]
                if waiter.future.done():  # gone; its callback has not run yet
                    self._leave(waiter)
                    continue
                try:
                    result = self._advance(waiter.work)
                except BcachedError as error:
                    self._leave(waiter)
                    waiter.future.set_exception(error)
                    continue
                if result is None:
                    break
                queue.popleft()
                self._settle(waiter)
                waiter.future.set_result(result)

    def fail_all(self, error: BcachedError) -> None:
        """Tell everybody that there is nothing to wait for any more."""
        for queue in self._queues.values():
            while queue:
                waiter = queue[0]
                self._leave(waiter)
                if not waiter.future.done():
                    waiter.future.set_exception(error)

    def waiting(self) -> frozenset[Reserve]:
        """The reserves somebody waits for."""
        return frozenset(reserve for reserve, queue in self._queues.items() if queue)

    def count(self, reserve: Reserve) -> int:
        """How many wait for a reserve."""
        return len(self._queues[reserve])

    def oldest_wait_s(self) -> float:
        """How long the one that waits longest has waited, in seconds."""
        now = self._loop.time()
        return max((now - queue[0].since for queue in self._queues.values() if queue), default=0.0)

    def __len__(self) -> int:
        """How many wait in all."""
        return sum(map(len, self._queues.values()))

    def _advance(self, work: Work[T]) -> T | None:
        try:
            return work.advance()
        except BcachedError:
            work.undo()
            raise

    def _expire(self, waiter: Waiter) -> None:
        if waiter.future.done():
            return
        waited_ms = int((self._loop.time() - waiter.since) * 1000)
        self.failures["timeout"] += 1
        self._leave(waiter)
        waiter.future.set_exception(NoFreeBuckets(waiter.work.reserve.name.lower(), waited_ms))
        self.serve()

    def _forget(self, waiter: Waiter) -> None:
        """The future is done; if nobody here did it, the client cancelled it."""
        if waiter.in_queue:
            self.failures["cancelled"] += 1
            self._leave(waiter)
            self.serve()

    def _leave(self, waiter: Waiter) -> None:
        self._queues[waiter.work.reserve].remove(waiter)
        self._settle(waiter)
        waiter.work.undo()
        self._on_change()

    def _settle(self, waiter: Waiter) -> None:
        waiter.in_queue = False
        if waiter.deadline is not None:
            waiter.deadline.cancel()
        self.waits.observe(self._loop.time() - waiter.since)
