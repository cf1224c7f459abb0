# SPDX-License-Identifier: GPL-2.0-only
"""Sectors for requests: reserving, releasing, and the holders that have them.

A request's ready path is one plain call down to state/sectors/sector_allocator.py: no lock, task or await.
"""

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from bcached.errors import LimitExceeded, RequestError
from bcached.keys import POINTERS_MAX, Key
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.sectors.held_shares import HeldShares
from bcached.runtime.sectors.quarantine import Quarantine
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.open_buckets import RequestedExtent
from bcached.state.sectors.pending_allocations import BucketAllocation, ExtentAllocation, PendingAllocation
from bcached.state.sectors.reservations import ExtentRequest, Holder
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.state.sectors.volume_rights import ALL_RIGHTS, VolumeRights
from bcached.store.member import Member

T = TypeVar("T")

BUCKETS_A_SLICE = 32  # buckets with a hundred reservations each: a few milliseconds at most


class Allocations:
    """The reservations of a set, by holder; each connection has one holder."""

    def __init__(self, members: list[Member], sectors: SectorAllocator, shared: Shared) -> None:
        self.holders: set[Holder] = set()  # of open connections
        self.quarantine = Quarantine(sectors, shared.buckets_moved, shared.stop.guarded)
        self._members = members
        self._sectors = sectors
        self._geometry = sectors.members[0].geometry  # bucket and block sizes are the same for all members
        self._shared = shared
        self._stop = shared.stop
        self._queue = shared.queue
        self.shares = HeldShares(shared.queue, self._user_limit, shared.stop.guarded)
        self._seen_taken = 0  # the allocator's buckets_taken when traffic was counted last

    def new_holder(self, name: str, role: str = "allocator", rights: VolumeRights = ALL_RIGHTS) -> Holder:
        """Returns a new holder of reservations; name is for messages, role for statistics."""
        options = self._shared.options
        holder = Holder(
            name,
            options.reservations_per_connection,
            self._geometry,
            reads_limit=options.pins_per_connection,
            role=role,
            rights=rights,
        )
        self.holders.add(holder)
        self.shares.add(holder)
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
        allocator, queue = self._sectors, self._queue
        if self._stop.refusal is not None:
            self._stop.check_changeable()
        may_refill = not queue.total or not queue.count(Reserve.MOVINGGC if moving else Reserve.NONE)
        key = allocator.carve(holder, inode, offset, sectors, write_point, replicas, moving, may_refill)
        if allocator.buckets_taken != self._seen_taken:
            self._note_taken()
        return key

    def carve_run(
        self, holder: Holder, extents: Sequence[RequestedExtent], at: int, write_point: int
    ) -> list[Key]:
        """The ready path of a batch: returns keys for extents[at] and those after it in the same bucket."""
        allocator, queue = self._sectors, self._queue
        if self._stop.refusal is not None:
            self._stop.check_changeable()
        may_refill = not queue.total or not queue.count(Reserve.NONE)
        keys = allocator.carve_run(holder, extents, at, write_point, may_refill)
        if allocator.buckets_taken != self._seen_taken:
            self._note_taken()
        return keys

    def _note_taken(self) -> None:
        """Count traffic per bucket taken, not per request: prios age in no smaller steps."""
        self._seen_taken = self._sectors.buckets_taken
        self._shared.traffic.count_allocated()
        self._shared.buckets_moved()

    def allocate(
        self, holder: Holder, requests: Sequence[ExtentRequest], timeout_s: float, begun: Sequence[Key] = ()
    ) -> "asyncio.Future[list[list[Key]]]":
        """Returns the keys of all requests, or raises NoFreeBuckets after timeout_s, at once if that is 0.

        begun: keys that the holder has for the first of them. They are given back with the others.
        """
        work = ExtentAllocation(self._sectors, holder, requests)
        work.take_over(begun)
        try:
            self._stop.check_changeable()
            self.check_possible(requests)
            if holder.rights.foreign:
                holder.rights.check_changes(requests, self._sectors.inodes)
        except RequestError:
            work.undo()
            raise
        return self._submit(work, timeout_s)

    def allocate_bucket(self, holder: Holder, replicas: int, timeout_s: float) -> "asyncio.Future[Key]":
        """Returns a whole bucket (one on each of `replicas` members), as one key of no volume."""
        self._stop.check_changeable()
        self._check_replicas(replicas)
        return self._submit(BucketAllocation(self._sectors, holder, replicas), timeout_s)

    def _submit(self, work: PendingAllocation[T], timeout_s: float) -> "asyncio.Future[T]":
        try:
            future = self._queue.submit(work, timeout_s)
            if not future.done():
                self.shares.watch()
            return future
        finally:
            self._shared.traffic.count_allocated()
            self._shared.buckets_moved()

    def release(self, holder: Holder, keys: Sequence[Key]) -> None:
        """End reservations, all of them or none; the client has no write to them in flight."""
        self._stop.check_changeable()
        self._sectors.release(holder, keys)
        self._shared.buckets_moved()

    def free_bucket(self, holder: Holder, key: Key) -> None:
        """Free whole buckets of which no part was freed before."""
        self._stop.check_changeable()
        self._sectors.free_buckets(holder, key)
        self._shared.buckets_moved()

    def drop_holder(self, holder: Holder, pid: int | None) -> None:
        """Handle a closed connection: its reservations end once process `pid` can write no more."""
        self._queue.end_holder(holder)  # first, while what it gathered is still separate from what it holds
        if holder in self.holders:
            self.holders.remove(holder)
            self.shares.remove(holder)
        holder.connection_closed = True
        self.quarantine.admit(holder, pid, self._shared.options.restart_grace_s)

    def close(self) -> None:
        """Watch no process and no shares any more: the set closes."""
        self.quarantine.close()
        self.shares.close()

    def _check_replicas(self, replicas: int) -> None:
        if replicas > min(len(self._members), POINTERS_MAX):
            raise LimitExceeded("replicas", replicas)

    def check_possible(self, requests: Sequence[ExtentRequest]) -> None:
        """Raises LimitExceeded for requests that no wait could satisfy."""
        for request in requests:
            self._check_replicas(request.replicas)
        wanted = sum(request.sectors * request.replicas for request in requests if request.whole)
        if wanted > self.data_sectors:
            raise LimitExceeded("sectors", wanted)

    @property
    def data_sectors(self) -> int:
        """The most sectors the set can allocate, with all buckets but metadata and reserves available."""
        return self._data_buckets() * self._geometry.bucket_sectors

    def _user_limit(self) -> float:
        """Returns how many data buckets a user keeps while another one waits for one."""
        return self._data_buckets() * self._shared.options.user_percent / 100

    def _data_buckets(self) -> int:
        buckets = 0
        for member in self._members:
            geometry = member.buckets.geometry
            capacities = geometry.reserve_capacities
            kept = 2 * geometry.prio_bucket_count + capacities["btree"] + capacities["prio"] + 2
            buckets += geometry.bucket_count - geometry.journal_buckets.stop - kept
        return buckets

    async def end_reservations(self, inode: int) -> None:
        """Quarantine the reservations for a removed volume, some buckets at a time: there may be many."""
        self._queue.end_volume(inode)
        for holder in list(self.holders):
            bucket_ids = list(holder.pieces)
            for start in range(0, len(bucket_ids), BUCKETS_A_SLICE):
                if holder not in self.holders:
                    break  # its connection is closed, and all its reservations are in quarantine
                # The client may be writing to it, and its process still runs: the whole grace is waited.
                part = holder.split_off(inode, bucket_ids[start : start + BUCKETS_A_SLICE])
                self.quarantine.admit(part, None, self._shared.options.restart_grace_s)
                await asyncio.sleep(0)
        self._shared.buckets_moved()
