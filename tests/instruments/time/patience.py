# SPDX-License-Identifier: GPL-2.0-only
"""Giving up on what does not happen, on machines that stand still.

A virtual machine may be paused for half a minute, while its clock goes on. So that such a pause is no
failure, patience is counted in steps of the clock: a pause uses up one step, however long it is.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

STEP_S = 0.5


@contextlib.asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """Raises TimeoutError if the body takes longer than so many seconds, pauses of the machine aside."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        next_step: asyncio.Handle | None = None

        def step(left_s: float) -> None:
            nonlocal next_step
            if left_s <= 0:
                limit.reschedule(loop.time())
            else:
                next_step = loop.call_later(min(STEP_S, left_s), step, left_s - STEP_S)

        step(seconds)
        try:
            yield
        finally:
            if next_step is not None:
                next_step.cancel()


def tries(seconds: float, pause_s: float = 0.02) -> Iterator[None]:
    """Yields at once and after every pause, until the pauses add up to so many seconds."""
    for _ in range(max(1, round(seconds / pause_s))):
        yield
        time.sleep(pause_s)
    yield
