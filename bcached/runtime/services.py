"""What the tasks of a set share: the conditions, the queue, and their requests to each other.

The tasks reach each other only through this: a task requests, and waits for the fact that answers.
"""

import asyncio
from collections.abc import Callable
from functools import wraps

from bcached.errors import RequestError
from bcached.runtime.conditions import Conditions, Fact
from bcached.runtime.options import SetOptions
from bcached.runtime.wait_queue import WaitQueue
from bcached.state.buckets.prio_aging import Aging
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.state.statistics import SLICE_BOUNDS_S, Histogram
from bcached.store.member import Member

GC_TRIGGERS = ("dry", "gens", "traffic", "asked")


class Services:
    """Shared by the tasks of one set.

    after_step is called after every step of every task. broken gets the first exception of a callback, which
    runs outside the tasks. warn is called with sentences for the operator.
    """

    def __init__(
        self,
        options: SetOptions,
        sectors: SectorAllocator,
        clock: Callable[[], float],
        after_step: Callable[[], None],
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        volume_sectors = sum(
            cache.geometry.bucket_count * cache.geometry.bucket_sectors for cache in sectors.caches
        )
        self.options = options
        self.clock = clock
        self.warn = warn
        self.conditions = Conditions()
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queue = WaitQueue(options.waiters, self._queue_changed, self.guarded)
        self.refusal: RequestError | None = None  # why nothing may change any more
        self.on_refusal: list[Callable[[], None]] = []  # called when it is set
        self.aging = Aging(volume_sectors)
        self.slices = Histogram(SLICE_BOUNDS_S)
        self.stopping = False
        self._after_step = after_step
        self._sectors = sectors
        self._counted_sectors = 0  # of the allocated ones, as traffic
        self._busy_since: dict[object, float] = {}  # when each busy task began its step
        self.node_writers: set[object] = set()  # the tasks that write nodes of the index
        self.waiting_for_nodes = 0  # how many of their writes wait for buckets
        # Prio writer
        self.prios_wanted_for: set[Member] = set()
        self.prios_writing: set[Member] = set()
        self.prio_blocked = 0  # gens that must not reach the disk yet, kernel: prio_blocked
        # Garbage collector
        self.collections = 0  # completed markings
        self.gc_rounds = 0  # completed collections with rewriting, tidying and moving
        self.in_gc_round = False
        self.collecting = False  # marking, a part of the round
        self.collection_wanted: str | None = None  # the trigger
        self.runs = dict.fromkeys(GC_TRIGGERS, 0)
        self.evacuation_wanted: set[Member] = set()
        self.evacuating: Member | None = None
        # New data of a sixteenth of the set's size triggers a collection.
        self.sectors_to_gc = self._gc_interval = max(volume_sectors // 16, 1)

    def check_changeable(self) -> None:
        """Raises the refusal if nothing may change any more."""
        if self.refusal is not None:
            raise self.refusal.with_traceback(None)

    def refuse(self, reason: RequestError) -> None:
        """Refuse all changes from now on, and fail the waiters; the first reason is kept."""
        if self.refusal is None:
            self.refusal = reason
            self.queue.refuse(reason)
            for tell in self.on_refusal:
                tell()
            self.conditions.announce(*Fact)

    def stop(self) -> None:
        """Have every task end after its present step."""
        self.stopping = True
        self.conditions.announce(*Fact)

    def guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Returns the callback wrapped for timers and the like: the loop would only log its exceptions."""

        @wraps(callback)
        def call(*args: object) -> None:
            try:
                callback(*args)
            except Exception as error:
                if not self.broken.done():
                    self.broken.set_exception(error)

        return call

    def begin_step(self, task: object) -> None:
        """Record that a task began a step, or progressed in it."""
        self._busy_since[task] = self.clock()

    def end_step(self, task: object) -> None:
        """Record that a task ended its step, and call after_step."""
        del self._busy_since[task]
        self._after_step()

    def busy_s(self, *, nodes_come_on: bool = False) -> float:
        """Returns how long the longest present step of any task has lasted, in seconds.

        Tasks that write nodes are excluded while one waits for a bucket, which may take any time, and while
        nodes_come_on: there may be very many to write.
        """
        now = self.clock()
        excused = self.node_writers if self.waiting_for_nodes or nodes_come_on else frozenset()
        return max(
            (now - since for task, since in self._busy_since.items() if task not in excused), default=0.0
        )

    # Allocation

    def waiting(self) -> frozenset[Reserve]:
        """Returns the reserves that requests wait for."""
        return self.queue.waiting()

    @property
    def is_short(self) -> bool:
        """Whether any request waits for buckets, for data or for a node."""
        return bool(self.waiting_for_nodes or self.waiting())

    def serve(self) -> None:
        """Give available buckets to the waiters."""
        self.queue.serve()

    def buckets_moved(self) -> None:
        """Have the allocators check again for work."""
        self.conditions.announce(Fact.BUCKETS_MOVED)

    def leaves_wanted(self) -> None:
        """Have the leaf writer check again for leaves to write."""
        self.conditions.announce(Fact.LEAVES_WANTED)

    def count_reads(self, sectors: int) -> None:
        """Count sectors found by look-ups: prios age by these, too."""
        if self.aging.traffic(sectors):
            self.conditions.announce(Fact.PRIOS_WANTED)

    def count_traffic(self) -> None:
        """Count sectors allocated since the last call: they age prios and trigger garbage collection."""
        total = self._sectors.allocated_sectors
        sectors = total - self._counted_sectors
        self._counted_sectors = total
        if self.aging.traffic(sectors):
            self.conditions.announce(Fact.PRIOS_WANTED)
        self.sectors_to_gc -= sectors
        if self.sectors_to_gc < 0:
            self.ask_for_collection("traffic")

    def _queue_changed(self) -> None:
        self.count_traffic()
        self.buckets_moved()

    @property
    def min_prio(self) -> int:
        """The smallest prio at the last aging."""
        return self.aging.min_prio

    # Prios

    def ask_for_prios(self, member: Member) -> None:
        """Have a member's prios and gens written."""
        self.prios_wanted_for.add(member)
        self.conditions.announce(Fact.PRIOS_WANTED)

    def reserves_filled(self, member: Member) -> None:
        """Wake the prio writer if it waited for buckets of this member's reserves."""
        if member in self.prios_wanted_for:
            self.conditions.announce(Fact.PRIOS_WANTED)

    def prios_asked(self, member: Member) -> bool:
        """Whether a write of a member's prios is under way or requested."""
        return member in self.prios_wanted_for or member in self.prios_writing

    # Garbage collection

    def ask_for_collection(self, trigger: str) -> None:
        """Request a garbage collection, unless one is under way or requested."""
        if self.collecting or self.collection_wanted is not None:
            return
        self.collection_wanted = trigger
        self.conditions.announce(Fact.COLLECTION_WANTED)

    def ask_for_evacuation(self, member: Member) -> None:
        """Request the evacuation of a member: its dirty data is moved together."""
        self.evacuation_wanted.add(member)
        self.conditions.announce(Fact.COLLECTION_WANTED)

    def evacuation_asked(self, member: Member) -> bool:
        """Whether an evacuation of a member is under way or requested."""
        return member is self.evacuating or member in self.evacuation_wanted

    def collection_ended(self) -> None:
        """Count a collection, and restart the count of traffic to the next."""
        self.collections += 1
        self.sectors_to_gc = self._gc_interval
