# SPDX-License-Identifier: GPL-2.0-only
"""What the tasks of a set share: the conditions, the queue, and their requests to each other.

The tasks reach each other only through this: a task requests, and waits for the fact that answers. Each part
owns its state, as in `shared.collections.request("asked")` or `shared.prios.request(member)`.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from bcached.runtime.coordination.conditions import Conditions, Fact
from bcached.runtime.coordination.gc_schedule import GcSchedule
from bcached.runtime.coordination.options import SetOptions
from bcached.runtime.coordination.prio_schedule import PrioSchedule
from bcached.runtime.coordination.slices import run_sliced
from bcached.runtime.coordination.step_watch import StepWatch
from bcached.runtime.coordination.stop import Stop
from bcached.runtime.coordination.traffic import Traffic
from bcached.runtime.coordination.wait_queue import WaitQueue
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.state.statistics import SLICE_BOUNDS_S, Histogram
from bcached.tracepoints import OFF, Tracepoints

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """The parts that all tasks of one set use; warn is called with sentences for the operator."""

    options: SetOptions
    clock: Callable[[], float]
    warn: Callable[[str], None]
    conditions: Conditions
    queue: WaitQueue
    stop: Stop
    steps: StepWatch
    prios: PrioSchedule
    collections: GcSchedule
    traffic: Traffic
    slices: Histogram  # seconds per slice of long work
    trace: Tracepoints

    @property
    def is_short(self) -> bool:
        """Whether any request waits for buckets, for data or for a node."""
        return bool(self.steps.waiting_for_nodes or self.queue.waiting())

    def buckets_moved(self) -> None:
        """Have the allocators check again for work."""
        self.conditions.announce(Fact.BUCKETS_MOVED)

    def leaves_wanted(self) -> None:
        """Have the leaf writer check again for leaves to write."""
        self.conditions.announce(Fact.LEAVES_WANTED)

    async def run_sliced(self, work: Generator[None, None, T]) -> T:
        """Run long work in slices of the configured length; returns its result."""
        return await run_sliced(work, self.options.gc_slice_s, self.clock, self.slices)


def create_shared(
    options: SetOptions,
    sectors: SectorAllocator,
    clock: Callable[[], float],
    after_step: Callable[[], None],
    warn: Callable[[str], None] = lambda _: None,
    trace: Tracepoints = OFF,
) -> Shared:
    """Returns the shared parts of a set; after_step is called after every step of every task."""
    volume_sectors = sum(
        buckets.geometry.bucket_count * buckets.geometry.bucket_sectors for buckets in sectors.members
    )
    conditions = Conditions()
    stop = Stop(conditions)
    prios, collections = PrioSchedule(conditions, volume_sectors), GcSchedule(conditions, volume_sectors)
    traffic = Traffic(sectors, prios, collections)

    def queue_changed() -> None:
        traffic.count_allocated()
        conditions.announce(Fact.BUCKETS_MOVED)
        conditions.announce(Fact.LEAVES_WANTED)  # changes that wait for leaves may hide free buckets

    def found_no_bucket(reserve: Reserve) -> None:
        for buckets in sectors.members if trace.listeners else ():
            if not buckets.reserves.has(reserve):
                trace.emit(
                    "bcache_alloc_fail",
                    device=buckets.device,
                    reserve=reserve.name.lower(),
                    free=buckets.reserves.count(reserve),
                    free_inc=len(buckets.free_inc),
                    blocked=prios.blocked,
                )

    queue = WaitQueue(options.waiters, queue_changed, stop.guarded, options.user_percent)
    queue.on_short = found_no_bucket
    stop.on_refusal.append(queue.refuse)
    steps, slices = StepWatch(clock, after_step), Histogram(SLICE_BOUNDS_S)
    return Shared(
        options, clock, warn, conditions, queue, stop, steps, prios, collections, traffic, slices, trace
    )
