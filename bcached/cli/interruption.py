# SPDX-License-Identifier: GPL-2.0-only
"""Signals (Ctrl-C, SIGTERM, SIGHUP) while a command works, or waits for the daemon or for the user."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let each of the signals raise KeyboardInterrupt inside, as Ctrl-C alone does otherwise."""

    def interrupt(number: int, frame: object) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Let each of the signals take effect at the end: nothing inside is interrupted half done."""
    pending: list[int] = []
    before = {number: signal.signal(number, lambda it, _: pending.append(it)) for number in ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for raised in pending:
            signal.raise_signal(raised)


async def until_interrupted(work: Coroutine[Any, Any, None]) -> None:
    """Run work as the only task of a loop until it is done or a signal ends it, which is no error.

    The loop handles the signals: a Python handler called just before the loop sleeps would take effect only
    when something else wakes it. And a script's background command ignores Ctrl-C unless it sets a handler.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in ENDS:
        loop.add_signal_handler(number, task.cancel)
    try:
        with suppress(asyncio.CancelledError):
            await work
    finally:
        for number in ENDS:
            loop.remove_signal_handler(number)


def run_interruptibly(work: Coroutine[Any, Any, T]) -> T:
    """Returns what work returns. Raises KeyboardInterrupt if a signal ends it, once it has cleaned up.

    A signal that is ignored from the start, as under nohup, stays so. A second one has its default effect:
    cleaning up may wait for a device that does not answer.
    """
    is_ended = False

    async def watched() -> T:
        nonlocal is_ended
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        numbers = [number for number in ENDS if signal.getsignal(number) != signal.SIG_IGN]

        def end() -> None:
            nonlocal is_ended
            is_ended = True
            for number in numbers:
                loop.remove_signal_handler(number)
            assert task is not None
            task.cancel()

        for number in numbers:
            loop.add_signal_handler(number, end)
        try:
            return await work
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        if not is_ended:
            raise
        raise KeyboardInterrupt from None
