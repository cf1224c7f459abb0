"""From devices to a living set and back: opening, the tasks, and a stop that leaves nothing half done.

    async with running(devices, options) as cache_set: ...

A task that breaks ends the block with its error. At the end of the block nothing new is begun, what is
under way ends, prios are written a last time, and the devices are closed.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from bcached.device.block_device import BlockDevice
from bcached.device.lease_file import boot_id, create_lease, old_leases
from bcached.device.mapped_file import MappedFile
from bcached.errors import BcachedError, DeviceFailed, SetRefused, ShuttingDown
from bcached.runtime.allocator import Allocator
from bcached.runtime.cache_set import CacheSet, MappedGens
from bcached.runtime.fence import wait_for_old_writers
from bcached.runtime.garbage_collector import GarbageCollector
from bcached.runtime.options import SetOptions
from bcached.runtime.prio_writer import PrioWriter
from bcached.runtime.services import Services
from bcached.runtime.tasks import Tasks
from bcached.runtime.volumes import Volumes
from bcached.state.cache import Cache
from bcached.state.geometry import Geometry
from bcached.state.reservations import Holder
from bcached.state.sector_allocator import SectorAllocator
from bcached.store.recovery import OpenedSet, first_run, recover
from bcached.store.set_reader import SetFound, read_set
from bcached.wire.gen_map import GenMap, file_bytes

STOP_SECONDS_MAX = 5.0


class ViolationError(BcachedError):
    """An invariant does not hold: the set stops before it does harm."""


def _say_nothing(_: str) -> None:
    """Progress that nobody wants to hear of."""


@asynccontextmanager
async def running(
    devices: Sequence[BlockDevice],
    options: SetOptions,
    progress: Callable[[str], None] = _say_nothing,
) -> AsyncIterator[CacheSet]:
    """The set on these devices, open and alive. The devices are closed at the end, whatever happens."""
    async with AsyncExitStack() as stack:
        for device in devices:
            stack.push_async_callback(device.close)
        life = Life(options)
        stack.callback(life.end)
        progress("reading the set")
        cache_set = await life.begin(await read_set(devices), progress)
        async with asyncio.TaskGroup() as group:
            life.group = group
            herald = group.create_task(cache_set.services.conditions.herald(), name="herald")
            tasks = [group.create_task(task.run(), name=name) for name, task in cache_set.tasks.named()]
            progress("serving")
            try:
                yield cache_set
            except BaseException:
                cache_set.refuse(DeviceFailed("the daemon is going down"))
                raise
            await _stop(cache_set, tasks)
            herald.cancel()


async def _stop(cache_set: CacheSet, tasks: "list[asyncio.Task[None]]") -> None:
    """The orderly end: nothing new, what is under way ends, prios are written a last time, the tasks end."""
    cache_set.refuse(ShuttingDown())
    try:
        async with asyncio.timeout(STOP_SECONDS_MAX):
            await cache_set.make_gens_durable()
            cache_set.services.stop()
            await asyncio.wait(tasks)
    except TimeoutError:  # as good as a power cut, which any moment may be: nothing is lost by it
        for task in tasks:
            task.cancel()


class Life:
    """One life of the daemon with a set: its lease, its mapped gens, and what it made of the set."""

    def __init__(self, options: SetOptions) -> None:
        self.options = options
        self.number = secrets.randbits(63) | 1
        self.group: asyncio.TaskGroup | None = None
        self._set: CacheSet | None = None
        self._files: list[MappedFile] = []
        self._maps: list[GenMap] = []

    async def begin(self, found: SetFound, progress: Callable[[str], None]) -> CacheSet:
        """Open the set once no writer of a former life is left."""
        fresh = found.contents is None
        if not fresh and not self.options.synchronous:
            raise SetRefused(
                f"{found.members[0].block_device.path}: the set is in use as a synchronous one; "
                "make it anew to use it without"
            )
        name = str(found.members[0].superblock.set_uuid)
        directory = self.options.state_directory
        old = old_leases(directory, name)
        if not fresh:
            await wait_for_old_writers(old, self.options.restart_grace_s, progress)
        lease_path = create_lease(directory, name, self.number, boot_id(), self.options.gid)
        for lease in old:
            lease.remove()
        progress("first run" if fresh else "recovering")
        opened = await self._open(found, name)
        self._set = self._put_together(opened, lease_path)
        return self._set

    async def _open(self, found: SetFound, name: str) -> OpenedSet:
        clock = asyncio.get_running_loop().time

        def make_cache(geometry: Geometry, device: int) -> Cache:
            return Cache(
                geometry,
                device,
                gens=self._map_gens(name, geometry, device),
                clock=clock,
                seed=self.options.seed,
                synchronous=self.options.synchronous,
            )

        if found.contents is None:
            return await first_run(found, make_cache, clock, synchronous=self.options.synchronous)
        return await recover(found, make_cache, clock)

    def _map_gens(self, name: str, geometry: Geometry, device: int) -> memoryview:
        path = os.path.join(self.options.gen_directory, f"{name}.{device}.gens")
        file = MappedFile(path, file_bytes(geometry.bucket_count), self.options.gid)
        self._files.append(file)
        self._maps.append(GenMap.lay_out(file.memory, geometry.bucket_count, self.number))
        return self._maps[-1].gens

    def _put_together(self, opened: OpenedSet, lease_path: str) -> CacheSet:
        members, journal = opened.members, opened.journal
        volume_sectors = sum(
            member.cache.geometry.bucket_count * member.cache.geometry.bucket_sectors for member in members
        )
        clock = asyncio.get_running_loop().time
        services = Services(self.options, volume_sectors, clock, self._after_step)
        sectors = SectorAllocator([member.cache for member in members])
        holders: set[Holder] = set()
        tasks = Tasks(
            [Allocator(member, services) for member in members],
            PrioWriter(members, journal, services),
            GarbageCollector(members, journal, holders, services, self._collection_ended),
        )
        volumes = Volumes(members, journal, opened.uuid_table, sectors, services, self._spawn)
        maps = [MappedGens(index, file.path, file.size_bytes) for index, file in enumerate(self._files)]
        return CacheSet(members, journal, volumes, sectors, holders, services, tasks, maps, lease_path)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        assert self.group is not None, "the set is not alive yet"
        return self.group.create_task(work)

    def _after_step(self) -> None:
        """With verify = true: stop the set, before it does harm, if anything is not as it must be."""
        if self.options.verify and self._set is not None:
            found = self._set.verify()
            if found:
                raise ViolationError(f"{len(found)} invariants do not hold: {found[0]}")

    def _collection_ended(self) -> None:
        for gen_map in self._maps:
            gen_map.bump_gc_epoch()

    def end(self) -> None:
        """Say that the mapped gens are of no use any more. The lease stays: writers may still hold it."""
        if self._set is not None:
            self._set.quarantine.close()
        for gen_map in self._maps:
            gen_map.retire()
        for file in self._files:
            file.remove()
