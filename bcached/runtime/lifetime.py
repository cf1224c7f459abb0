# SPDX-License-Identifier: GPL-2.0-only
"""From devices to a running set and back: opening, the tasks, and a stop that leaves nothing half done.

    async with running(devices, options) as cache_set: ...

A task that fails ends the block with its error. At the end of the block nothing new is begun, operations
under way end, prios are written a last time, and the devices are closed.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from random import SystemRandom
from typing import Any, TypeAlias, TypeVar

from bcached.device.block_device import BlockDevice
from bcached.device.claims.lease_file import boot_id, create_lease, old_leases
from bcached.device.claims.set_lock import SetLock
from bcached.device.files.mapped_file import MappedFile
from bcached.errors import BcachedError, DeviceFailed, SetRefused, ShuttingDown, reason
from bcached.runtime.cache_set import CacheSet, MappedChanges, MappedFiles, MappedGens
from bcached.runtime.coordination.options import SetOptions
from bcached.runtime.coordination.shared import Shared, create_shared
from bcached.runtime.coordination.slices import precise_clock
from bcached.runtime.fence import wait_for_old_writers
from bcached.runtime.index.index import Index
from bcached.runtime.index.index_writer import IndexWriter
from bcached.runtime.index.node_buckets import NodeBuckets
from bcached.runtime.sectors.allocations import Allocations
from bcached.runtime.tasks.allocator import Allocator
from bcached.runtime.tasks.evacuator import Evacuator
from bcached.runtime.tasks.garbage_collector import GarbageCollector
from bcached.runtime.tasks.journal_writer import JOURNAL_WRITER, JournalWriter
from bcached.runtime.tasks.leaf_writer import LeafWriter
from bcached.runtime.tasks.mover import Mover
from bcached.runtime.tasks.moving_collector import MovingCollector
from bcached.runtime.tasks.prio_writer import PrioWriter
from bcached.runtime.tasks.task_set import Tasks
from bcached.runtime.volumes import Volumes
from bcached.state.buckets.geometry import Geometry
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.store.btree.node_cache import NodeCache
from bcached.store.btree.write_back import WriteBack
from bcached.store.opening.recovery import OpenedSet, first_run, recover
from bcached.store.reading.set_reader import SetFound, read_set
from bcached.tracepoints import Tracepoints
from bcached.wire import change_map, gen_map
from bcached.wire.change_map import ChangeMap
from bcached.wire.gen_map import GenMap

T = TypeVar("T")
# A function, called when its task begins: a task cancelled before leaves no coroutine unawaited.
TaskBody: TypeAlias = Callable[[], Coroutine[Any, Any, T]]

# Of the 5 seconds a stop may take: connections are closed before, and I/O in flight is awaited after.
STOP_SECONDS_MAX = 2.0


class ViolationError(BcachedError):
    """An invariant does not hold: the set stops before it does damage."""


def _discard_message(_: str) -> None:
    """Discard progress and warnings."""


@asynccontextmanager
async def running(
    devices: Sequence[BlockDevice],
    options: SetOptions,
    progress: Callable[[str], None] = _discard_message,
    warn: Callable[[str], None] = _discard_message,
) -> AsyncIterator[CacheSet]:
    """Yields the running set on these devices. The devices are closed at the end, in any case.

    warn is called with damage that the opening found, and with data that is given up later.
    The first failure of a task ends the block, which raises it; from then on the set refuses every change.
    """
    async with AsyncExitStack() as stack:
        for device in devices:
            stack.push_async_callback(device.close)
        run = SetRun(options, warn)
        stack.callback(run.end)
        progress("reading the set")
        found = await read_set(devices)
        cache_set = await run.begin(found, progress)
        for sentence in (*found.warnings, *cache_set.explain_index()):
            warn(sentence)
        # Waiters for a fact that are left at the end are woken.
        stack.push_async_callback(cache_set.shared.conditions.notify_now)
        try:
            async with asyncio.TaskGroup() as group:
                run.run_tasks(group)
                progress("serving")
                try:
                    yield cache_set
                except BaseException:
                    cache_set.shared.stop.refuse(DeviceFailed("the daemon is stopping"))
                    raise
                await run.stop(progress)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # the other errors follow from the first


async def _raise_error_of(broken: "asyncio.Future[None]") -> None:
    await broken


class SetRun:
    """One run of the daemon with a set: its lease, its mapped gens, and the parts of the set."""

    def __init__(self, options: SetOptions, warn: Callable[[str], None]) -> None:
        self.options = options
        self._warn = warn
        self.trace = Tracepoints()
        self.number = secrets.randbits(63) | 1  # names the run in leases and in the mapped gens
        self._lock: SetLock | None = None
        self._set: CacheSet | None = None
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[Any]] = set()  # tasks that an orderly stop waits for
        self._background: list[asyncio.Task[None]] = []  # tasks that an orderly stop cancels
        self._files: list[MappedFile] = []  # of the mapped gens, by member
        self._maps: list[GenMap] = []
        self._change_files: list[MappedFile] = []  # one, of the change counters
        self._change_map: ChangeMap | None = None

    async def begin(self, found: SetFound, progress: Callable[[str], None]) -> CacheSet:
        """Open the set once no writer of a previous run is left; returns it."""
        fresh = found.contents is None
        if not fresh and not self.options.synchronous:
            raise SetRefused(
                f"{found.members[0].block_device.path}: the set has run with synchronous = true, found "
                "false: change the configuration, or make the set again, which loses its contents"
            )
        name = str(found.members[0].superblock.set_uuid)
        directory = self.options.state_directory
        self._lock = SetLock(name, (directory, self.options.gen_directory))
        old = old_leases(directory, name)
        if not fresh:
            await wait_for_old_writers(old, self.options.restart_grace_s, progress)
        progress("first run" if fresh else "recovering")
        opened = await self._open(found, name, progress)
        opened.index.io.report.checksum_errors.update(found.checksum_errors)
        lease_path = create_lease(directory, name, self.number, boot_id(), self.options.gid)
        for lease in old:
            lease.remove()
        self._set = self._assemble(opened, lease_path)
        if not fresh:
            index = opened.index
            progress(f"recovered: {index.io.nodes_read} nodes read, {index.keys_replayed} keys replayed")
        return self._set

    async def _open(self, found: SetFound, name: str, progress: Callable[[str], None]) -> OpenedSet:
        clock = precise_clock()

        def make_buckets(geometry: Geometry, device: int) -> MemberBuckets:
            return MemberBuckets(
                geometry,
                device,
                gens=self._map_gens(name, geometry, device),
                clock=clock,
                seed=self.options.seed,
                synchronous=self.options.synchronous,
            )

        if found.contents is None:
            return await first_run(found, make_buckets, clock, synchronous=self.options.synchronous)
        return await recover(
            found, make_buckets, clock, index_bytes=self.options.index_bytes, progress=progress
        )

    def _map_gens(self, name: str, geometry: Geometry, device: int) -> memoryview:
        path = os.path.join(self.options.gen_directory, f"{name}.{device}.gens")
        file = MappedFile(path, gen_map.file_bytes(geometry.bucket_count), self.options.gid)
        self._files.append(file)
        self._maps.append(GenMap.lay_out(file.memory, geometry.bucket_count, self.number))
        return self._maps[-1].gens

    def _map_changes(self, name: str) -> ChangeMap:
        path = os.path.join(self.options.gen_directory, f"{name}.changes")
        count = self.options.change_counters
        file = MappedFile(path, change_map.file_bytes(count), self.options.gid)
        self._change_files.append(file)
        self._change_map = ChangeMap.lay_out(file.memory, count, self.number)
        return self._change_map

    def _assemble(self, opened: OpenedSet, lease_path: str) -> CacheSet:
        members, journal = opened.members, opened.journal
        sectors = SectorAllocator([member.buckets for member in members], precise_clock())
        shared = create_shared(
            self.options, sectors, precise_clock(), self._after_step, self._warn, self.trace
        )
        journal.trace = opened.index.io.trace = self.trace
        for member in members:
            member.buckets.trace = self.trace
        allocations = Allocations(members, sectors, shared)
        counters = self._map_changes(str(members[0].superblock.set_uuid))
        changes = self._key_changes(opened, sectors, counters, shared)
        index = Index(changes, opened.index.health, sectors, shared)
        mover = Mover(members, sectors, index, shared)
        moving = MovingCollector(sectors, index.nodes, mover, shared)
        evacuator = Evacuator(members, sectors, index.nodes, mover, shared)
        leaf_writer = LeafWriter(index.write_back, journal, changes.live, shared)
        tasks = Tasks(
            [Allocator(member, sectors, shared) for member in members],
            PrioWriter(members, journal, leaf_writer, shared),
            JournalWriter(journal, shared),
            leaf_writer,
            GarbageCollector(
                members,
                journal,
                index,
                moving,
                evacuator,
                mover,
                allocations.holders,
                shared,
                self._before_gens_count,
            ),
        )
        volumes = Volumes(
            members, journal, opened.uuid_table, sectors, index, allocations, shared, self._spawn
        )
        maps = [MappedGens(number, file.path, file.size_bytes) for number, file in enumerate(self._files)]
        (file,) = self._change_files
        files = MappedFiles(maps, MappedChanges(file.path, file.size_bytes, counters.shift))
        return CacheSet(
            members, journal, volumes, sectors, index, allocations, shared, tasks, files, lease_path
        )

    def _key_changes(
        self, opened: OpenedSet, sectors: SectorAllocator, counters: ChangeMap, shared: Shared
    ) -> IndexWriter:
        tree, journal = opened.index.tree, opened.journal
        buckets = NodeBuckets(sectors, shared, tree.node_keys())
        nodes = NodeCache(tree, opened.index.io, buckets, self.options.index_bytes)
        # Never from options.seed: a bset of a previous run with the same seq would be taken for this run's.
        write_back = WriteBack(nodes, buckets, journal, SystemRandom())
        return IndexWriter(write_back, journal, sectors, opened.index.live, buckets, counters, shared)

    def run_tasks(self, group: asyncio.TaskGroup) -> None:
        """Start the set's tasks in the group."""
        assert self._set is not None
        self._group = group
        for name, task in self._set.tasks.named():
            self._spawn(task.run).set_name(name)
        shared = self._set.shared
        self._background = [
            group.create_task(shared.conditions.notify_announced(), name="notifier"),
            group.create_task(
                self._or_refuse(partial(_raise_error_of, shared.stop.broken)), name="errors in callbacks"
            ),
        ]

    def _spawn(self, work: TaskBody[T]) -> "asyncio.Task[T]":
        """Start a task that an orderly stop waits for, and whose failure ends the set."""
        assert self._group is not None, "the set is not running yet"
        task = self._group.create_task(self._or_refuse(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _or_refuse(self, work: TaskBody[T]) -> T:
        assert self._set is not None
        try:
            return await work()
        except Exception as error:
            self._set.shared.stop.refuse(DeviceFailed(reason(error)))
            raise

    async def stop(self, progress: Callable[[str], None]) -> None:
        """Stop in order: refuse new work, finish work under way, write prios a last time."""
        assert self._set is not None
        shared = self._set.shared
        shared.stop.refuse(ShuttingDown())
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await self._set.index.write_out()
                await self._set.maintenance.write_last_priorities()
                shared.stop.request()
                writer = self._set.tasks.journal_writer  # last, as the others need entries to finish
                await asyncio.wait([task for task in self._tasks if task.get_name() != JOURNAL_WRITER])
                writer.end()
                await asyncio.wait(self._tasks)
        except TimeoutError:  # equivalent to a power cut, which loses nothing at any moment
            progress(f"not done after {STOP_SECONDS_MAX:g} s: the rest is left to recovery")
            for task in self._tasks:
                task.cancel()
        for task in self._background:
            task.cancel()

    def _after_step(self) -> None:
        """With verify = true: raises ViolationError, which ends the set, if an invariant does not hold."""
        if self.options.verify and self._set is not None:
            found = self._set.verify()
            if found:
                raise ViolationError(f"{len(found)} invariants do not hold: {found[0]}")

    def _before_gens_count(self) -> None:
        """Bump the mapped gens' gc_epoch: a collection will let gens rise beyond what readers rely on."""
        for one in self._maps:
            one.bump_gc_epoch()
        assert self._change_map is not None
        self._change_map.note_collection()

    def end(self) -> None:
        """Retire the mapped gens and unlock the set. The lease stays: writers may still hold it."""
        if self._set is not None:
            self._set.allocations.close()
        for one in self._maps:
            one.retire()
        if self._change_map is not None:
            self._change_map.retire()
        for file in [*self._files, *self._change_files]:
            file.remove()
        if self._lock is not None:
            self._lock.release()
