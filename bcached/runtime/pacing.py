"""The turns that a collection takes on the loop, and gives.

Between two slices the loop is let go, so that nobody waits longer than for one. But a client that asks one
thing after the other would wait for a slice each time. So if others had something to do meanwhile, they get
the loop for longer than a slice (kernel: the collector sleeps while look-ups are under way), unless somebody
waits for what a collection gives: buckets.
"""

import asyncio

from bcached.runtime.services import Services

IDLE_TURN_S = 20e-6  # the loop's own: once around with nothing to do
PAUSE_SLICES = 2


class Turns:
    """Of one task."""

    def __init__(self, task: object, services: Services) -> None:
        self._task = task
        self._services = services
        self._begun = 0.0  # the slice, at the clock
        self._looked = 0.0

    async def begin(self) -> None:
        """Let the loop go, so that what is done next does not add to what was done or waited for last."""
        self._services.begin_step(self._task)
        await asyncio.sleep(0)
        self._begun = self._looked = self._services.clock()

    async def breathe(self) -> None:
        """Let the loop go when a slice's time is up, or would be after one more piece like the last."""
        services = self._services
        now = services.clock()
        if 2 * now - self._looked - self._begun >= services.options.gc_slice_s:
            services.slices.observe(now - self._begun)
            services.begin_step(self._task)  # a large index takes its time; that is no hang
            await self._give_way()
            now = self._begun = services.clock()
        self._looked = now

    async def _give_way(self) -> None:
        services = self._services
        left = services.clock()
        await asyncio.sleep(0)
        if services.clock() - left > IDLE_TURN_S and not services.is_short and not services.stopping:
            await asyncio.sleep(PAUSE_SLICES * services.options.gc_slice_s)
