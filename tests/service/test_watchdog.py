# SPDX-License-Identifier: GPL-2.0-only
import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bcached.service import loop_lag
from bcached.service.loop_lag import LoopLag
from bcached.service.notify import Notifier
from bcached.service.watchdog import feed_watchdog
from instruments.time.patience import patience


@asynccontextmanager
async def fed(folder: Path, lag: LoopLag, is_healthy: Callable[[], bool]) -> AsyncIterator[socket.socket]:
    """A watchdog that wants to hear every 40 ms, and the manager's end."""
    address = str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "40000"})
        feeding = asyncio.create_task(feed_watchdog(notifier, lag, is_healthy, lambda: ["nobody knows"]))
        yield manager
        feeding.cancel()
        notifier.close()


def heard(manager: socket.socket) -> int:
    count = 0
    try:
        while manager.recv(100):
            count += 1
    except BlockingIOError:
        return count
    return count


async def hears(manager: socket.socket, count: int) -> None:
    """Wait until it has heard so often, however slow the machine is."""
    async with patience(30):
        while (count := count - heard(manager)) > 0:
            await asyncio.sleep(0.005)


async def until(question: Callable[[], bool]) -> None:
    async with patience(30):
        while not question():
            await asyncio.sleep(0.005)


async def test_it_is_fed_while_all_is_well_and_not_when_the_set_is_stuck(tmp_path: Path) -> None:
    healthy = True
    async with fed(tmp_path, LoopLag(), lambda: healthy) as manager:
        await hears(manager, 3)
        healthy = False
        await asyncio.sleep(0.1)
        heard(manager)
        await asyncio.sleep(0.2)
        assert heard(manager) == 0
        healthy = True
        await hears(manager, 3)


async def test_it_is_not_fed_by_a_loop_that_is_late(tmp_path: Path) -> None:
    lag = LoopLag()
    lag.last_s = 5.0
    async with fed(tmp_path, lag, lambda: True) as manager:
        await asyncio.sleep(0.2)
        assert heard(manager) == 0


async def test_a_held_loop_is_measured_and_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_lag, "INTERVAL_S", 0.01)
    monkeypatch.setattr(loop_lag, "LAG_WINDOW_S", 0.3)
    lag = LoopLag()
    measuring = asyncio.create_task(lag.measure())
    await asyncio.sleep(0.05)
    time.sleep(0.2)
    await until(lambda: lag.worst_s > 0.15)
    await until(lambda: lag.last_s < lag.worst_s)
    await until(lambda: lag.worst_s < 0.15)
    measuring.cancel()
