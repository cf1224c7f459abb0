# SPDX-License-Identifier: GPL-2.0-only
"""One flush for many: each is covered by one that began after it asked, and few are made."""

import asyncio
from random import Random

import pytest

from bcached.device.shared_flush import SharedFlush
from bcached.errors import FlushFailed
from instruments.devices.durability_log import DurabilityLog
from instruments.devices.failing_device import FailingDevice, Fault
from instruments.devices.latent_device import LatentDevice
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.recording_device import RecordingDevice

WRITERS, WRITES = 20, 30


def slow(log: DurabilityLog, seed: int) -> LatentDevice:
    return LatentDevice(RecordingDevice(MemoryDevice(len(log.base)), log), Random(seed), 0.0001)


@pytest.mark.parametrize("seed", range(3))
async def test_what_was_written_before_is_durable_and_many_share_one(seed: int) -> None:
    log = DurabilityLog(bytes(512 * WRITERS))
    device = slow(log, seed)
    shared = SharedFlush(device)
    random = Random(seed)

    async def writer(number: int) -> None:
        for count in range(WRITES):
            await asyncio.sleep(0.0001 * random.random())
            data = bytes([number, count]) * 256
            await device.write(512 * number, data)
            await shared.flush()
            assert log.durable_bytes(512 * number, 512) == data

    await asyncio.gather(*map(writer, range(WRITERS)))
    assert 0 < len(log.flushes) < WRITERS * WRITES / 4


async def test_whoever_comes_while_one_runs_is_not_covered_by_it() -> None:
    log = DurabilityLog(bytes(1024))
    device = slow(log, 1)
    shared = SharedFlush(device)
    first = asyncio.create_task(shared.flush())
    while not log.entries:
        await asyncio.sleep(0)
    await device.inner.write(512, b"\x01" * 512)  # at once, past the latency
    await shared.flush()
    assert log.durable_bytes(512, 512) == b"\x01" * 512
    await first
    assert len(log.flushes) == 2


async def test_one_that_fails_is_nobodys_success() -> None:
    shared = SharedFlush(LatentDevice(FailingDevice(MemoryDevice(1024), Fault("flush", 1)), Random(1)))
    outcomes = await asyncio.gather(*(shared.flush() for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [FlushFailed] * 3


async def test_whoever_is_cancelled_in_mid_flush_leaves_it_to_the_next() -> None:
    log = DurabilityLog(bytes(512))
    device = slow(log, 2)
    shared = SharedFlush(device)
    await device.write(0, b"\x02" * 512)
    cancelled, other = asyncio.create_task(shared.flush()), asyncio.create_task(shared.flush())
    await asyncio.sleep(0)
    cancelled.cancel()
    await other
    assert cancelled.cancelled()
    assert log.durable_bytes(0, 512) == b"\x02" * 512
