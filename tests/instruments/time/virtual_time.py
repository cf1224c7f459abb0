# SPDX-License-Identifier: GPL-2.0-only
"""An event loop whose clock jumps: a wait of ten seconds takes no time, and a hang is an error at once.

    @in_virtual_time
    async def test_something(tmp_path): ...

Time stands still while anything is ready to run and jumps to the next timer when nothing is. When there is
no timer either, nothing will ever happen again: that is a deadlock, and raises. For devices in memory; a
call in a thread is waited for in real time.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from bcached.errors import RequestError

TURNS_AT_ONE_TIME_MAX = 1_000_000


class DeadlockError(AssertionError):
    """Nothing is ready, and no timer is left."""


class LivelockError(AssertionError):
    """Things go on for ever without time passing."""


class _JumpingSelector(selectors.DefaultSelector):
    """Asks the loop how long to wait in earnest."""

    loop: "VirtualTimeLoop"

    def select(self, timeout: float | None = None) -> Any:
        loop = self.loop
        if timeout == 0:
            loop.turns += 1
            if loop.turns > TURNS_AT_ONE_TIME_MAX:
                loop.turns = 0  # what is running is to be cancelled yet
                raise LivelockError(f"{TURNS_AT_ONE_TIME_MAX} turns of the loop at {loop.time():.6f} s")
            return super().select(0)
        if loop.calls_in_threads:
            return super().select(timeout)
        if timeout is None:
            raise DeadlockError(f"at {loop.time():.6f} s nothing is left to happen")
        loop.turns = 0
        loop.now += timeout
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on which time passes only while nothing else can happen."""

    def __init__(self) -> None:
        selector = _JumpingSelector()
        selector.loop = self
        self.now = 0.0
        self.turns = 0
        self.calls_in_threads = 0
        self.unheard: list[str] = []  # errors that asyncio would only log
        super().__init__(selector)
        self.set_exception_handler(self._hear)

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        future = super().run_in_executor(executor, func, *args)
        self.calls_in_threads += 1
        future.add_done_callback(self._call_ended)
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        self.calls_in_threads += 1  # it joins the threads in a thread of its own
        await super().shutdown_default_executor(*args)
        self.calls_in_threads -= 1

    def _hear(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), RequestError):  # a request whose asker has gone
            self.unheard.append(f"{context['message']}: {context.get('exception')!r}")

    def _call_ended(self, _: object) -> None:
        self.calls_in_threads -= 1


def run_in_virtual_time(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        result = runner.run(coroutine)
        loop = runner.get_loop()
    assert isinstance(loop, VirtualTimeLoop)
    assert loop.unheard == [], loop.unheard
    return result


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine function: it runs in virtual time."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run
