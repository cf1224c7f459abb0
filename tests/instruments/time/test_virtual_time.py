# SPDX-License-Identifier: GPL-2.0-only
"""Virtual time passes only while nothing else can happen, and a hang in it is told at once."""

import asyncio
import time

import pytest

from instruments.time.virtual_time import DeadlockError, LivelockError, in_virtual_time, run_in_virtual_time


@in_virtual_time
async def test_an_hour_takes_no_time() -> None:
    begun, real = asyncio.get_running_loop().time(), time.monotonic()
    await asyncio.sleep(3600)
    assert asyncio.get_running_loop().time() - begun == pytest.approx(3600)
    assert time.monotonic() - real < 60


@in_virtual_time
async def test_timers_fire_in_their_order() -> None:
    order: list[int] = []
    loop = asyncio.get_running_loop()
    for delay in (3, 1, 2):
        loop.call_later(delay, order.append, delay)
    await asyncio.sleep(4)
    assert order == [1, 2, 3]


def test_what_waits_for_nothing_is_a_deadlock() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError):
        run_in_virtual_time(wait())


def test_what_spins_is_a_livelock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instruments.time.virtual_time.TURNS_AT_ONE_TIME_MAX", 1000)

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(LivelockError):
        run_in_virtual_time(spin())


@in_virtual_time
async def test_a_thread_is_waited_for_in_real_time() -> None:
    asyncio.get_running_loop().call_later(1, pytest.fail, "the clock ran ahead of the thread")

    def seven() -> int:
        time.sleep(0.05)
        return 7

    assert await asyncio.to_thread(seven) == 7


def test_an_error_that_asyncio_would_only_log_is_told() -> None:
    async def leave_it_to_the_loop() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.1)

    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_in_virtual_time(leave_it_to_the_loop())
