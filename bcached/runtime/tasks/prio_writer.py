# SPDX-License-Identifier: GPL-2.0-only
"""The prio writer: makes gens durable, so that invalidated buckets may be used, and ages prios.

It never waits for a bucket: the prio reserve holds a whole chain and is filled before all others. (Kernel:
bch_prio_write waits for buckets in the very thread that supplies them.)
"""

from functools import partial

from bcached.device.run_all import run_all
from bcached.runtime.coordination.conditions import Fact
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.tasks.leaf_writer import LeafWriter
from bcached.state.buckets.prio_aging import age
from bcached.state.eviction_ages import EvictionAges
from bcached.state.statistics import WRITE_BOUNDS_S, Histogram
from bcached.store.journal.journal import Journal
from bcached.store.member import Member


class PrioWriter:
    """Writes the chains of the members that request it (kernel: bch_prio_write)."""

    def __init__(
        self, members: list[Member], journal: Journal, leaf_writer: LeafWriter, shared: Shared
    ) -> None:
        self.durations = Histogram(WRITE_BOUNDS_S)
        self.evictions = EvictionAges(shared.clock)
        self._members = members
        self._journal = journal
        self._leaf_writer = leaf_writer
        self._shared = shared
        for member in members:
            member.buckets.on_evicted = self.evictions.evicted

    async def run(self) -> None:
        """Work until the set stops; a DeviceError ends it, and the daemon with it."""
        conditions = self._shared.conditions
        while True:
            async with conditions.bucket_lock:
                await conditions[Fact.PRIOS_WANTED].wait_for(self._has_work)
                members = self._writable()
            if self._shared.stop.is_requested:
                return
            self._shared.steps.begin(self)
            if members:
                await self.write(members)
            if self._shared.prios.aging.steps_due:
                await self._age()
            self._shared.steps.end(self)

    def _has_work(self) -> bool:
        return bool(self._shared.stop.is_requested or self._shared.prios.aging.steps_due or self._writable())

    def _writable(self) -> list[Member]:
        """Returns the requesting members whose reserve holds a chain; none while prio_blocked."""
        if self._shared.prios.blocked:
            return []
        return [member for member in self._shared.prios.wanted_for if member.buckets.has_prio_chain]

    async def write(self, members: list[Member]) -> None:
        """Write these members' chains, journal their heads, and free the previous chains.

        1. One instant: the request is taken, and the gens are copied. 2. Leaves with removed dirty keys are
        written. 3. The chains. 4. The entry that names them. 5. Buckets whose gens are durable now are ready.
        """
        shared = self._shared
        begun = shared.clock()
        shared.prios.wanted_for.difference_update(members)
        shared.prios.writing.update(members)
        # One instant for all: no await from here to the last snapshot.
        snapshots = []
        for member in members:
            member.buckets.take_prio_chain()
            snapshots.append(member.buckets.snapshot_gens())
        shared.buckets_moved()
        shared.steps.end(self)  # the wait for the leaf writer is its step
        await self._leaf_writer.catch_up()
        shared.steps.begin(self)
        await run_all(
            partial(member.write_prios, gens) for member, (gens, _) in zip(members, snapshots, strict=True)
        )
        for member in members:
            self._journal.locations.prio_heads[member.device] = member.buckets.prio_chains.writing[0]
        await self._journal.commit()
        for member, (gens, through) in zip(members, snapshots, strict=True):
            durable = member.buckets.gens_became_durable(gens, through)
            await shared.run_sliced(durable)
        shared.prios.writing.difference_update(members)
        self.durations.observe(shared.clock() - begun)
        for member in members if shared.trace.listeners else ():
            chain = member.buckets.prio_chains.current
            shared.trace.emit(
                "bcache_prio_write",
                device=member.device,
                sector=member.buckets.geometry.sector_of(chain[0]),
                buckets=len(chain),
                microseconds=int((shared.clock() - begun) * 1e6),
            )
        async with shared.conditions.bucket_lock:
            shared.conditions[Fact.GENS_DURABLE].notify_all()
            shared.conditions[Fact.BUCKETS_MOVED].notify_all()

    async def _age(self) -> None:
        """Decrease every ageing prio by the steps that are due."""
        shared = self._shared
        steps, shared.prios.aging.steps_due = shared.prios.aging.steps_due, 0
        smallest = []
        for member in self._members:
            aging = age([member.buckets.table], steps)
            member.buckets.oldest_prio = await shared.run_sliced(aging)
            smallest.append(member.buckets.oldest_prio)
        shared.prios.aging.min_prio = min(smallest)
        self.evictions.aged(steps)
