# SPDX-License-Identifier: GPL-2.0-only
"""What the watchdog goes by: long work that comes on is no hang, and a device that does not answer is one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bcached.device.block_device import BlockDevice, BytesLike
from bcached.runtime.cache_set import STEP_SECONDS_MAX, CacheSet
from bcached.runtime.lifetime import running
from instruments.devices.passing_device import PassingDevice
from instruments.samples.living_set import extent, fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time

LOOK_S = STEP_SECONDS_MAX / 2  # between two looks of the watchdog
BUCKET_SECTORS = 128


class OneAtATime(PassingDevice):
    """A device that does one thing after the other, each in the time it is told."""

    def __init__(self, inner: BlockDevice) -> None:
        super().__init__(inner)
        self.each_s = 0.0
        self._turn = asyncio.Lock()

    async def read(self, offset: int, length: int) -> bytes:
        await self._pass()
        return await super().read(offset, length)

    async def write(self, offset: int, data: BytesLike, *, durable: bool = False) -> None:
        await self._pass()
        await super().write(offset, data, durable=durable)

    async def _pass(self) -> None:
        if self.each_s:
            async with self._turn:
                await asyncio.sleep(self.each_s)


@asynccontextmanager
async def a_set(folder: Path, bucket_count: int) -> AsyncIterator[tuple[CacheSet, OneAtATime]]:
    (inner,) = await fresh_members([bucket_count], BUCKET_SECTORS * 512)
    device = OneAtATime(inner)
    async with running([device], set_options(folder, verify=False, moving_gc=False)) as cache_set:
        await cache_set.volumes.create("flash", 1 << 40)
        yield cache_set, device
        device.each_s = 0.0


async def health_until(cache_set: CacheSet, done: "asyncio.Future[None]") -> tuple[float, bool]:
    """How long it took, and whether all was well whenever somebody looked."""
    begun = asyncio.get_running_loop().time()
    always = True
    while not done.done():
        await asyncio.wait([done], timeout=LOOK_S)
        always = always and cache_set.is_healthy()
    return asyncio.get_running_loop().time() - begun, always


@in_virtual_time
async def test_moving_much_data_is_no_hang(tmp_path: Path) -> None:
    async with a_set(tmp_path, 4096) as (cache_set, device):
        holder, index = cache_set.allocations.new_holder("client"), cache_set.index
        for number in range(100):
            wanted = extent(BUCKET_SECTORS, offset=number * BUCKET_SECTORS, whole=True)
            (keys,) = await cache_set.allocations.allocate(holder, [wanted], 10.0)
            await index.commit(holder, keys, 10.0)
            await index.invalidate(0, number * BUCKET_SECTORS, BUCKET_SECTORS - 8, 10.0)
        await index.flush()
        device.each_s, cache_set.shared.options.moving_gc = 0.5, True
        collecting = asyncio.ensure_future(cache_set.maintenance.collect_garbage())
        took_s, always = await health_until(cache_set, collecting)
        assert took_s > 2 * STEP_SECONDS_MAX
        assert always
        assert cache_set.tasks.garbage_collector.mover.moved_sectors > 300


async def change_every_leaf(cache_set: CacheSet) -> int:
    """Have a change that is nowhere but in the journal in each of many leaves; how many."""
    holder, index = cache_set.allocations.new_holder("client"), cache_set.index
    for first in range(0, 20_000, 100):
        offsets = range(first << 10, (first + 100) << 10, 1 << 10)
        keys = await cache_set.allocations.allocate(
            holder, [extent(8, offset=offset) for offset in offsets], 10.0
        )
        await index.commit(holder, [key for (key,) in keys], 10.0)
    await index.write_out()
    leaves = list(index.nodes.tree.leaves)
    for leaf in leaves:
        (key,) = leaf.live.keys_at([0])
        await index.invalidate(0, key.offset, 8, 10.0)
    return len(leaves)


@in_virtual_time
async def test_writing_many_leaves_is_no_hang(tmp_path: Path) -> None:
    async with a_set(tmp_path, 4096) as (cache_set, device):
        leaves = await change_every_leaf(cache_set)
        device.each_s = 4.0
        writing = asyncio.ensure_future(cache_set.maintenance.write_priorities())
        took_s, always = await health_until(cache_set, writing)
        assert took_s > leaves * device.each_s > 2 * STEP_SECONDS_MAX
        assert always


@in_virtual_time
async def test_a_device_that_does_not_answer_is_a_hang_whoever_waits_for_it(tmp_path: Path) -> None:
    async with a_set(tmp_path, 4096) as (cache_set, device):
        for asked in (cache_set.maintenance.collect_garbage, cache_set.maintenance.write_priorities):
            device.each_s = 100.0
            waiting = asyncio.ensure_future(asked())
            await asyncio.sleep(LOOK_S)
            cache_set.is_healthy()
            await asyncio.sleep(2 * LOOK_S)
            assert not cache_set.is_healthy()
            await waiting
            device.each_s = 0.0
            await asyncio.sleep(300)
            assert cache_set.is_healthy()
