# SPDX-License-Identifier: GPL-2.0-only
"""The garbage collector: a round marks (marker.py), tidies the index (node_tidier.py), and moves data.

An evacuation is its work, too, so that the two never move data at the same time.
"""

from collections.abc import Callable, Iterable

from bcached.errors import RequestError
from bcached.runtime.coordination.conditions import Fact
from bcached.runtime.coordination.pacing import Pacer
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.index.index import Index
from bcached.runtime.tasks.evacuator import Evacuator
from bcached.runtime.tasks.marker import Marker
from bcached.runtime.tasks.mover import Mover
from bcached.runtime.tasks.moving_collector import MovingCollector
from bcached.runtime.tasks.node_tidier import NodeTidier
from bcached.runtime.tasks.stale_keys import STALE_GENS_MAX, StaleKeyRemover
from bcached.state.sectors.reservations import Holder
from bcached.state.statistics import WRITE_BOUNDS_S, Histogram
from bcached.store.journal.journal import Journal
from bcached.store.member import Member


class GarbageCollector:
    """Collects on request (kernel: bch_gc_thread)."""

    def __init__(
        self,
        members: list[Member],
        journal: Journal,
        index: Index,
        moving: MovingCollector,
        evacuator: Evacuator,
        mover: Mover,
        holders: Iterable[Holder],
        shared: Shared,
        before_gens_count: Callable[[], None],
    ) -> None:
        self.durations = Histogram(WRITE_BOUNDS_S)  # of markings
        self.nodes_saved = 0  # by merging, in all rounds
        self.mover = mover
        self.evacuator = evacuator
        self._pacer = Pacer(self, shared)  # of all parts: they run one after the other, as this task
        self.stale_keys = StaleKeyRemover(index, [member.buckets for member in members], self._pacer)
        self.marker = Marker(
            members, journal, index, holders, self.stale_keys, self._pacer, shared, before_gens_count
        )
        self.tidier = NodeTidier(index, self._pacer, shared)
        self._moving = moving
        self._index = index
        self._shared = shared
        shared.steps.node_writers.add(self)

    async def run(self) -> None:
        """Work until the set stops."""
        conditions = self._shared.conditions
        while True:
            async with conditions.bucket_lock:
                await conditions[Fact.COLLECTION_WANTED].wait_for(self._is_wanted)
            if self._shared.stop.is_requested:
                return
            self._shared.steps.begin(self)
            try:
                await self._work()
            except RequestError:
                if self._shared.stop.refusal is None:
                    raise
                return  # no request gets a bucket any more
            finally:
                self._shared.steps.end(self)

    def _is_wanted(self) -> bool:
        return self._shared.stop.is_requested or self._shared.collections.has_requests

    async def _work(self) -> None:
        """Do one of: 1. A collection, which may make an evacuation needless. 2. An evacuation."""
        if self._shared.collections.wanted is not None:
            await self._round()
        else:
            await self.evacuator.run(self._pacer)

    async def _round(self) -> None:
        """Run a whole collection.

        1. Mark. 2. Rewrite interior nodes, and merge nodes. 3. Warn of what was lost. 4. Move data.
        """
        shared = self._shared
        shared.collections.begin_round()
        nodes, moved, rewritten = (
            len(self._index.changes.buckets.bucket_ids),
            self.mover.moved_sectors,
            self.stale_keys.leaves_rewritten,
        )
        begun = shared.clock()
        dropped, vanished = self._index.health.dropped_keys, self._index.health.vanished_nodes
        await self.collect()
        await self.tidier.rewrite_outdated(self.marker.outdated)
        self.marker.outdated = []
        await self.tidier.tidy(self.marker.fills)
        self._warn_of_losses(dropped, vanished)
        if shared.options.moving_gc and shared.stop.refusal is None:
            await self._moving.move(self._pacer)
        saved = max(nodes - len(self._index.changes.buckets.bucket_ids), 0)
        self.nodes_saved += saved
        self.marker.found |= {
            "leaves_rewritten": self.stale_keys.leaves_rewritten - rewritten,
            "nodes_saved": saved,
            "sectors_moved": self.mover.moved_sectors - moved,
            "milliseconds": int((shared.clock() - begun) * 1000),
        }
        shared.collections.end_round()
        async with shared.conditions.bucket_lock:
            shared.conditions[Fact.MARKS_VALID].notify_all()

    def _warn_of_losses(self, dropped_before: int, vanished_before: int) -> None:
        """Warn of losses that the index does not show after this collection."""
        dropped = self._index.health.dropped_keys - dropped_before
        if dropped:
            self._shared.warn(
                f"garbage collection dropped {dropped} stale dirty keys: their buckets were reused more "
                f"than {STALE_GENS_MAX} times, and their data is lost"
            )
        forgotten = vanished_before - self._index.health.vanished_nodes
        if forgotten:
            self._shared.warn(
                "garbage collection rewrote parts of the index, and removed the last trace of "
                f"{forgotten} vanished nodes"
            )

    async def collect(self) -> None:
        """Run one complete marking, and let gens rise accordingly."""
        shared = self._shared
        trigger = shared.collections.begin_marking()
        begun = shared.clock()
        if shared.trace.listeners:
            shared.trace.emit("bcache_gc_start", trigger=trigger)
        try:
            await self.marker.mark_all()
        finally:
            self._index.changes.live.marking = None
            self._index.health.abort()
            self._index.changes.live.use.abort()
            shared.collections.is_marking = False
        shared.collections.end_marking(trigger)
        self.durations.observe(shared.clock() - begun)
        if shared.trace.listeners:
            shared.trace.emit(
                "bcache_gc_end",
                pointers=self.marker.found["pointers"],
                stale=self.marker.found["stale_pointers"],
                microseconds=int((shared.clock() - begun) * 1e6),
            )
        async with shared.conditions.bucket_lock:
            shared.conditions[Fact.MARKS_VALID].notify_all()
            shared.conditions[Fact.BUCKETS_MOVED].notify_all()
