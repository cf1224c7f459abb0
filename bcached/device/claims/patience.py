# SPDX-License-Identifier: GPL-2.0-only
"""Waiting for a device that another process has in use."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from bcached.errors import DeviceBusy

T = TypeVar("T")

RETRY_S, RETRY_MAX_S = 0.02, 1.0  # each wait is twice as long as the one before
REPORT_S = 60.0


def _say_nothing(_: str) -> None:
    """Discard the report of a wait that lasts only moments."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a device in use; report gets the reason, at once and then every minute."""

    limit_s: float
    report: Callable[[str], None] = _say_nothing

    async def see_through(self, path: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Returns the result of the first attempt without DeviceBusy; raises it if none is in time."""
        loop = asyncio.get_running_loop()
        deadline, wait_s = loop.time() + self.limit_s, RETRY_S
        reported, reported_at = "", loop.time()
        while True:
            try:
                return await attempt()
            except DeviceBusy as busy:
                if loop.time() >= deadline:
                    raise
                if busy.reason != reported or loop.time() - reported_at >= REPORT_S:
                    reported, reported_at = busy.reason, loop.time()
                    self.report(f"waiting for {path}: {reported}")
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_MAX_S)


BRIEF = Patience(1.0)  # udev holds a shared lock briefly while it probes a device that has just changed
