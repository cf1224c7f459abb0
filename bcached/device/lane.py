"""Threads in which blocking calls run, one hop each; no call outlives its caller's await.

A thread cannot be stopped in the middle of a write: cancelling the coroutine that waits for it would leave
the write in flight. So a cancelled call is waited for before CancelledError is raised, and a caller that
releases a bucket or a buffer after the call can rely on its end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Lane:
    """A few threads for one kind of call; calls start in order of submission."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, blocking: Callable[..., Awaitable[T]], *args: object) -> T:
        """Returns the result of the call; blocking is a function that aiofiles has wrapped.

        On cancellation, a call that has not started is dropped, and a running one is waited for.
        """
        hop = _Hop(self._pool)
        try:
            return await blocking(*args, executor=hop)
        except asyncio.CancelledError:
            await ended(hop.trip)
            raise

    def last(self, call: Callable[[], None]) -> Future[None]:
        """Submit the lane's last call, which nothing can cancel."""
        trip = self._pool.submit(call)
        self._pool.shutdown(wait=False)
        return trip

    def drain(self) -> None:
        """Block until every submitted call has run; nothing can be submitted after that."""
        self._pool.shutdown(wait=True)


class _Hop(Executor):
    """An executor for a single call; keeps the future that aiofiles drops on cancellation."""

    trip: Future[Any]

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def submit(self, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        self.trip = trip = self._pool.submit(call, *args, **kwargs)
        return trip


async def ended(trip: Future[Any]) -> None:
    """Return once the thread has finished the call; a cancellation meanwhile is raised only then."""
    waiting = asyncio.wrap_future(trip)
    cancelled: asyncio.CancelledError | None = None
    while not waiting.done():
        try:
            await asyncio.wait([waiting])
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    if not waiting.cancelled():
        waiting.exception()  # retrieved, or asyncio would log an exception that was never retrieved
    if cancelled is not None:
        raise cancelled
