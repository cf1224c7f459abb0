"""How a collection shares the event loop with requests.

It yields to the loop between two slices, so that no request waits longer than for one. But a client that
sends one request after the other would wait for a slice each time. So if other tasks had work meanwhile, they
get the loop for longer than a slice (kernel: the collector sleeps while look-ups are under way), unless a
request waits for buckets, which a collection provides.
"""

import asyncio

from bcached.runtime.services import Services

IDLE_TURN_S = 20e-6  # one iteration of an idle loop
PAUSE_SLICES = 2


class Pacer:
    """The slices and pauses of one task."""

    def __init__(self, task: object, services: Services) -> None:
        self._task = task
        self._services = services
        self._begun = 0.0  # the clock at the start of the slice
        self._looked = 0.0  # the clock at the last check

    async def begin(self) -> None:
        """Yield to the loop and start a slice, which does not include earlier work or waiting."""
        self._services.begin_step(self._task)
        await asyncio.sleep(0)
        self._begun = self._looked = self._services.clock()

    async def checkpoint(self) -> None:
        """Yield to the loop when the slice's time is over, or would be after another piece like the last."""
        services = self._services
        now = services.clock()
        if 2 * now - self._looked - self._begun >= services.options.gc_slice_s:
            services.slices.observe(now - self._begun)
            services.begin_step(self._task)  # a large index takes long, which is not a hang
            await self._yield_loop()
            now = self._begun = services.clock()
        self._looked = now

    async def _yield_loop(self) -> None:
        services = self._services
        left = services.clock()
        await asyncio.sleep(0)
        if services.clock() - left > IDLE_TURN_S and not services.is_short and not services.stopping:
            await asyncio.sleep(PAUSE_SLICES * services.options.gc_slice_s)
