# SPDX-License-Identifier: GPL-2.0-only
"""Running a generator in slices, so that long work never blocks the loop for long."""

import asyncio
import time
from collections.abc import Callable, Generator
from typing import TypeVar

import uvloop

from bcached.state.statistics import Histogram

T = TypeVar("T")


def precise_clock() -> Callable[[], float]:
    """Returns the running loop's clock; for uvloop, whose time is in milliseconds, time.monotonic."""
    loop = asyncio.get_running_loop()
    return time.monotonic if isinstance(loop, uvloop.Loop) else loop.time


async def run_sliced(
    work: Generator[None, None, T], slice_s: float, clock: Callable[[], float], slices: Histogram
) -> T:
    """Run to the end, yielding to the loop after each slice; returns the result and observes the slices.

    A slice ends when another piece like the last would exceed slice_s.
    """
    begun = last = clock()
    while True:
        try:
            next(work)
        except StopIteration as end:
            slices.observe(clock() - begun)
            result: T = end.value
            return result
        now = clock()
        if 2 * now - last - begun >= slice_s:
            slices.observe(now - begun)
            await asyncio.sleep(0)
            now = begun = clock()
        last = now
