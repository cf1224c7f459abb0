# SPDX-License-Identifier: GPL-2.0-only
"""How a collection shares the event loop with requests.

It yields to the loop between two slices, so that no request waits longer than for one. But a client that
sends one request after the other would wait for a slice each time. So if other tasks had work meanwhile, they
get the loop for longer than a slice (kernel: the collector sleeps while look-ups are under way), unless a
request waits for buckets, which a collection provides.
"""

import asyncio

from bcached.runtime.coordination.shared import Shared

IDLE_TURN_S = 20e-6  # one iteration of an idle loop
PAUSE_SLICES = 2


class Pacer:
    """The slices and pauses of one task."""

    def __init__(self, task: object, shared: Shared) -> None:
        self._task = task
        self._shared = shared
        self._begun = 0.0  # the clock at the start of the slice
        self._looked = 0.0  # the clock at the last check

    async def begin(self) -> None:
        """Yield to the loop and start a slice, which does not include earlier work or waiting."""
        self._shared.steps.begin(self._task)
        await asyncio.sleep(0)
        self._begun = self._looked = self._shared.clock()

    async def checkpoint(self) -> None:
        """Yield to the loop when the slice's time is over, or would be after another piece like the last."""
        shared = self._shared
        now = shared.clock()
        if 2 * now - self._looked - self._begun >= shared.options.gc_slice_s:
            shared.slices.observe(now - self._begun)
            shared.steps.begin(self._task)  # a large index takes long, which is not a hang
            await self._yield_loop()
            now = self._begun = shared.clock()
        self._looked = now

    async def _yield_loop(self) -> None:
        shared = self._shared
        left = shared.clock()
        await asyncio.sleep(0)
        if shared.clock() - left > IDLE_TURN_S and not shared.is_short and not shared.stop.is_requested:
            await asyncio.sleep(PAUSE_SLICES * shared.options.gc_slice_s)
