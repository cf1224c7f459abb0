# SPDX-License-Identifier: GPL-2.0-only
"""Signals (Ctrl-C, SIGTERM) while a command waits for the daemon."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

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
