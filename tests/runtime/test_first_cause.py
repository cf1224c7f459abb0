# SPDX-License-Identifier: GPL-2.0-only
"""Whatever fails, all who hear of it are told what failed first, on which device, and not what came of it."""

import asyncio
import errno
from collections.abc import Awaitable
from pathlib import Path

import pytest

from bcached.errors import DeviceError, DeviceFailed, RequestError
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.lifetime import running
from instruments.devices.failing_device import FailingDevice, Fault, Verb
from instruments.samples.living_set import extent, fresh_members, reopened, set_options
from instruments.time.virtual_time import in_virtual_time

WORDS = {errno.EIO: "Input/output error", errno.ENOSPC: "No space left on device"}


async def commit_on(cache_set: CacheSet, inode: int) -> None:
    holder = cache_set.allocations.new_holder(f"of volume {inode}")
    for number in range(1000):
        (keys,) = await cache_set.allocations.allocate(
            holder, [extent(8, inode=inode, offset=8 * number % 4096)], 5.0
        )
        dirty = [Key(key.inode, key.offset, key.sectors, number % 2 == 0, key.pointers) for key in keys]
        seq = await cache_set.index.commit(holder, dirty, 5.0)
        if number % 3 == 0:
            await cache_set.index.durable(seq)
        await asyncio.sleep(0.001)


async def administer(cache_set: CacheSet) -> None:
    for number in range(1000):
        await cache_set.volumes.create(f"one more {number}")
        await cache_set.volumes.delete(2, force=True)
        await cache_set.maintenance.write_priorities()
        await cache_set.maintenance.collect_garbage()
        await asyncio.sleep(0.001)


async def heard_by(work: Awaitable[None]) -> RequestError | None:
    try:
        await work
    except RequestError as error:
        return error
    return None


@pytest.mark.parametrize("number", WORDS)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 20])
@pytest.mark.parametrize("verb", ["write", "flush", "discard"])
@in_virtual_time
async def test_everybody_hears_of_the_first_failure(
    tmp_path: Path, verb: Verb, count: int, number: int
) -> None:
    members = await fresh_members([513, 600], 4 << 10, discard=True)
    async with running(members, set_options(tmp_path, verify=False)) as cache_set:
        assert [await cache_set.volumes.create(str(n)) for n in range(2)] == [0, 1]
    first, second = reopened(members)
    failing = FailingDevice(second)
    heard: list[asyncio.Task[RequestError | None]] = []

    async def live_until_it_fails() -> None:
        async with running([first, failing], set_options(tmp_path, verify=False)) as cache_set:
            failing.faults.append(Fault(verb, failing.calls[verb] + count, number))
            works = (commit_on(cache_set, 0), commit_on(cache_set, 1), administer(cache_set))
            heard.extend(asyncio.create_task(heard_by(work)) for work in works)
            await asyncio.wait(heard)
            assert failing.fired
            await asyncio.sleep(60)

    with pytest.raises(DeviceError) as ended:
        await live_until_it_fails()
    assert f"member 1: cannot {verb}" in str(ended.value)
    assert WORDS[number] in str(ended.value)
    for error in [await task for task in heard]:
        assert isinstance(error, DeviceFailed)
        assert error.fields["reason"] == str(ended.value)
