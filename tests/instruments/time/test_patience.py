# SPDX-License-Identifier: GPL-2.0-only
import asyncio
import time

import pytest

from instruments.time.patience import STEP_S, patience, tries


async def test_what_is_done_in_time_is_left_alone() -> None:
    async with patience(1):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)


async def test_what_is_never_done_is_given_up() -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        async with patience(0.05):
            await asyncio.sleep(3600)
    assert time.monotonic() - begun >= 0.05


async def test_a_machine_that_stood_still_is_no_reason_to_give_up() -> None:
    async with patience(2 * STEP_S):
        await asyncio.sleep(0)
        time.sleep(3 * STEP_S)  # as if the machine were paused
        await asyncio.sleep(0.01)


def test_tries_end() -> None:
    assert len(list(tries(0.05, pause_s=0.01))) == 6
    assert len(list(tries(0))) == 2
