"""A cache set that is open and alive: what requests can ask of it, and the parts that answer.

The set owns the parts and passes on; each rule lives in a part. A request's ready path is one plain call
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
from bcached.runtime.services import Services
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
from bcached.state.sectors.pending_allocations import Extents, WholeBuckets, Work
from bcached.state.sectors.reservations import ExtentRequest, Holder
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.state.statistics import OrphanStatistics, SetStatistics
from bcached.store.journal.journal import Journal
from bcached.store.member import Member
from bcached.store.uuid_table import Volume

T = TypeVar("T")

# A step is a few writes, or a batch of discards; a device that takes longer hangs.
STEP_SECONDS_MAX = 20.0
PLACES_A_STEP = 32  # buckets with a hundred reservations each: a few milliseconds at most


@dataclass(frozen=True, slots=True)
class MappedGens:
    """Where a member's gens can be mapped."""

    device: int
    path: str
    bytes: int


class CacheSet:
    """An open set; runtime/lifetime.py makes one and runs its tasks."""

    def __init__(
        self,
        members: list[Member],
        journal: Journal,
        volumes: Volumes,
        sectors: SectorAllocator,
        index: Index,
        holders: set[Holder],
        services: Services,
        tasks: Tasks,
        gen_maps: list[MappedGens],
        lease_path: str,
    ) -> None:
        self.members = members
        self.journal = journal
        self.services = services
        self.sectors = sectors
        self.index = index
        self.lookups = Lookups(index.btree, sectors, services)
        self.tasks = tasks
        self.lease_path = lease_path
        self.holders = holders
        self.quarantine = Quarantine(sectors, services.buckets_moved, services.guarded)
        self._volumes = volumes
        self._gen_maps = gen_maps
        self._queue = services.queue
        self._seen_taken = 0
        self._nodes_seen = 0

    # Who it is

    @property
    def set_uuid(self) -> UUID:
        """The set's uuid."""
        return self.members[0].superblock.set_uuid

    @property
    def geometry(self) -> Geometry:
        """The first member's layout; bucket and block sizes are those of all."""
        return self.members[0].cache.geometry

    @property
    def commit_words(self) -> int:
        """The most words of keys that one journal entry holds."""
        return self.journal.commit_words

    def gen_maps(self) -> list[MappedGens]:
        """The files to map for the gens, one a member."""
        return self._gen_maps

    # Sectors

    def new_holder(self, name: str) -> Holder:
        """Somebody who may hold reservations; `name` is for people."""
        options = self.services.options
        holder = Holder(
            name,
            options.reservations_per_connection,
            self.geometry.bucket_sectors,
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
        """The ready path: one key, perhaps a shorter one; None if that would have to wait."""
        services, allocator, queue = self.services, self.sectors, self._queue
        if services.refusal is not None:
            services.check_changeable()
        may_refill = not queue.total or not queue.count(Reserve.MOVINGGC if moving else Reserve.NONE)
        key = allocator.carve(holder, inode, offset, sectors, write_point, replicas, moving, may_refill)
        if allocator.buckets_taken != self._seen_taken:
            self._note_taken()
        return key

    def carve_run(self, holder: Holder, extents: Sequence[Extent], at: int, write_point: int) -> list[Key]:
        """The ready path of many: keys of extents[at] and of those behind it that go on in its bucket."""
        services, allocator, queue = self.services, self.sectors, self._queue
        if services.refusal is not None:
            services.check_changeable()
        may_refill = not queue.total or not queue.count(Reserve.NONE)
        keys = allocator.carve_run(holder, extents, at, write_point, may_refill)
        if allocator.buckets_taken != self._seen_taken:
            self._note_taken()
        return keys

    def _note_taken(self) -> None:
        """Traffic too is counted with every bucket, not every request: prios age in no smaller steps."""
        self._seen_taken = self.sectors.buckets_taken
        self.services.count_traffic()
        self.services.buckets_moved()

    def allocate(
        self, holder: Holder, requests: Sequence[ExtentRequest], timeout_s: float
    ) -> "asyncio.Future[list[list[Key]]]":
        """The keys of all requests, or of none: NoFreeBuckets after timeout_s, at once if that is 0."""
        self.services.check_changeable()
        self._check_possible(requests)
        return self._submit(Extents(self.sectors, holder, requests), timeout_s)

    def allocate_bucket(self, holder: Holder, replicas: int, timeout_s: float) -> "asyncio.Future[Key]":
        """A whole bucket (one on each of `replicas` members), as one key of no volume."""
        self.services.check_changeable()
        self._check_replicas(replicas)
        return self._submit(WholeBuckets(self.sectors, holder, replicas), timeout_s)

    def _submit(self, work: Work[T], timeout_s: float) -> "asyncio.Future[T]":
        try:
            return self._queue.submit(work, timeout_s)
        finally:
            self.services.count_traffic()
            self.services.buckets_moved()

    def release(self, holder: Holder, keys: Sequence[Key]) -> None:
        """End reservations, all of them or none; no write to them is in flight any more."""
        self.services.check_changeable()
        self.sectors.release(holder, keys)
        self.services.buckets_moved()

    def free_bucket(self, holder: Holder, key: Key) -> None:
        """Give back whole buckets of which nothing was given back before."""
        self.services.check_changeable()
        self.sectors.free_buckets(holder, key)
        self.services.buckets_moved()

    def drop_holder(self, holder: Holder, pid: int | None) -> None:
        """A connection is gone: its reservations end once no write of process `pid` can come any more."""
        self._queue.end_holder(holder)  # first, while what it gathered can still be told from what it got
        self.holders.discard(holder)
        holder.is_gone = True
        self.quarantine.admit(holder, pid, self.services.options.restart_grace_s)

    def _check_replicas(self, replicas: int) -> None:
        if replicas > min(len(self.members), POINTERS_MAX):
            raise LimitExceeded("replicas", replicas)

    def _check_possible(self, requests: Sequence[ExtentRequest]) -> None:
        """Refuse at once what could never be had, however long one waited."""
        for request in requests:
            self._check_replicas(request.replicas)
        wanted = sum(request.sectors * request.replicas for request in requests if request.whole)
        if wanted > self.data_sectors:
            raise LimitExceeded("sectors", wanted)

    @property
    def data_sectors(self) -> int:
        """Sectors the set could ever give out, with every other bucket empty."""
        buckets = 0
        for member in self.members:
            geometry = member.cache.geometry
            capacities = geometry.reserve_capacities
            kept = 2 * geometry.prio_bucket_count + capacities["btree"] + capacities["prio"] + 2
            buckets += geometry.bucket_count - geometry.journal_buckets.stop - kept
        return buckets * self.geometry.bucket_sectors

    # What administrators ask for

    async def collect_garbage(self) -> None:
        """One whole collection, begun after this call: marks, nodes, and what was worth moving."""
        services = self.services
        async with services.conditions.bucket_lock:
            goal = services.gc_rounds + (2 if services.in_gc_round else 1)
            while services.gc_rounds < goal:
                services.check_changeable()  # nobody says so again to who comes to wait after a refusal
                if services.gc_rounds + services.in_gc_round < goal:
                    services.ask_for_collection("asked")
                await services.conditions[Fact.MARKS_VALID].wait()

    async def write_priorities(self) -> None:
        """Make the gens and prios of this moment durable, on every member."""
        self.services.check_changeable()
        await self._make_gens_durable(self.services.check_changeable)

    async def write_last_priorities(self) -> None:
        """The same when the set is stopping, and changes nothing else any more."""
        await self._make_gens_durable(lambda: None)

    async def _make_gens_durable(self, check: Callable[[], None]) -> None:
        services = self.services
        if not services.options.synchronous:
            return
        goals = {}
        for member in self.members:
            goals[member] = member.cache.prio_writes + (2 if member in services.prios_writing else 1)
        async with services.conditions.bucket_lock:
            while behind := [member for member, goal in goals.items() if member.cache.prio_writes < goal]:
                check()
                for member in behind:
                    # One that is under way counts; asking again would have another one follow it.
                    if member.cache.prio_writes + (member in services.prios_writing) < goals[member]:
                        services.ask_for_prios(member)
                await services.conditions[Fact.GENS_DURABLE].wait()

    async def set_replacement(self, policy: Replacement) -> None:
        """Switch the policy, durably, on every member."""
        self.services.check_changeable()
        await self._volumes.change_superblocks(replacement=policy)
        self.services.buckets_moved()

    async def set_discard(self, discard: bool) -> None:
        """Switch discarding of reused buckets on or off, durably, on every member."""
        self.services.check_changeable()
        await self._volumes.change_superblocks(discard=discard)

    # Volumes

    def volumes(self) -> list[Volume]:
        """The volumes there are, by inode."""
        return self._volumes.volumes()

    def orphans(self) -> tuple[OrphanStatistics, ...]:
        """The inodes without a volume that keys are left of, as they were counted last."""
        return orphans_of(self.index.health)

    async def create_volume(self, label: str, sectors: int = 0, uuid: UUID | None = None) -> int:
        """A new volume's inode; durable before the answer. sectors > 0 makes it flash-only."""
        self.services.check_changeable()
        return await self._volumes.create(label, sectors, uuid)

    async def delete_volume(self, inode: int, *, force: bool = False) -> None:
        """Take a volume and its keys away, durably, and end the reservations made for it.

        VolumeInUse if some of it is dirty, unless by force.
        """
        self.services.check_changeable()
        await self._volumes.delete(inode, self._end_reservations, force=force)

    async def _end_reservations(self, inode: int) -> None:
        """Set apart what was reserved for a volume that is gone, some buckets at a time: it may be a lot."""
        self._queue.end_volume(inode)
        for holder in list(self.holders):
            places = list(holder.pieces)
            for start in range(0, len(places), PLACES_A_STEP):
                if holder not in self.holders:
                    break  # its connection is gone, and all of it is set apart
                # Its owner may be writing to it: the whole grace, since its process goes on living.
                part = holder.split_off(inode, places[start : start + PLACES_A_STEP])
                self.quarantine.admit(part, None, self.services.options.restart_grace_s)
                await asyncio.sleep(0)
        self.services.buckets_moved()

    # How it stands

    def statistics(self) -> SetStatistics:
        """A frozen record of how the set stands."""
        return take_snapshot(
            self.members,
            self.journal,
            self.sectors,
            self.index,
            self.lookups,
            self.services,
            self.tasks,
            holders=len(self.holders),
            quarantined=len(self.quarantine),
            failed=None if self.services.refusal is None else str(self.services.refusal),
        )

    def is_healthy(self) -> bool:
        """Whether no task has been at the same step for longer than any step should take.

        To be asked every few seconds: who writes nodes is well if some were written since the last time.
        """
        io = self.index.btree.io
        before, self._nodes_seen = self._nodes_seen, io.nodes_written + io.blocks_appended
        return self.services.busy_s(nodes_come_on=self._nodes_seen != before) < STEP_SECONDS_MAX

    def refuse(self, reason: RequestError) -> None:
        """Let nothing change from here on, and tell those who wait; the first reason stays."""
        self.services.refuse(reason)

    def verify(self) -> list[str]:
        """What is wrong with the set's buckets; empty if nothing is. Holds the loop while it looks."""
        metadata: list[dict[State, set[int]]] = [
            {State.JOURNAL: set(member.cache.geometry.journal_buckets), State.UUID: set(), State.BTREE: set()}
            for member in self.members
        ]
        places = {State.UUID: self._volumes.table_places(), State.BTREE: self.index.changes.buckets.places}
        for state, taken in places.items():
            for device, bucket in taken:
                metadata[device][state].add(bucket)
        found = violations(self.sectors, [*self.holders, *self.quarantine.holders()], metadata)
        tree = self.index.btree.tree
        if tree.is_whole:  # else it would take reading the rest
            caches = self.sectors.caches
            for cache, counts in zip(caches, live_counts(tree.leaves, caches), strict=True):
                found += content(cache, *counts)
        return found

    def explain_index(self) -> list[str]:
        """What in the index is out of order, in sentences."""
        return list(explain_index(self.statistics()))

    def explain(self) -> list[str]:
        """Why allocations wait or failed, in sentences."""
        return explain(self.statistics())
