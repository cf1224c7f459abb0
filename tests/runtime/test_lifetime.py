# SPDX-License-Identifier: GPL-2.0-only
"""A set ends in good order, or with one error of its own; it does not hang, and lets its devices be after."""

import asyncio
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcached.errors import (
    DeviceFailed,
    FlushFailed,
    NoFreeBuckets,
    SetRefused,
    ShuttingDown,
)
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.lifetime import STOP_SECONDS_MAX, ViolationError, running
from bcached.set_state import Replacement
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.reserves import Reserve
from bcached.wire.gen_map import GenMap
from instruments.devices.failing_device import FailingDevice, Fault
from instruments.devices.latent_device import LatentDevice
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.living_set import extent, fresh_members, reopened, set_options, take_buckets
from instruments.time.virtual_time import in_virtual_time


class SlowDevice(LatentDevice):
    """A device that takes as long as it is told to, whatever it is asked to do."""

    def __init__(self, inner: MemoryDevice) -> None:
        self.each_s = 0.0
        self.slow: set[str] = {"write", "flush", "discard"}
        self.calls_after_close = 0
        self._closed = False
        super().__init__(inner, None)  # type: ignore[arg-type]

    async def _pass(self) -> None:
        self.calls_after_close += self._closed
        await asyncio.sleep(self.each_s / 2)

    async def close(self) -> None:
        self._closed = True
        await super().close()


async def a_slow_set() -> list[SlowDevice]:
    return [SlowDevice(device) for device in await fresh_members([513], 4 << 10)]


def now() -> float:
    return asyncio.get_running_loop().time()


async def stop_s(
    cache_set_is: Callable[[CacheSet], Any], folder: Path, each_s: float, told: list[str]
) -> float:
    """How long a stop takes when every call of the device takes each_s; something is under way before."""
    devices = await a_slow_set()
    async with running(devices, set_options(folder), told.append) as cache_set:
        devices[0].each_s = each_s
        cache_set_is(cache_set)
        await asyncio.sleep(each_s / 3)
        begun = now()
    taken_s = now() - begun
    await asyncio.sleep(100)
    assert devices[0].calls_after_close == 0
    devices[0].each_s = 0
    async with running(reopened([devices[0].inner]), set_options(folder)) as cache_set:  # type: ignore[list-item]
        assert cache_set.verify() == []
    return taken_s


@in_virtual_time
async def test_a_stop_drains_what_is_under_way_and_writes_prios(tmp_path: Path) -> None:
    devices = await a_slow_set()
    async with running(devices, set_options(tmp_path)) as cache_set:
        await asyncio.sleep(1)
        await take_buckets(
            cache_set, cache_set.allocations.new_holder("hungry"), 7
        )  # the allocator has much to do
        devices[0].each_s = 0.1
        begun = now()
    assert now() - begun < STOP_SECONDS_MAX
    (buckets,) = (member.buckets for member in cache_set.members)
    behind = [
        bucket
        for bucket in range(buckets.geometry.bucket_count)
        if buckets.table.gens[bucket] != buckets.table.gens_on_disk[bucket]
    ]
    assert all(buckets.table.states[bucket] in (State.UNUSED, State.FREE) for bucket in behind)
    assert len(behind) <= buckets.geometry.prio_bucket_count, "but for the chain of before, all are durable"


@in_virtual_time
async def test_a_stop_with_a_slow_device_takes_no_longer_than_five_seconds(tmp_path: Path) -> None:
    def write_prios(cache_set: CacheSet) -> None:
        cache_set.shared.prios.request(cache_set.members[0])

    told: list[str] = []
    assert await stop_s(write_prios, tmp_path, 0.2, told) < STOP_SECONDS_MAX
    assert not any("left to recovery" in line for line in told)
    assert await stop_s(write_prios, tmp_path, 3.0, told) <= 5
    assert any("left to recovery" in line for line in told), "it is said when something was left undone"


@in_virtual_time
async def test_a_stop_tells_those_who_wait(tmp_path: Path) -> None:
    devices = await fresh_members([513], 4 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        inode = await cache_set.volumes.create("volume")
        holder = cache_set.allocations.new_holder("greedy")
        await take_buckets(cache_set, holder, patience_s=0.05)
        waiting: list[asyncio.Future[Any]] = [
            cache_set.allocations.allocate_bucket(holder, 1, 1000),
            cache_set.allocations.allocate(holder, [extent(80, inode=inode, whole=True)], 1000),
            asyncio.ensure_future(cache_set.maintenance.collect_garbage()),
        ]
        begun = now()
    assert now() - begun < 1, "near exhaustion too"
    for future in waiting:
        with pytest.raises(ShuttingDown):
            await future
    with pytest.raises(ShuttingDown):
        cache_set.allocations.carve(holder, inode, 0, 8, 1)


@in_virtual_time
async def test_a_stop_does_not_begin_changes_that_queue_up(tmp_path: Path) -> None:
    devices = await a_slow_set()
    async with running(devices, set_options(tmp_path)) as cache_set:
        devices[0].each_s = 0.5
        changes = [asyncio.ensure_future(cache_set.volumes.create(f"volume {n}")) for n in range(20)]
        await asyncio.sleep(0.6)
        begun = now()
    assert now() - begun <= 5
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    made = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert 1 <= len(made) < 20, "the one under way was ended, those behind it were not begun"
    assert all(isinstance(outcome, int | ShuttingDown) for outcome in outcomes)
    devices[0].each_s = 0
    async with running(reopened([devices[0].inner]), set_options(tmp_path)) as cache_set:  # type: ignore[list-item]
        assert [volume.inode for volume in cache_set.volumes.all()] == made


@in_virtual_time
async def test_a_stop_writes_prios_once(tmp_path: Path) -> None:
    devices = await a_slow_set()
    async with running(devices, set_options(tmp_path)) as cache_set:
        await asyncio.sleep(1)
        devices[0].each_s = 0.1
        writes = cache_set.statistics().members[0].prio_writes
    assert cache_set.statistics().members[0].prio_writes == writes + 1


@in_virtual_time
async def test_a_stop_does_not_begin_superblocks_that_queue_up(tmp_path: Path) -> None:
    devices = await a_slow_set()
    async with running(devices, set_options(tmp_path)) as cache_set:
        devices[0].each_s = 0.1
        first = asyncio.ensure_future(cache_set.maintenance.set_discard(True))
        second = asyncio.ensure_future(cache_set.maintenance.set_replacement(Replacement.FIFO))
        await asyncio.sleep(0.05)
    await first
    with pytest.raises(ShuttingDown):
        await second
    (superblock,) = (member.superblock for member in cache_set.members)
    assert superblock.discard
    assert superblock.replacement is Replacement.LRU


@in_virtual_time
async def test_a_stop_does_not_wait_for_a_volume_that_waits_for_a_bucket(tmp_path: Path) -> None:
    devices = await fresh_members([513], 4 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        holder = cache_set.allocations.new_holder("greedy")
        await take_buckets(cache_set, holder, patience_s=0.05)
        lists = cache_set.members[0].buckets.reserves.lists
        kept = [list(buckets) for buckets in lists]
        for buckets in lists[:1]:
            buckets.clear()
        changes = [asyncio.ensure_future(cache_set.volumes.create(f"volume {n}")) for n in range(3)]
        await asyncio.sleep(0.1)
        lists[0].extend(kept[0])
        begun = now()
    assert now() - begun < 1
    for change in changes:
        with pytest.raises(ShuttingDown):
            await change


@in_virtual_time
async def test_what_fails_in_a_task_is_the_one_error_that_ends_the_set(tmp_path: Path) -> None:
    (device,) = await fresh_members([513], 4 << 10)
    failing = FailingDevice(device)
    asking: list[asyncio.Task[None]] = []

    async def live() -> None:
        async with running([failing], set_options(tmp_path)) as cache_set:
            await asyncio.sleep(1)
            failing.faults.append(Fault("flush", failing.calls["flush"] + 1))
            asking.append(asyncio.ensure_future(cache_set.maintenance.write_priorities()))
            await asyncio.wait(asking)
            with pytest.raises(DeviceFailed, match="cannot flush"):
                cache_set.allocations.release(cache_set.allocations.new_holder("client"), [])
            await asyncio.sleep(3600)

    with pytest.raises(FlushFailed, match="member 0: cannot flush: Input/output error"):
        await live()
    assert now() < 10
    with pytest.raises(DeviceFailed, match="cannot flush"):
        await asking[0]
    assert not device.disk.is_open


@in_virtual_time
async def test_a_change_that_shares_an_entry_with_a_failed_one_is_not_acknowledged(tmp_path: Path) -> None:
    (device,) = await fresh_members([513], 4 << 10)
    failing = FailingDevice(device)
    changes: list[asyncio.Task[Any]] = []

    async def live() -> None:
        async with running([failing], set_options(tmp_path)) as cache_set:
            await asyncio.sleep(1)
            failing.faults.append(Fault("flush", failing.calls["flush"] + 1))
            changes.append(asyncio.ensure_future(cache_set.volumes.create("volume")))
            changes.append(asyncio.ensure_future(cache_set.maintenance.write_priorities()))
            await asyncio.wait(changes)
            await asyncio.sleep(3600)

    with pytest.raises(FlushFailed):
        await live()
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DeviceFailed, DeviceFailed]


class Broken:
    """Work that cannot even be undone."""

    reserve = Reserve.NONE
    holder = None

    def undo(self) -> None:
        raise ZeroDivisionError


@in_virtual_time
async def test_what_fails_in_a_callback_ends_the_set_too(tmp_path: Path) -> None:
    """The loop would only log it, and go on."""
    devices = await fresh_members([513], 4 << 10)

    async def live() -> None:
        async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
            holder = cache_set.allocations.new_holder("greedy")
            await take_buckets(cache_set, holder, patience_s=0.05)
            waiting = cache_set.allocations.allocate_bucket(holder, 1, 1)
            (waiter,) = cache_set.shared.queue._queues[Reserve.NONE]
            waiter.work = Broken()  # type: ignore[assignment]
            await waiting

    with pytest.raises(ZeroDivisionError):
        await live()


@in_virtual_time
async def test_an_error_of_whoever_uses_the_set_is_his_own(tmp_path: Path) -> None:
    devices = await fresh_members([513], 4 << 10)
    with pytest.raises(NoFreeBuckets):
        async with running(devices, set_options(tmp_path)):
            raise NoFreeBuckets("none", 0)
    with pytest.raises(LookupError):
        async with running(reopened(devices), set_options(tmp_path)):
            raise LookupError
    assert not devices[0].disk.is_open


@in_virtual_time
async def test_an_interrupted_opening_closes_the_devices_and_leaves_no_map(tmp_path: Path) -> None:
    devices = await a_slow_set()
    devices[0].each_s = 1

    async def open_it() -> None:
        async with running(devices, set_options(tmp_path)):
            raise AssertionError("it was to be interrupted")

    opening = asyncio.ensure_future(open_it())
    await asyncio.sleep(2.5)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not devices[0].inner.disk.is_open  # type: ignore[attr-defined]
    assert list(tmp_path.glob("*.gens")) == []


@in_virtual_time
async def test_a_violation_stops_the_set_before_it_does_harm(tmp_path: Path) -> None:
    devices = await fresh_members([513], 4 << 10)

    async def live() -> None:
        async with running(devices, set_options(tmp_path)) as cache_set:
            await asyncio.sleep(1)
            cache_set.members[0].buckets.table.counts[State.EMPTY] += 1
            await cache_set.maintenance.write_priorities()

    with pytest.raises(ViolationError, match="invariants do not hold: member 0"):
        await live()
    async with running(reopened(devices), set_options(tmp_path)) as cache_set:
        assert cache_set.verify() == []


@in_virtual_time
async def test_without_the_check_nobody_looks(tmp_path: Path) -> None:
    devices = await fresh_members([513], 4 << 10)
    async with running(devices, set_options(tmp_path, verify=False)) as cache_set:
        await asyncio.sleep(1)
        cache_set.members[0].buckets.table.counts[State.EMPTY] += 1
        await cache_set.maintenance.write_priorities()
        assert cache_set.verify() != []


@in_virtual_time
async def test_a_map_is_retired_at_the_end_and_another_life_has_another_number(tmp_path: Path) -> None:
    devices = await fresh_members([513], 4 << 10)
    lives = set()
    for again in range(2):
        async with running(devices if not again else reopened(devices), set_options(tmp_path)) as cache_set:
            (mapped,) = cache_set.gen_maps
            content = Path(mapped.path).read_bytes()
            assert len(content) == mapped.bytes
            gen_map = GenMap.parse(memoryview(content), mapped.path)
            assert bytes(gen_map.gens) == bytes(cache_set.members[0].buckets.table.gens)
            lives.add(gen_map.life)
            with Path(mapped.path).open("rb") as file:
                reader = mmap.mmap(file.fileno(), mapped.bytes, prot=mmap.PROT_READ)
            assert GenMap.parse(memoryview(reader), "reader").life == gen_map.life
        assert GenMap.parse(memoryview(reader), "reader").life == 0, "no reader trusts it any more"
        assert not Path(mapped.path).exists()
    assert len(lives) == 2


@in_virtual_time
async def test_a_set_that_is_not_synchronous_works_and_promises_nothing(tmp_path: Path) -> None:
    devices = await fresh_members([513], 4 << 10)
    async with running(devices, set_options(tmp_path, synchronous=False, verify=False)) as cache_set:
        holder = cache_set.allocations.new_holder("client")
        for _ in range(3):
            for key in await take_buckets(cache_set, holder, 400, patience_s=5):
                cache_set.allocations.free_bucket(holder, key)
        await cache_set.volumes.create("gone tomorrow")
        await cache_set.maintenance.write_priorities()
        (buckets,) = (member.buckets for member in cache_set.members)
        assert buckets.prio_chains.writes == 0
        assert cache_set.verify() == []
    async with running(reopened(devices), set_options(tmp_path)) as cache_set:
        assert cache_set.volumes.all() == []
    with pytest.raises(SetRefused, match="the set has run with synchronous = true, found false"):
        async with running(reopened(devices), set_options(tmp_path, synchronous=False)):
            raise AssertionError("it was to be refused")


@in_virtual_time
async def test_a_device_that_hangs_shows_and_one_that_is_merely_slow_does_not(tmp_path: Path) -> None:
    devices = await a_slow_set()
    async with running(devices, set_options(tmp_path)) as cache_set:
        await cache_set.maintenance.set_discard(True)
        devices[0].each_s = 5
        asking = [asyncio.ensure_future(cache_set.maintenance.write_priorities())]
        for _ in range(60):
            await asyncio.sleep(1)
            assert cache_set.is_healthy(), "each call takes five seconds, and they come to an end"
        devices[0].each_s = 1000
        asking.append(asyncio.ensure_future(cache_set.maintenance.write_priorities()))
        await asyncio.sleep(60)
        assert not cache_set.is_healthy()
        devices[0].each_s = 0
        await asyncio.gather(*asking)
        assert cache_set.is_healthy()
