"""Ctrl-C and its kin while a command waits for the daemon."""

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def until_interrupted(work: Coroutine[Any, Any, None]) -> None:
    """Work, as the only task of a loop, until it is done or a signal ends it; nothing is wrong with that.

    The signals are the loop's business: what the interpreter hears just as the loop goes to sleep, it heeds
    only when something else wakes it. And what a script starts in the background ignores Ctrl-C until asked.
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
