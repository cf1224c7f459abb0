"""Threads in which blocking calls run, one hop each, and none of them ever left behind.

A thread cannot be stopped in the middle of a write: cancelling the coroutine that waits for it would only
look away while the bytes still land. So a cancelled call is waited for first and raised afterwards, and
whoever gives a bucket or a buffer back when the call has ended may be sure that it has.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Lane:
    """A few threads for one kind of call; calls start in the order in which they came."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, blocking: Callable[..., Awaitable[T]], *args: object) -> T:
        """What the call gives; blocking is a function that aiofiles has wrapped.

        When cancelled, a call that has not started never does, and one that has is waited for.
        """
        hop = _Hop(self._pool)
        try:
            return await blocking(*args, executor=hop)
        except asyncio.CancelledError:
            await ended(hop.trip)
            raise

    def last(self, call: Callable[[], None]) -> Future[None]:
        """Hand in a call that nothing can cancel or follow."""
        trip = self._pool.submit(call)
        self._pool.shutdown(wait=False)
        return trip

    def drain(self) -> None:
        """Block until all that was handed in has run; nothing can be handed in any more."""
        self._pool.shutdown(wait=True)


class _Hop(Executor):
    """An executor for a single call, which keeps hold of what aiofiles lets go on cancellation."""

    trip: Future[Any]

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def submit(self, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        self.trip = trip = self._pool.submit(call, *args, **kwargs)
        return trip


async def ended(trip: Future[Any]) -> None:
    """Return once the thread is done with it; a cancellation in the meantime is raised only then."""
    waiting = asyncio.wrap_future(trip)
    cancelled: asyncio.CancelledError | None = None
    while not waiting.done():
        try:
            await asyncio.wait([waiting])
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    if not waiting.cancelled():
        waiting.exception()  # retrieved, or asyncio would complain about an error that nobody saw
    if cancelled is not None:
        raise cancelled
