# SPDX-License-Identifier: GPL-2.0-only
"""One flush for all callers that need one at the same time.

A flush makes durable all that was written before it, by any caller. So many small writes in flight need not
have one each: callers that arrive while one is running share the next.
"""

import asyncio

from bcached.device.block_device import BlockDevice


class SharedFlush:
    """Flushes one device, one flush at a time."""

    def __init__(self, device: BlockDevice) -> None:
        self._device = device
        self._lock = asyncio.Lock()
        self._begun = 0  # counts flushes, so that one can be told from the next
        self._ended = 0  # the last one that succeeded

    async def flush(self) -> None:
        """Make durable what was written before this call; raises DeviceError as the device's flush does."""
        wanted = self._begun + 1  # a running one may not cover the latest writes
        async with self._lock:
            if self._ended >= wanted:
                return
            self._begun += 1
            begun = self._begun
            await self._device.flush()
            self._ended = begun
