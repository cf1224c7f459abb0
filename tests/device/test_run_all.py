# SPDX-License-Identifier: GPL-2.0-only
"""Several operations in one call: none outlives it, whatever happens."""

import asyncio
from functools import partial

import pytest

from bcached.device.run_all import run_all


class Operations:
    """Counts how many are running, and lets them end when told."""

    def __init__(self) -> None:
        self.running = self.most = self.ended = 0
        self.go_on = asyncio.Event()

    async def run(self, error: Exception | None = None) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if error is not None:
                raise error
            await self.go_on.wait()
        finally:
            await asyncio.sleep(0)  # as on a device, the end takes a moment
            self.running -= 1
            self.ended += 1


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_all_run_at_once_up_to_the_limit() -> None:
    operations = Operations()
    running = asyncio.create_task(run_all([operations.run] * 10, at_once=4))
    await settle()
    assert operations.running == 4
    operations.go_on.set()
    await running
    assert (operations.most, operations.ended) == (4, 10)


async def test_the_first_error_is_raised_once_all_have_ended() -> None:
    operations = Operations()
    with pytest.raises(OSError, match="first"):
        await run_all([operations.run, partial(operations.run, OSError("first")), operations.run])
    assert (operations.running, operations.ended) == (0, 3)


async def test_a_cancelled_call_ends_when_all_have_ended() -> None:
    operations = Operations()
    running = asyncio.create_task(run_all([operations.run] * 3))
    await settle()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (operations.running, operations.ended) == (0, 3)


async def test_none_is_enough() -> None:
    await run_all([])
