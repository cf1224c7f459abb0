# SPDX-License-Identifier: GPL-2.0-only
"""A device that takes its time, each operation another one, repeatable from a seed."""

import asyncio
from random import Random

from bcached.device import BlockDevice, BytesLike
from instruments.devices.passing_device import PassingDevice


class LatentDevice(PassingDevice):
    """A device whose operations begin and end late by chance, so that they overlap in every way."""

    def __init__(self, inner: BlockDevice, random: Random, latency_s: float = 0.001) -> None:
        super().__init__(inner)
        self.latency_s = latency_s
        self._random = random

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        await self._pass()
        await self.inner.write(offset, data, durable=durable)
        await self._pass()

    async def flush(self) -> None:
        await self._pass()
        await self.inner.flush()
        await self._pass()

    async def discard(self, offset: int, length: int) -> None:
        await self._pass()
        await self.inner.discard(offset, length)
        await self._pass()

    async def _pass(self) -> None:
        await asyncio.sleep(self.latency_s * self._random.random() ** 3)


class StragglingDevice(LatentDevice):
    """A device of which some operations take very much longer than the others."""

    async def _pass(self) -> None:
        await super()._pass()
        if self._random.random() < 0.05:
            await asyncio.sleep(self.latency_s * 20 * self._random.random())
