"""One flush for all who need one at the same time.

A flush makes durable whatever was written before it, whoever wrote it. So with many small writes under way
there is no need of one for each: who comes while one is running shares the next with all who came meanwhile.
"""

import asyncio

from bcached.device.block_device import BlockDevice


class SharedFlush:
    """Flushes one device, once at a time."""

    def __init__(self, device: BlockDevice) -> None:
        self._device = device
        self._turn = asyncio.Lock()
        self._begun = 0
        self._ended = 0  # the last one that did its work

    async def flush(self) -> None:
        """Make durable what was written before this call. DeviceError as from the device's own flush."""
        wanted = self._begun + 1  # one that runs already may have missed it
        async with self._turn:
            if self._ended >= wanted:
                return
            self._begun += 1
            begun = self._begun
            await self._device.flush()
            self._ended = begun
