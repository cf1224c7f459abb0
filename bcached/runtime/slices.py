"""Running a generator in slices, so that long work never holds the loop for long."""

import asyncio
from collections.abc import Callable, Generator
from typing import TypeVar

from bcached.state.statistics import Histogram

T = TypeVar("T")


async def run_sliced(
    work: Generator[None, None, T], slice_s: float, clock: Callable[[], float], slices: Histogram
) -> T:
    """Run to the end, letting the loop go whenever a slice's time is up; every slice is measured."""
    begun = clock()
    while True:
        try:
            next(work)
        except StopIteration as end:
            slices.observe(clock() - begun)
            result: T = end.value
            return result
        now = clock()
        if now - begun >= slice_s:
            slices.observe(now - begun)
            await asyncio.sleep(0)
            begun = clock()
