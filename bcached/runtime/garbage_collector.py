"""The garbage collector: finds the oldest gen anything names, so that gens may go on rising.

It marks in slices while buckets are given out, and changes nothing before it is through. Until there is
an index, what it marks is metadata and what connections hold.
"""

from collections.abc import Callable, Generator, Iterable

from bcached.runtime.conditions import Fact
from bcached.runtime.services import Services
from bcached.runtime.slices import run_sliced
from bcached.state.marking import Marking
from bcached.state.reservations import Holder
from bcached.state.statistics import WRITE_BOUNDS_S, Histogram
from bcached.store.journal import Journal
from bcached.store.member import Member

HOLDINGS_A_SLICE = 1024


class GarbageCollector:
    """Collects when asked (kernel: bch_gc_thread).

    before_gens_count is called when all is marked, before any gen may go further because of it.
    """

    def __init__(
        self,
        members: list[Member],
        journal: Journal,
        holders: Iterable[Holder],
        services: Services,
        before_gens_count: Callable[[], None],
    ) -> None:
        self.durations = Histogram(WRITE_BOUNDS_S)
        self._members = members
        self._journal = journal
        self._holders = holders
        self._services = services
        self._before_gens_count = before_gens_count

    async def run(self) -> None:
        """Work until the set stops."""
        conditions = self._services.conditions
        while True:
            async with conditions.bucket_lock:
                await conditions[Fact.COLLECTION_WANTED].wait_for(self._is_wanted)
            if self._services.stopping:
                return
            self._services.begin_step(self)
            await self.collect()
            self._services.end_step(self)

    def _is_wanted(self) -> bool:
        return self._services.stopping or self._services.collection_wanted is not None

    async def collect(self) -> None:
        """One collection from its beginning to its end."""
        services = self._services
        trigger = services.collection_wanted or "asked"
        services.collection_wanted = None
        services.collecting = True
        begun = services.clock()
        await run_sliced(self._mark(), services.options.gc_slice_s, services.clock, services.slices)
        services.collecting = False
        services.collection_ended()
        services.runs[trigger] += 1
        self.durations.observe(services.clock() - begun)
        async with services.conditions.bucket_lock:
            services.conditions[Fact.MARKS_VALID].notify_all()
            services.conditions[Fact.BUCKETS_MOVED].notify_all()

    def _mark(self) -> Generator[None, None, None]:
        markings = [Marking(member.cache) for member in self._members]
        for marking in markings:
            yield from marking.begin()
        for key in (self._journal.uuid_bucket, self._journal.root):
            for pointer in key.pointers:
                bucket = self._members[pointer.device].cache.geometry.bucket_of(pointer.sector)
                markings[pointer.device].mark_pointer(bucket, pointer.gen)
        yield
        for holder in list(self._holders):
            yield from self._mark_holder(holder, markings)
        self._before_gens_count()
        for marking in markings:
            yield from marking.finish()

    def _mark_holder(self, holder: Holder, markings: list[Marking]) -> Generator[None, None, None]:
        """What a connection holds has its bucket's gen of now: a pinned bucket is never invalidated."""
        for count, (device, bucket) in enumerate(list(holder.pieces)):
            markings[device].mark_pointer(bucket, self._members[device].cache.table.gens[bucket])
            if count % HOLDINGS_A_SLICE == 0:
                yield
