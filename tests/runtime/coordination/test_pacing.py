# SPDX-License-Identifier: GPL-2.0-only
"""A collection gives way to whoever else is there, but to nobody who waits for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bcached.runtime.coordination.pacing import Pacer
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.lifetime import running
from instruments.samples.living_set import fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time

SLICE_S = 0.5


class Work:
    """Something long, by a clock that moves when it is told to; the loop's own time moves in pauses only."""

    def __init__(self, shared: Shared) -> None:
        self.now = 0.0
        self._pacer = Pacer(self, replace(shared, clock=lambda: self.now))
        shared.steps.begin(self)

    async def paused_s(self, piece_s: float, others_s: float = 0.0) -> float:
        """How long it pauses behind a piece, when others have so much to do then."""
        await self._pacer.begin()
        self.now += piece_s
        asyncio.get_running_loop().call_soon(self._pass, others_s)
        begun = asyncio.get_running_loop().time()
        await self._pacer.checkpoint()
        return asyncio.get_running_loop().time() - begun

    def _pass(self, seconds: float) -> None:
        self.now += seconds


@asynccontextmanager
async def at_work(folder: Path) -> AsyncIterator[tuple[Work, Shared]]:
    members = await fresh_members((513,), 4 << 10)
    async with running(members, set_options(folder, gc_slice_s=SLICE_S)) as cache_set:
        await asyncio.sleep(10)
        shared = cache_set.shared
        work = Work(shared)
        yield work, shared
        shared.steps.end(work)


@in_virtual_time
async def test_nobody_else_is_there_so_nothing_is_waited_for(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (work, _):
        assert await work.paused_s(SLICE_S) == 0
        assert await work.paused_s(3 * SLICE_S) == 0


@in_virtual_time
async def test_others_get_the_loop_for_longer_than_a_slice(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (work, shared):
        slices = sum(shared.slices.counts)
        assert await work.paused_s(SLICE_S, others_s=0.001) == pytest.approx(2 * SLICE_S)
        assert sum(shared.slices.counts) == slices + 1


@in_virtual_time
async def test_a_slice_goes_on_while_there_is_time_left(tmp_path: Path) -> None:
    async with at_work(tmp_path) as (work, shared):
        slices = sum(shared.slices.counts)
        assert await work.paused_s(0.3 * SLICE_S, others_s=0.001) == 0
        assert sum(shared.slices.counts) == slices


@in_virtual_time
@pytest.mark.parametrize("why", ["a node lacks a bucket", "the set stops"])
async def test_who_waits_for_its_end_is_not_made_to_wait_longer(tmp_path: Path, why: str) -> None:
    async with at_work(tmp_path) as (work, shared):
        if why == "the set stops":
            shared.stop.is_requested = True
        else:
            shared.steps.waiting_for_nodes += 1
        assert await work.paused_s(SLICE_S, others_s=0.001) == 0
        shared.stop.is_requested, shared.steps.waiting_for_nodes = False, 0
