# SPDX-License-Identifier: GPL-2.0-only
"""Slices end in time, by a clock that is finer than they are."""

import asyncio
import time
from collections.abc import Generator, Sequence

import pytest
import uvloop

from bcached.runtime.coordination.slices import precise_clock, run_sliced
from bcached.state.statistics import Histogram


async def slices_of(pieces: Sequence[float], slice_s: float) -> list[float]:
    """How long the slices of such pieces were."""
    now = 0.0
    seen: list[float] = []

    class Seen(Histogram):
        def observe(self, value: float) -> None:
            seen.append(value)

    def work() -> Generator[None, None, None]:
        nonlocal now
        for piece in pieces:
            now += piece
            yield

    await run_sliced(work(), slice_s, lambda: now, Seen((1.0,)))
    return seen


@pytest.mark.parametrize(("piece", "longest"), [(0.125, 0.875), (0.375, 0.75), (0.625, 0.625), (2.0, 2.0)])
async def test_a_slice_ends_before_the_piece_that_would_be_too_much(piece: float, longest: float) -> None:
    seen = await slices_of([piece] * 20, 1.0)
    assert max(seen) == longest
    assert sum(seen) == 20 * piece


async def test_a_piece_longer_than_the_last_makes_one_slice_too_long_not_the_next() -> None:
    assert await slices_of([0.25, 0.25, 2.0, 0.25], 1.0) == [2.5, 0.25]


def test_the_clock_is_that_of_the_loop_and_finer_than_a_millisecond() -> None:
    async def times() -> tuple[float, set[float]]:
        clock, until = precise_clock(), time.monotonic() + 0.005
        ahead = abs(asyncio.get_running_loop().time() - clock())
        seen = set()
        while time.monotonic() < until:
            seen.add(clock())
        return ahead, seen

    for run in (uvloop.run, asyncio.run):
        ahead, seen = run(times())
        assert ahead < 0.01
        assert len(seen) > 20
