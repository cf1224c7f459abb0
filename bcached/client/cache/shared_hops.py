# SPDX-License-Identifier: MIT
"""Calls of an event loop's tasks that are made in one thread, one after the other, as many as there are.

A hop to a thread and back costs more processor time than storing a small object. It cannot be saved: a write
to the page cache may wait for the device, and most file systems refuse to say so (RWF_NOWAIT). But calls that
are made while one is under way can share the next hop.
"""

from asyncio import AbstractEventLoop, Future, get_running_loop
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Generic, TypeVar

from bcached.client.cache.hop import in_thread

T = TypeVar("T")

AT_ONCE = 64  # calls of one hop, whose callers are answered together

_Outcome = tuple["Future[None]", BaseException | None]


class SharedHops(Generic[T]):
    """The calls of one function. Its methods are called in the loop, but for `_work`."""

    def __init__(self, call: Callable[[T], None], executor: Callable[[], Executor]) -> None:
        self._call = call
        self._executor = executor
        self._waiting: deque[tuple[T, Future[None]]] = deque()
        self._loop: AbstractEventLoop | None = None  # in which a hop was begun that has not returned

    async def make(self, argument: T) -> None:
        """Make a call. One that is cancelled may still be made."""
        loop = get_running_loop()
        if self._loop is not None and self._loop is not loop and not self._loop.is_closed():
            await in_thread(self._executor(), partial(self._call, argument))
            return
        done: Future[None] = loop.create_future()
        if self._loop is not None and self._loop is not loop:  # closed: a thread may still empty the queue
            self._loop, self._waiting = None, deque()
        self._waiting.append((argument, done))
        if self._loop is None:
            self._begin(loop)
        await done

    def _begin(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        try:
            self._executor().submit(self._work, loop, self._waiting)
        except BaseException:
            self._loop = None
            raise

    def _work(self, loop: AbstractEventLoop, waiting: "deque[tuple[T, Future[None]]]") -> None:
        outcomes: list[_Outcome] = []
        while waiting and len(outcomes) < AT_ONCE:
            argument, done = waiting.popleft()
            try:
                self._call(argument)
            except BaseException as error:
                outcomes.append((done, error))
            else:
                outcomes.append((done, None))
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._answer, loop, outcomes)

    def _answer(self, loop: AbstractEventLoop, outcomes: list[_Outcome]) -> None:
        self._loop = None
        if self._waiting:
            self._begin(loop)
        for done, error in outcomes:
            if done.done():  # cancelled
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
