"""A running cache set: the interface for requests, and the parts that serve them.

The set owns the parts and delegates; each rule is in a part. A request's ready path is one plain call
down to state/sectors/sector_allocator.py: no lock, no task, no await.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from bcached.errors import LimitExceeded, RequestError
from bcached.format.superblock import Replacement
from bcached.keys import POINTERS_MAX, Key
from bcached.runtime.conditions import Fact
from bcached.runtime.index import Index
from bcached.runtime.lookups import Lookups
from bcached.runtime.quarantine import Quarantine
from bcached.runtime.shared import Shared
from bcached.runtime.snapshot import orphans_of, take_snapshot
from bcached.runtime.tasks.task_set import Tasks
from bcached.runtime.volumes import Volumes
from bcached.state.accounting.invariants import content, violations
from bcached.state.accounting.leaf_pointers import live_counts
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import Geometry
from bcached.state.buckets.reserves import Reserve
from bcached.state.explanation import explain, explain_index
from bcached.state.sectors.open_buckets import Extent
from bcached.state.sectors.pending_allocations import BucketAllocation, ExtentAllocation, PendingAllocation
from bcached.state.sectors.reservations import ExtentRequest, Holder
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.state.statistics import OrphanStatistics, SetStatistics
from bcached.store.journal.journal import Journal
from bcached.store.member import Member
from bcached.store.uuid_table import Volume

T = TypeVar("T")

# A step is a few writes, or a batch of discards; a device that takes longer hangs.
STEP_SECONDS_MAX = 20.0
BUCKETS_A_SLICE = 32  # buckets with a hundred reservations each: a few milliseconds at most


@dataclass(frozen=True, slots=True)
class MappedGens:
    """The file in which clients can map a member's gens."""

    device: int
    path: str
    bytes: int


class CacheSet:
    """An open set; runtime/lifetime.py creates it and runs its tasks."""

    def __init__(
        self,
        members: list[Member],
        journal: Journal,
        volumes: Volumes,
        sectors: SectorAllocator,
        index: Index,
        holders: set[Holder],
        shared: Shared,
        tasks: Tasks,
        gen_maps: list[MappedGens],
        lease_path: str,
    ) -> None:
        self.members = members
        self.journal = journal
        self.shared = shared
        self.sectors = sectors
        self.index = index
        self.lookups = Lookups(index.btree, sectors, shared)
        self.tasks = tasks
        self.lease_path = lease_path
        self.holders = holders
        self.quarantine = Quarantine(sectors, shared.buckets_moved, shared.stop.guarded)
        self._volumes = volumes
        self._gen_maps = gen_maps
        self._queue = shared.queue
        self._seen_taken = 0  # the allocator's buckets_taken when traffic was counted last
        self._nodes_seen = 0  # the count of node writes at the last health check

    # Identity and layout

    @property
    def set_uuid(self) -> UUID:
        """The set's uuid."""
        return self.members[0].superblock.set_uuid

    @property
    def geometry(self) -> Geometry:
        """The first member's layout; bucket and block sizes are the same for all members."""
        return self.members[0].cache.geometry

    @property
    def commit_words(self) -> int:
        """The most words of keys that one journal entry holds."""
        return self.journal.commit_words

    def gen_maps(self) -> list[MappedGens]:
        """Returns the files to map for the gens, one per member."""
        return self._gen_maps

    # Sectors

    def new_holder(self, name: str) -> Holder:
        """Returns a new holder of reservations; `name` is for messages."""
        options = self.shared.options
        holder = Holder(
            name,
            options.reservations_per_connection,
            self.geometry,
            reads_limit=options.pins_per_connection,
        )
        self.holders.add(holder)
        return holder

    def carve(
        self,
        holder: Holder,
        inode: int,
        offset: int,
        sectors: int,
        write_point: int,
        replicas: int = 1,
        moving: bool = False,
    ) -> Key | None:
        """The ready path: returns one key, perhaps a shorter one; None if the request would have to wait."""
        shared, allocator, queue = self.shared, self.sectors, self._queue
        if shared.stop.refusal is not None:
            shared.stop.check_changeable()
        may_refill = not queue.total or not queue.count(Reserve.MOVINGGC if moving else Reserve.NONE)
        key = allocator.carve(holder, inode, offset, sectors, write_point, replicas, moving, may_refill)
        if allocator.buckets_taken != self._seen_taken:
            self._note_taken()
        return key

    def carve_run(self, holder: Holder, extents: Sequence[Extent], at: int, write_point: int) -> list[Key]:
        """The ready path of a batch: returns keys for extents[at] and those after it in the same bucket."""
        shared, allocator, queue = self.shared, self.sectors, self._queue
        if shared.stop.refusal is not None:
            shared.stop.check_changeable()
        may_refill = not queue.total or not queue.count(Reserve.NONE)
        keys = allocator.carve_run(holder, extents, at, write_point, may_refill)
        if allocator.buckets_taken != self._seen_taken:
            self._note_taken()
        return keys

    def _note_taken(self) -> None:
        """Count traffic per bucket taken, not per request: prios age in no smaller steps."""
        self._seen_taken = self.sectors.buckets_taken
        self.shared.traffic.count_allocated()
        self.shared.buckets_moved()

    def allocate(
        self, holder: Holder, requests: Sequence[ExtentRequest], timeout_s: float
    ) -> "asyncio.Future[list[list[Key]]]":
        """Returns the keys of all requests, or raises NoFreeBuckets after timeout_s, at once if that is 0."""
        self.shared.stop.check_changeable()
        self._check_possible(requests)
        return self._submit(ExtentAllocation(self.sectors, holder, requests), timeout_s)

    def allocate_bucket(self, holder: Holder, replicas: int, timeout_s: float) -> "asyncio.Future[Key]":
        """Returns a whole bucket (one on each of `replicas` members), as one key of no volume."""
        self.shared.stop.check_changeable()
        self._check_replicas(replicas)
        return self._submit(BucketAllocation(self.sectors, holder, replicas), timeout_s)

    def _submit(self, work: PendingAllocation[T], timeout_s: float) -> "asyncio.Future[T]":
        try:
            return self._queue.submit(work, timeout_s)
        finally:
            self.shared.traffic.count_allocated()
            self.shared.buckets_moved()

    def release(self, holder: Holder, keys: Sequence[Key]) -> None:
        """End reservations, all of them or none; the client has no write to them in flight."""
        self.shared.stop.check_changeable()
        self.sectors.release(holder, keys)
        self.shared.buckets_moved()

    def free_bucket(self, holder: Holder, key: Key) -> None:
        """Free whole buckets of which no part was freed before."""
        self.shared.stop.check_changeable()
        self.sectors.free_buckets(holder, key)
        self.shared.buckets_moved()

    def drop_holder(self, holder: Holder, pid: int | None) -> None:
        """Handle a closed connection: its reservations end once process `pid` can write no more."""
        self._queue.end_holder(holder)  # first, while what it gathered is still separate from what it holds
        self.holders.discard(holder)
        holder.connection_closed = True
        self.quarantine.admit(holder, pid, self.shared.options.restart_grace_s)

    def _check_replicas(self, replicas: int) -> None:
        if replicas > min(len(self.members), POINTERS_MAX):
            raise LimitExceeded("replicas", replicas)

    def _check_possible(self, requests: Sequence[ExtentRequest]) -> None:
        """Raises LimitExceeded for requests that no wait could satisfy."""
        for request in requests:
            self._check_replicas(request.replicas)
        wanted = sum(request.sectors * request.replicas for request in requests if request.whole)
        if wanted > self.data_sectors:
            raise LimitExceeded("sectors", wanted)

    @property
    def data_sectors(self) -> int:
        """The most sectors the set can allocate, with all buckets but metadata and reserves available."""
        buckets = 0
        for member in self.members:
            geometry = member.cache.geometry
            capacities = geometry.reserve_capacities
            kept = 2 * geometry.prio_bucket_count + capacities["btree"] + capacities["prio"] + 2
            buckets += geometry.bucket_count - geometry.journal_buckets.stop - kept
        return buckets * self.geometry.bucket_sectors

    # Administration

    async def collect_garbage(self) -> None:
        """Run one whole collection that begins after this call: marking, nodes, moving."""
        shared = self.shared
        async with shared.conditions.bucket_lock:
            goal = shared.collections.rounds + (2 if shared.collections.in_round else 1)
            while shared.collections.rounds < goal:
                shared.stop.check_changeable()  # a waiter that comes after a refusal is not notified of it
                if shared.collections.rounds + shared.collections.in_round < goal:
                    shared.collections.request("asked")
                await shared.conditions[Fact.MARKS_VALID].wait()

    async def write_priorities(self) -> None:
        """Make the gens and prios of this moment durable, on every member."""
        self.shared.stop.check_changeable()
        await self._make_gens_durable(self.shared.stop.check_changeable)

    async def write_last_priorities(self) -> None:
        """Make gens and prios durable while the set is stopping and accepts no other change."""
        await self._make_gens_durable(lambda: None)

    async def _make_gens_durable(self, check: Callable[[], None]) -> None:
        shared = self.shared
        if not shared.options.synchronous:
            return
        goals = {}
        for member in self.members:
            goals[member] = member.cache.prio_writes + (2 if member in shared.prios.writing else 1)
        async with shared.conditions.bucket_lock:
            while behind := [member for member, goal in goals.items() if member.cache.prio_writes < goal]:
                check()
                for member in behind:
                    # A write under way counts; another request would cause a second one after it.
                    if member.cache.prio_writes + (member in shared.prios.writing) < goals[member]:
                        shared.prios.request(member)
                await shared.conditions[Fact.GENS_DURABLE].wait()

    async def set_replacement(self, policy: Replacement) -> None:
        """Switch the policy, durably, on every member."""
        self.shared.stop.check_changeable()
        await self._volumes.change_superblocks(replacement=policy)
        self.shared.buckets_moved()

    async def set_discard(self, discard: bool) -> None:
        """Switch discarding of reused buckets on or off, durably, on every member."""
        self.shared.stop.check_changeable()
        await self._volumes.change_superblocks(discard=discard)

    # Volumes

    def volumes(self) -> list[Volume]:
        """Returns the volumes, by inode."""
        return self._volumes.volumes()

    def orphans(self) -> tuple[OrphanStatistics, ...]:
        """Returns the inodes without a volume that still have keys, as counted last."""
        return orphans_of(self.index.health)

    async def create_volume(self, label: str, sectors: int = 0, uuid: UUID | None = None) -> int:
        """Returns the inode of a new volume, once durable. sectors > 0 makes it flash-only."""
        self.shared.stop.check_changeable()
        return await self._volumes.create(label, sectors, uuid)

    async def delete_volume(self, inode: int, *, force: bool = False) -> None:
        """Remove a volume and its keys, durably, and end the reservations made for it.

        Raises VolumeInUse if it has dirty data, unless force is set.
        """
        self.shared.stop.check_changeable()
        await self._volumes.delete(inode, self._end_reservations, force=force)

    async def _end_reservations(self, inode: int) -> None:
        """Quarantine the reservations for a removed volume, some buckets at a time: there may be many."""
        self._queue.end_volume(inode)
        for holder in list(self.holders):
            bucket_ids = list(holder.pieces)
            for start in range(0, len(bucket_ids), BUCKETS_A_SLICE):
                if holder not in self.holders:
                    break  # its connection is closed, and all its reservations are in quarantine
                # The client may be writing to it, and its process still runs: the whole grace is waited.
                part = holder.split_off(inode, bucket_ids[start : start + BUCKETS_A_SLICE])
                self.quarantine.admit(part, None, self.shared.options.restart_grace_s)
                await asyncio.sleep(0)
        self.shared.buckets_moved()

    # State

    def statistics(self) -> SetStatistics:
        """Returns a frozen record of the set's counters and levels."""
        return take_snapshot(
            self.members,
            self.journal,
            self.sectors,
            self.index,
            self.lookups,
            self.shared,
            self.tasks,
            holders=len(self.holders),
            quarantined=len(self.quarantine),
            failed=None if self.shared.stop.refusal is None else str(self.shared.stop.refusal),
        )

    def is_healthy(self) -> bool:
        """Whether no task has been in the same step for longer than any step should take.

        For calls every few seconds: a task that writes nodes is healthy if some were written since the last.
        """
        io = self.index.btree.io
        before, self._nodes_seen = self._nodes_seen, io.nodes_written + io.blocks_appended
        return self.shared.steps.busy_s(is_writing_nodes=self._nodes_seen != before) < STEP_SECONDS_MAX

    def refuse(self, reason: RequestError) -> None:
        """Refuse all changes from now on, and fail the waiters; the first reason is kept."""
        self.shared.stop.refuse(reason)

    def verify(self) -> list[str]:
        """Returns the violated invariants of the set's buckets; blocks the loop meanwhile."""
        metadata: list[dict[State, set[int]]] = [
            {State.JOURNAL: set(member.cache.geometry.journal_buckets), State.UUID: set(), State.BTREE: set()}
            for member in self.members
        ]
        in_use = {
            State.UUID: self._volumes.table_buckets(),
            State.BTREE: self.index.changes.buckets.bucket_ids,
        }
        for state, taken in in_use.items():
            for device, bucket in taken:
                metadata[device][state].add(bucket)
        found = violations(self.sectors, [*self.holders, *self.quarantine.holders()], metadata)
        tree = self.index.btree.tree
        if tree.is_whole:  # otherwise the rest would have to be read
            caches = self.sectors.caches
            for cache, counts in zip(caches, live_counts(tree.leaves, caches), strict=True):
                found += content(cache, *counts)
        return found

    def explain_index(self) -> list[str]:
        """Returns sentences on what is damaged in the index."""
        return list(explain_index(self.statistics()))

    def explain(self) -> list[str]:
        """Returns sentences on why allocations wait or failed."""
        return explain(self.statistics())
