# SPDX-License-Identifier: GPL-2.0-only
"""Cache sets on devices in memory, for tests of what runs on them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bcached.device.block_device import BlockDevice
from bcached.errors import NoFreeBuckets
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.coordination.options import SetOptions
from bcached.set_state import Replacement
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.reservations import ExtentRequest, Holder
from bcached.store.make.layout import lay_out, plan_set
from instruments.devices.memory_device import MemoryDevice


async def fresh_members(
    bucket_counts: Sequence[int],
    bucket_bytes: int = 64 << 10,
    policy: Replacement = Replacement.LRU,
    discard: bool = False,
) -> list[MemoryDevice]:
    """Freshly laid out devices of one set, with so many buckets each."""
    devices = [
        MemoryDevice(count * bucket_bytes, path=f"member {number}")
        for number, count in enumerate(bucket_counts)
    ]
    layout = plan_set(devices, bucket_bytes=bucket_bytes, replacement=policy, discard=discard)
    await lay_out(layout, devices)
    return devices


def reopened(devices: Iterable[MemoryDevice]) -> list[BlockDevice]:
    """The same bytes for another life."""
    return [device.reopen() for device in devices]


def set_options(folder: Path, **changes: Any) -> SetOptions:
    """Options with every check on, and with a chance for others to run after every slice."""
    values: dict[str, Any] = {"verify": True, "gc_slice_s": 0.0, "restart_grace_s": 0.5, "seed": 1}
    values |= {"change_counters": 1 << 10} | changes
    return SetOptions(str(folder), str(folder), **values)


def extent(
    sectors: int, *, inode: int = 0, offset: int = 0, write_point: int = 1, **kind: Any
) -> ExtentRequest:
    """A request for sectors."""
    return ExtentRequest(inode, offset, sectors, write_point, **kind)


async def take_buckets(
    cache_set: CacheSet, holder: Holder, count: int | None = None, *, patience_s: float = 1.0
) -> list[Key]:
    """So many whole buckets; without a count, all there are."""
    keys: list[Key] = []
    while count is None or len(keys) < count:
        try:
            keys.append(await cache_set.allocations.allocate_bucket(holder, 1, patience_s))
        except NoFreeBuckets:
            if count is not None:
                raise
            break
    return keys


def spare_buckets(buckets: MemberBuckets, reserve: Reserve = Reserve.NONE) -> int:
    """Buckets of a member that could come to a reserve once those filled before it have what they lack."""
    reserves = buckets.reserves
    coming = buckets.table.reclaimable_count + len(buckets.free_inc) + len(buckets.unused.buckets)
    lacking = reserves.room_in(Reserve.PRIO)
    if reserve is not Reserve.BTREE:
        lacking += reserves.room_in(Reserve.BTREE)
    if reserve is Reserve.NONE:
        lacking += reserves.room_in(Reserve.MOVINGGC)
    return reserves.available(reserve) + coming - lacking


def work_done(cache_set: CacheSet) -> int:
    """Prio writes and garbage collections so far."""
    now = cache_set.statistics()
    return sum(member.prio_writes for member in now.members) + sum(now.gc_runs.values())
