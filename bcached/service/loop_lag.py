# SPDX-License-Identifier: GPL-2.0-only
"""How late the event loop runs its timers: how long a request waits before it is read."""

import asyncio

INTERVAL_S = 0.25
LAG_WINDOW_S = 15.0  # the worst is that of this window and the one before: no scrape misses it


class LoopLag:
    """Measures the delay of timers; worst_s is the largest of the last 15 to 30 seconds."""

    def __init__(self) -> None:
        self.last_s = 0.0
        self._this_window_s = 0.0
        self._window_before_s = 0.0

    @property
    def worst_s(self) -> float:
        """Returns the largest delay of this window and the previous one."""
        return max(self._this_window_s, self._window_before_s)

    async def measure(self) -> None:
        """Measure for ever."""
        loop = asyncio.get_running_loop()
        window_end = loop.time() + LAG_WINDOW_S
        while True:
            appointment = loop.time() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            now = loop.time()
            self.last_s = max(now - appointment, 0.0)
            self._this_window_s = max(self._this_window_s, self.last_s)
            if now > window_end:
                self._window_before_s, self._this_window_s = self._this_window_s, 0.0
                window_end = now + LAG_WINDOW_S
