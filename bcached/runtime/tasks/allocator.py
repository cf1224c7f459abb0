# SPDX-License-Identifier: GPL-2.0-only
"""The allocator task of one member: keeps its reserves filled.

It takes its next step from state/buckets/next_step.py, does it, and repeats; with nothing to do it waits
until buckets move. No I/O is done with the bucket lock held.
"""

import asyncio
from functools import partial

from bcached.device.run_all import run_all
from bcached.runtime.coordination.conditions import Fact
from bcached.runtime.coordination.shared import Shared
from bcached.set_state import Replacement
from bcached.state.buckets.next_step import Attempts, Step, next_step
from bcached.state.buckets.replacement import EXHAUSTIVE
from bcached.state.sectors.last_resort import LastResort
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.store.member import Member

PUSH_BUCKETS_MAX = 1024  # in one batch, before the next step is chosen
DISCARDS_IN_FLIGHT = 8


class Allocator:
    """Fills the reserves of one member (kernel: bch_allocator_thread)."""

    def __init__(self, member: Member, sectors: SectorAllocator, shared: Shared) -> None:
        self.member = member
        self.steps = dict.fromkeys(Step, 0)  # how often each was taken
        self._buckets = member.buckets
        self._sectors = sectors
        self._shared = shared
        self._open = LastResort(sectors, member.device)
        self._idle_timer: asyncio.TimerHandle | None = None  # until another open bucket is idle
        self._attempts = Attempts()  # attempts that are not repeated until counters change

    async def run(self) -> None:
        """Work until the set stops; a DeviceError ends it, and the daemon with it."""
        conditions = self._shared.conditions
        while True:
            async with conditions.bucket_lock:
                step = await conditions[Fact.BUCKETS_MOVED].wait_for(self._step_to_take)
            if step is None or self._shared.stop.is_requested:
                return
            self._shared.steps.begin(self)
            self.steps[step] += 1
            await self._do(step)
            self._shared.steps.end(self)
            await asyncio.sleep(0)  # however much there is to do, other tasks run in between

    def next_step(self) -> Step:
        """Returns the step to take now."""
        shared = self._shared
        waiting = shared.queue.waiting()
        step = next_step(
            self._buckets,
            self._attempts,
            synchronous=shared.options.synchronous,
            collections=shared.collections.markings,
            collecting=shared.collections.is_marking,
            waiting=waiting,
            prios_asked=shared.prios.is_requested(self.member),
            nodes_wait=bool(shared.steps.waiting_for_nodes),
            may_evacuate=shared.options.moving_gc,
            evacuating=shared.collections.is_evacuation_requested(self.member),
            last_resort=self._last_resort,
        )
        if step is Step.WAIT and self._buckets.invalidate_needs_gc and waiting:
            self._set_idle_timer()
        if shared.stop.refusal is not None and step is not Step.PUSH:
            return Step.WAIT  # gens that rise now would not become durable before the set stops
        return step

    def _last_resort(self, with_dirty: bool) -> Step | None:
        shared = self._shared
        return self._open.step(shared.queue.waiting(), shared.clock(), with_dirty=with_dirty)

    def _set_idle_timer(self) -> None:
        """Set a timer for when the next open bucket counts as idle: no task announces that."""
        idle_in_s = self._open.idle_in_s(self._shared.clock())
        if idle_in_s is not None and self._idle_timer is None:
            self._idle_timer = asyncio.get_running_loop().call_later(idle_in_s, self._check_idle_buckets)

    def _check_idle_buckets(self) -> None:
        self._idle_timer = None
        self._shared.buckets_moved()

    def _step_to_take(self) -> Step | None:
        """Returns the step to take; None if there is nothing to do. With a stop requested, any step."""
        step = self.next_step()
        return step if step is not Step.WAIT or self._shared.stop.is_requested else None

    async def _do(self, step: Step) -> None:
        """Do a step itself, or request it of the task that does: prio writer, garbage collector."""
        if step is Step.PUSH:
            await self._push()
        elif step is Step.INVALIDATE:
            await self._invalidate()
        elif step is Step.WRITE_PRIOS:
            self._shared.prios.request(self.member)
        elif step is Step.CLOSE:
            self._close()
        elif step is Step.SHARE:
            self._sectors.sharing = True
            self._shared.queue.serve()
        elif step is Step.EVACUATE:
            self._shared.collections.request_evacuation(self.member)
        elif step is Step.COLLECT:
            self._attempts.collection_requested(self._buckets)
            self._shared.collections.request("dry" if self._buckets.invalidate_needs_gc else "gens")

    def _close(self) -> None:
        # The step implies that there is one to close, perhaps only among those with dirty data.
        now = self._shared.clock()
        slots = self._open.closable(now, with_dirty=False) or self._open.closable(now, with_dirty=True)
        for slot in slots:
            self._sectors.close(slot)
        self._shared.buckets_moved()

    async def _push(self) -> None:
        """Move ready buckets to the reserves, and discard them before if that is enabled."""
        discard = self.member.superblock.discard and self.member.block_device.discards
        batch = self._buckets.next_batch(DISCARDS_IN_FLIGHT if discard else PUSH_BUCKETS_MAX)
        if discard:
            await run_all(partial(self._discard, bucket) for bucket in batch)
        self._buckets.push(batch)
        self._sectors.sharing = False
        self._shared.queue.serve()
        self._shared.prios.reserves_filled(self.member)

    async def _discard(self, bucket: int) -> None:
        """Discard a bucket that nothing references after any crash: its gen is durable, or it is unused."""
        geometry = self._buckets.geometry
        await self.member.block_device.discard(geometry.byte_of(bucket), geometry.bucket_bytes)
        self._buckets.discarded += 1
        self._shared.steps.begin(self)  # each may take seconds; a batch of them is not a hang

    async def _invalidate(self) -> None:
        """Choose buckets to invalidate and make all pointers into them stale, in memory."""
        buckets, shared = self._buckets, self._shared
        policy = self.member.superblock.replacement
        is_exhaustive = buckets.policies[policy].is_exhaustive
        self._attempts.pass_begins(buckets, shared.collections.markings, is_exhaustive=is_exhaustive)
        await self._pass(policy)
        if buckets.invalidate_needs_gc and not is_exhaustive and shared.queue.waiting():
            await self._pass(EXHAUSTIVE)
            self._attempts.was_exhaustive = True
        if buckets.invalidate_needs_gc:
            shared.leaves_wanted()  # changes that wait for leaves may hide free buckets
        if not shared.options.synchronous:
            buckets.free_inc.need_no_prios()

    async def _pass(self, policy: Replacement) -> None:
        shared = self._shared
        found = await shared.run_sliced(self._buckets.search(policy, shared.prios.min_prio))
        await shared.run_sliced(self._buckets.invalidate(policy, found))
