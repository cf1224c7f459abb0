# SPDX-License-Identifier: GPL-2.0-only
"""Threads in which blocking calls run; no call outlives its caller's await.

A thread cannot be stopped in the middle of a write: cancelling the coroutine that waits for it would leave
the write in flight. So a cancelled call is waited for before CancelledError is raised, and a caller that
releases a bucket or a buffer after the call can rely on its end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class IoThreads:
    """A few threads for one kind of call; calls start in order of submission."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, blocking: Callable[..., Awaitable[T]], *args: object) -> T:
        """Returns the result of the call; blocking is a function that aiofiles has wrapped.

        On cancellation, a call that has not started is dropped, and a running one is waited for.
        """
        call = _ThreadCall(self._pool)
        try:
            return await blocking(*args, executor=call)
        except asyncio.CancelledError:
            await ended(call.future)
            raise

    def run_last(self, call: Callable[[], None]) -> Future[None]:
        """Submit the last call of these threads, which nothing can cancel."""
        future = self._pool.submit(call)
        self._pool.shutdown(wait=False)
        return future

    def drain(self) -> None:
        """Block until every submitted call has run; nothing can be submitted after that."""
        self._pool.shutdown(wait=True)


class _ThreadCall(Executor):
    """An executor for a single call; keeps the future that aiofiles drops on cancellation."""

    future: Future[Any]

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def submit(self, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        self.future = future = self._pool.submit(call, *args, **kwargs)
        return future


async def ended(call: Future[Any]) -> None:
    """Return once the thread has finished the call; a cancellation meanwhile is raised only then."""
    waiting = asyncio.wrap_future(call)
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
