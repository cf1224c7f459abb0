# SPDX-License-Identifier: GPL-2.0-only
"""Short stories of a set's life, played over and over with something going wrong at another moment each time.

They bring every part into play: the first run and a later one, waiting and being served, volumes, policies,
collections, prio writes, discards, several members, a client that goes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bcached.device.block_device import BlockDevice
from bcached.errors import NoFreeBuckets, NoSuchVolume, RequestError
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.lookups import LookupRequest
from bcached.runtime.lifetime import running
from bcached.set_state import Replacement
from bcached.state.buckets.bucket_table import State
from bcached.store.check.checker import check_set
from bcached.store.finding import Severity
from instruments.clients.keeping_client import KeepingClient, Kept, check_kept
from instruments.devices.failing_device import FailingDevice, Fault
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.living_set import extent, fresh_members, set_options, take_buckets
from instruments.time.await_points import AwaitPoints

BUCKET_BYTES = 4 << 10
BUCKET_COUNT = 513
INDEX_BYTES = 12_000  # a leaf or two
NO_VOLUME = 77


@dataclass
class Promises:
    """What was acknowledged to a client so far; it must be found in every later life."""

    volumes: dict[int, str] = field(default_factory=dict)
    deleting: set[int] = field(default_factory=set)
    policies: set[Replacement] = field(default_factory=set)  # the last one, and those asked for since
    kept: Kept = field(default_factory=Kept)
    matters: bool = True  # false while a story only prepares what it is about


Play = Callable[[CacheSet, Promises], Awaitable[None]]


async def ordinary_day(cache_set: CacheSet, promises: Promises) -> None:
    """Volumes come, sectors come and go, prios are written, garbage is collected."""
    inode = await cache_set.volumes.create("first")
    promises.volumes[inode] = "first"
    holder = cache_set.allocations.new_holder("client")
    keys = []
    for at in range(0, 200, 8):
        key = cache_set.allocations.carve(holder, inode, at, 8, 1)
        if key is None:
            ((key,),) = await cache_set.allocations.allocate(holder, [extent(8, inode=inode, offset=at)], 10)
        keys.append(key)
        if at % 64 == 0:
            await asyncio.sleep(0)
    cache_set.allocations.release(holder, keys[::2])
    await cache_set.maintenance.write_priorities()
    await cache_set.maintenance.collect_garbage()
    cache_set.allocations.release(holder, keys[1::2])
    cache_set.allocations.drop_holder(holder, None)


async def crowded_day(cache_set: CacheSet, promises: Promises) -> None:
    """All buckets are held; some wait in vain, others until something is released or a client goes."""
    inode = await cache_set.volumes.create("crowded")
    promises.volumes[inode] = "crowded"
    greedy, patient, other = (
        cache_set.allocations.new_holder(name) for name in ("greedy", "patient", "other")
    )
    promises.matters = False
    keys = await take_buckets(cache_set, greedy, BUCKET_COUNT * 9 // 10)
    promises.matters = True
    keys += await take_buckets(cache_set, greedy, patience_s=0.01)
    gathering = cache_set.allocations.allocate(patient, [extent(40, inode=inode, whole=True)], 20)
    waiting = [cache_set.allocations.allocate_bucket(other, 1, 20) for _ in range(3)]
    with suppress(NoFreeBuckets):
        await cache_set.allocations.allocate(other, [extent(8, inode=inode)], 0)
    for key in keys[:3]:
        cache_set.allocations.free_bucket(greedy, key)
        await asyncio.sleep(0.001)
    waiting[1].cancel()
    cache_set.allocations.drop_holder(greedy, None)
    await asyncio.gather(gathering, waiting[0], waiting[2])
    cache_set.allocations.drop_holder(patient, None)
    cache_set.allocations.drop_holder(other, None)


async def busy_administrator(cache_set: CacheSet, promises: Promises) -> None:
    """Everything an administrator can change, at the same time, with clients on the set."""
    holder = cache_set.allocations.new_holder("client")
    promises.policies = {cache_set.members[0].superblock.replacement}

    async def create(label: str) -> None:
        promises.volumes[await cache_set.volumes.create(label)] = label

    async def open_by_label(label: str) -> None:
        for _ in range(2):
            inode, _ = await cache_set.volumes.open(label)
            promises.volumes[inode] = label

    async def choose(policy: Replacement) -> None:
        promises.policies.add(policy)
        await cache_set.maintenance.set_replacement(policy)
        promises.policies = {policy}

    async def churn() -> None:
        for _ in range(3):
            for key in await take_buckets(cache_set, holder, 8, patience_s=10):
                cache_set.allocations.free_bucket(holder, key)

    await asyncio.gather(create("one"), create("two"), churn(), cache_set.maintenance.collect_garbage())
    await asyncio.gather(
        cache_set.maintenance.set_discard(True),
        churn(),
        cache_set.maintenance.write_priorities(),
        cache_set.maintenance.collect_garbage(),
    )
    inode = next(iter(promises.volumes))
    promises.deleting.add(inode)
    waiting = cache_set.allocations.allocate(holder, [extent(8, inode=inode)], 10)
    await asyncio.gather(
        cache_set.volumes.delete(inode), choose(Replacement.FIFO), waiting, return_exceptions=True
    )
    await asyncio.gather(choose(Replacement.RANDOM), churn(), open_by_label("three"))
    with suppress(NoSuchVolume):
        await cache_set.volumes.delete(NO_VOLUME)
    cache_set.allocations.drop_holder(holder, None)


async def copies(cache_set: CacheSet, promises: Promises) -> None:
    """Extents with a copy on each member, waited for and gathered."""
    inode = await cache_set.volumes.create("mirrored")
    promises.volumes[inode] = "mirrored"
    holder = cache_set.allocations.new_holder("client")
    count = len(cache_set.members)
    keys = []
    promises.matters = False
    with suppress(NoFreeBuckets):
        while True:
            keys += (
                await cache_set.allocations.allocate(
                    holder, [extent(64, inode=inode, replicas=count, whole=True)], 0.02
                )
            )[0]
    promises.matters = True
    waiting = cache_set.allocations.allocate(holder, [extent(8, inode=inode, replicas=count)] * 4, 20)
    await asyncio.sleep(0.001)
    cache_set.allocations.release(holder, keys[: len(keys) // 2])
    await waiting
    await asyncio.gather(cache_set.maintenance.write_priorities(), cache_set.maintenance.collect_garbage())
    cache_set.allocations.drop_holder(holder, None)


async def keeping(cache_set: CacheSet, promises: Promises) -> None:
    """Keys come and go, in a tree of two levels that does not fit into memory, while garbage is collected."""
    plain = await cache_set.volumes.create("plain")
    flash = await cache_set.volumes.create("flash", 4096)
    promises.volumes |= {plain: "plain", flash: "flash"}
    copies = len(cache_set.members)
    one, other = KeepingClient(cache_set, promises.kept), KeepingClient(cache_set, promises.kept)

    async def write_many(client: KeepingClient, inode: int, first: int) -> list[Key]:
        promises.matters = False
        keys = []
        for at in range(first, first + 3200, 16):
            keys += await client.write(inode, at, 2, replicas=1 + at % copies)
        promises.matters = True
        return keys

    keys = await write_many(one, plain, 0)
    await write_many(other, flash, 0)
    await asyncio.gather(
        one.clean(keys[::2]), other.write(flash, 3, 40), cache_set.maintenance.collect_garbage()
    )
    await asyncio.sleep(0.05)  # it tidies and moves
    await asyncio.gather(
        one.drop(plain, 100, 2000), other.drop(flash, 0, 1500), cache_set.maintenance.write_priorities()
    )
    await asyncio.gather(
        cache_set.maintenance.collect_garbage(), other.write(flash, 20, 5), cache_set.index.flush()
    )
    await asyncio.sleep(0.05)
    await write_many(one, plain, 8)
    found = await cache_set.lookups.lookup(LookupRequest(plain, 0, 4000, pin=one.holder))
    await asyncio.gather(one.drop(plain, 0, 3000), other.write(flash, 2000, 100, rest=48))
    cache_set.lookups.unpin(one.holder, found.keys)
    for at in range(0, 2400, 60):  # more at once than may be unwritten
        await one.scatter(plain, 4000 + at, 7)
    await cache_set.maintenance.collect_garbage()
    await grow_when_there_are_no_buckets(cache_set, one, plain)
    await write_many(one, plain, 4)
    promises.deleting.add(plain)
    promises.kept.forgotten.add(plain)
    await asyncio.gather(
        cache_set.volumes.delete(plain), other.write(flash, 3000, 10), return_exceptions=True
    )
    await asyncio.gather(
        cache_set.volumes.delete(plain, force=True), other.drop(flash, 0, 10), return_exceptions=True
    )
    for client in (one, other):
        cache_set.allocations.drop_holder(client.holder, None)


async def keeping_a_little(cache_set: CacheSet, promises: Promises) -> None:
    """Keys come and go in a tree that splits, in so few calls that each of them can be the one that fails."""
    plain = await cache_set.volumes.create("plain")
    flash = await cache_set.volumes.create("flash", 2048)
    promises.volumes |= {plain: "plain", flash: "flash"}
    one, other = KeepingClient(cache_set, promises.kept), KeepingClient(cache_set, promises.kept)
    keys = await one.write(plain, 0, 20)
    for offset in range(0, 2000, 100):
        await one.scatter(plain, 40 + offset, 7)
    await cache_set.index.flush()
    await asyncio.gather(one.write(plain, 500, 9), other.write(flash, 3, 30))
    await asyncio.gather(
        one.clean(keys[:2]), other.drop(flash, 10, 5), cache_set.maintenance.collect_garbage()
    )
    await asyncio.gather(
        one.drop(plain, 700, 900), other.write(flash, 11, 2), cache_set.maintenance.write_priorities()
    )
    await asyncio.sleep(0.2)  # it tidies, moves and writes leaves out
    found = await cache_set.lookups.lookup(LookupRequest(plain, 0, 400, pin=one.holder))
    await one.write(plain, 20, 300)
    cache_set.lookups.unpin(one.holder, found.keys)
    promises.deleting.add(plain)
    promises.kept.forgotten.add(plain)
    await cache_set.volumes.delete(plain, force=True)
    await cache_set.maintenance.collect_garbage()
    for client in (one, other):
        cache_set.allocations.drop_holder(client.holder, None)


async def grow_when_there_are_no_buckets(cache_set: CacheSet, client: KeepingClient, inode: int) -> None:
    """Changes that the tree may have to grow for wait while every bucket for nodes is taken."""
    await client.write(inode, 0, 8)
    taken = [
        (member.buckets, bucket)
        for member in cache_set.members
        for bucket in iter(partial(member.buckets.take_metadata, State.UUID), None)
    ]
    try:
        waiting = asyncio.gather(
            client.write(inode, 100, 8), client.write(inode, 200, 8, rest=8), client.drop(inode, 0, 8)
        )
        await asyncio.sleep(0.001)
    finally:
        for buckets, bucket in taken:
            buckets.free_metadata([bucket])
        cache_set.shared.buckets_moved()
    await waiting


@dataclass(frozen=True)
class Story:
    """A play, and the stage: the members' sizes, and whether the set was in use before."""

    play: Play
    bucket_counts: tuple[int, ...] = (BUCKET_COUNT,)
    in_use: bool = False
    discard: bool = False
    policy: Replacement = Replacement.LRU
    long: bool = False  # takes all buckets there are, a few at a time

    async def stage(self, folder: Path) -> list[bytes]:
        """The devices' bytes at the beginning."""
        devices = await fresh_members(self.bucket_counts, BUCKET_BYTES, self.policy, self.discard)
        if self.in_use:
            async with running(devices, set_options(folder, verify=False)) as cache_set:
                await cache_set.volumes.create("zeroth")
            return [device.image() for device in devices]
        images = [device.image() for device in devices]
        for device in devices:
            await device.close()
        return images


STORIES = {
    "first run, ordinary day": Story(ordinary_day),
    "later run, ordinary day": Story(ordinary_day, in_use=True, discard=True),
    "crowded day": Story(crowded_day, in_use=True, discard=True, policy=Replacement.RANDOM, long=True),
    "busy administrator": Story(busy_administrator, in_use=True),
    "keeping keys": Story(keeping, in_use=True, discard=True, long=True),
    "keeping a little": Story(keeping_a_little, in_use=True, discard=True, long=True),
    "keeping copies": Story(keeping, (700, 600), policy=Replacement.FIFO, long=True),
    "two members": Story(copies, (513, 600), discard=True, long=True),
}


def devices_of(images: Sequence[bytes]) -> list[MemoryDevice]:
    """Devices that hold copies of these bytes."""
    return [MemoryDevice.holding(image) for image in images]


async def live(
    devices: Sequence[BlockDevice],
    folder: Path,
    play: Play,
    promises: Promises,
    told_to_stop: asyncio.Event,
    client_is: Callable[["asyncio.Task[None]"], None] = lambda _: None,
) -> None:
    """One life with a client on the set; it ends when the client does, or when told to stop."""
    loop = asyncio.get_running_loop()
    client: asyncio.Task[None] | None = None
    stopping = asyncio.ensure_future(told_to_stop.wait())
    try:
        options = set_options(folder, restart_grace_s=0.05, verify=False, index_bytes=INDEX_BYTES)
        async with running(devices, options) as cache_set:
            client = asyncio.ensure_future(play(cache_set, promises))
            client_is(client)
            await asyncio.wait([client, stopping], return_when=asyncio.FIRST_COMPLETED)
            if client.done():
                assert cache_set.verify() == []
                if not client.cancelled() and client.exception() is not None:
                    raise client.exception()  # type: ignore[misc]
                promises.matters = False
                await nothing_leaks(cache_set)
                promises.matters = True
            begun = loop.time()
        assert loop.time() - begun <= 5, "an orderly stop takes at most five seconds"
    finally:
        stopping.cancel()
        if client is not None and not client.done():
            # Whoever was on the set when it ended is told so, and does not hang.
            done, _ = await asyncio.wait([client], timeout=1)
            assert done, "a client hangs after the set has ended"
        if client is not None and not client.cancelled():
            assert isinstance(client.exception(), RequestError | None), client.exception()


async def nothing_leaks(cache_set: CacheSet) -> None:
    """When all clients are gone and their quarantine has passed, only open buckets are pinned."""
    for holder in list(cache_set.allocations.holders):
        cache_set.allocations.drop_holder(holder, None)
    await asyncio.sleep(0.2)
    now = cache_set.statistics()
    assert now.reserved_sectors == now.quarantined_holders == sum(now.waiters.values()) == 0
    for member in cache_set.members:
        assert int(member.buckets.table.pins_array.sum()) == member.buckets.table.counts[State.OPEN]
        assert not member.buckets.table.counts[State.HELD] + member.buckets.table.counts[State.QUARANTINE]
    holder = cache_set.allocations.new_holder("afterwards")
    assert await take_buckets(cache_set, holder, 10)
    cache_set.allocations.drop_holder(holder, None)
    assert cache_set.verify() == []


async def check_soundness(devices: Sequence[BlockDevice], worst: Severity) -> None:
    """Nothing graver is wrong with what lies on the devices."""
    findings = (await check_set(devices)).findings
    for device in devices:
        await device.close()
    assert findings.worst <= worst, [str(finding) for finding in findings.listed]


async def check_promises(devices: Sequence[BlockDevice], folder: Path, promises: Promises) -> None:
    """A later life finds all that was acknowledged."""
    async with running(devices, set_options(folder, restart_grace_s=0, verify=False)) as cache_set:
        assert cache_set.verify() == []
        found = {volume.inode: volume.label for volume in cache_set.volumes.all()}
        for inode, label in promises.volumes.items():
            assert inode in promises.deleting or found.get(inode) == label, (found, promises)
        await check_kept(cache_set, promises.kept)
        policies = {member.superblock.replacement for member in cache_set.members}
        assert not promises.policies or policies <= promises.policies
        holder = cache_set.allocations.new_holder("later")
        assert await take_buckets(cache_set, holder, 10)


class Life:
    """One life on copies of the images, with a hand on everything that can go wrong."""

    def __init__(self, images: list[bytes], folder: Path) -> None:
        self.devices = [FailingDevice(device) for device in devices_of(images)]
        self.promises = Promises()
        self.main: asyncio.Task[None] | None = None
        self.client: asyncio.Task[None] | None = None
        self.told_to_stop = asyncio.Event()
        self._folder = folder

    def lose_the_client(self) -> None:
        if self.client is not None:
            self.client.cancel()

    def stop(self) -> None:
        self.told_to_stop.set()

    def interrupt(self) -> None:
        assert self.main is not None
        self.main.cancel()

    def break_a_device(self) -> None:
        device = self.devices[-1]
        for verb in ("read", "write", "flush", "discard"):
            device.faults.append(Fault(verb, device.calls[verb] + 1))

    async def run(self, story: Story, points: AwaitPoints) -> None:
        """The story on these devices; whatever error ends the set is raised."""
        points.matters = lambda: self.promises.matters
        points.watch(asyncio.get_running_loop())

        def client_is(client: "asyncio.Task[None]") -> None:
            self.client = client

        self.main = asyncio.ensure_future(
            live(self.devices, self._folder, story.play, self.promises, self.told_to_stop, client_is)
        )
        try:
            await asyncio.wait([self.main], timeout=300)
            assert self.main.done(), "the set hangs"
            if not self.main.cancelled():
                self.main.result()
        finally:
            asyncio.get_running_loop().set_task_factory(None)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"left behind: {left}"
        for device in self.devices:
            assert not device.inner.disk.is_open, "a device is not closed"  # type: ignore[attr-defined]

    async def check(self, folder: Path) -> None:
        """What is left is sound, and a later life, on devices without faults, finds all that was promised."""
        await check_soundness(self._reopened(), Severity.TORN)
        await check_promises(self._reopened(), folder, self.promises)
        await check_soundness(self._reopened(), Severity.NOTE)

    def _reopened(self) -> list[MemoryDevice]:
        return [device.inner.reopen() for device in self.devices]  # type: ignore[attr-defined]
