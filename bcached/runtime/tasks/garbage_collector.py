# SPDX-License-Identifier: GPL-2.0-only
"""The garbage collector: finds each bucket's oldest referenced gen, so that gens may rise; tidies the index.

It marks in slices while buckets are allocated and keys change, in its own columns, and changes the bucket
table only when it has marked everything. Before its marks take effect, every leaf that had unwritten changes
at its beginning is written, and an entry is durable that needs none before it: what was cut in memory by then
is stored nowhere. Keys that are cut during the marking are marked, too (state/accounting/live_sectors.py).
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress

import numpy as np

from bcached.errors import NoFreeBuckets, RequestError
from bcached.keys import Key
from bcached.runtime.conditions import Fact
from bcached.runtime.index import Index
from bcached.runtime.pacing import Pacer
from bcached.runtime.shared import Shared
from bcached.runtime.tasks.evacuator import Evacuator
from bcached.runtime.tasks.mover import Mover
from bcached.runtime.tasks.moving_collector import MovingCollector
from bcached.state.accounting.gc_marks import GcMarks
from bcached.state.accounting.index_health import Tally
from bcached.state.accounting.leaf_pointers import copies, dirty_by_inode, leaf_pointers
from bcached.state.index.node import Interior, Leaf, key_of, position_at
from bcached.state.index.node_paths import interiors
from bcached.state.sectors.reservations import Holder
from bcached.state.statistics import WRITE_BOUNDS_S, Histogram
from bcached.store.btree.write_back import COALESCED_MAX
from bcached.store.journal.journal import Journal
from bcached.store.member import Member

HOLDINGS_A_SLICE = 1024
NODES_A_SLICE = 128  # an interior node may have ten thousand children
DROPPED_KEYS = 64  # at once: half a millisecond
FILLS_A_PIECE = 64  # leaves whose fill is checked without an await: a quarter of a millisecond
FORGET_TIMEOUT_S = 1.0  # for the index to take in keys with fewer copies
STALE_GENS_MAX = 10  # kernel: a node with an older pointer is rewritten


class GarbageCollector:
    """Collects on request (kernel: bch_gc_thread).

    before_gens_count is called when all is marked, before any gen may rise further because of it.
    """

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
        self.durations = Histogram(WRITE_BOUNDS_S)
        self.mover = mover
        self.found: dict[str, int] = {}  # counts of the last round
        self.dirty_sectors: Counter[int] = Counter()  # by inode, from the last completed marking
        self._dirty_so_far: Counter[int] = Counter()  # the same, from the present marking
        self.leaves_rewritten = 0
        self._moving = moving
        self.evacuator = evacuator
        self._members = members
        self._caches = [member.cache for member in members]
        self._journal = journal
        self._index = index
        self._health = index.health
        self._changes = index.changes
        self._nodes = index.nodes
        self._write_back = index.write_back
        self._holders = holders
        self._shared = shared
        self._before_gens_count = before_gens_count
        self._outdated: list[Interior] = []  # nodes that name buckets reused many times since
        self._fills: list[tuple[int, int]] = []  # of all leaves: the end of its range, and its words
        self._pacer = Pacer(self, shared)
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
        if self._shared.collections.wanted is not None:
            await self._round()
        else:
            await self.evacuator.run(self._pacer)

    async def _round(self) -> None:
        """Run a collection, then rewrite, tidy and move."""
        shared = self._shared
        shared.collections.begin_round()
        nodes, moved, rewritten = (
            len(self._changes.buckets.bucket_ids),
            self.mover.moved_sectors,
            self.leaves_rewritten,
        )
        begun = shared.clock()
        dropped, vanished = self._health.dropped_keys, self._health.vanished_nodes
        await self.collect()
        await self._rewrite_outdated()
        await self._tidy()
        self._warn_of_losses(dropped, vanished)
        if shared.options.moving_gc and shared.stop.refusal is None:
            await self._moving.move(self._pacer)
        self.found |= {
            "leaves_rewritten": self.leaves_rewritten - rewritten,
            "nodes_saved": max(nodes - len(self._changes.buckets.bucket_ids), 0),
            "sectors_moved": self.mover.moved_sectors - moved,
            "milliseconds": int((shared.clock() - begun) * 1000),
        }
        shared.collections.end_round()
        async with shared.conditions.bucket_lock:
            shared.conditions[Fact.MARKS_VALID].notify_all()

    def _warn_of_losses(self, dropped_before: int, vanished_before: int) -> None:
        """Warn of losses that the index does not show after this collection."""
        dropped = self._health.dropped_keys - dropped_before
        if dropped:
            self._shared.warn(
                f"garbage collection dropped {dropped} stale dirty keys: their buckets were reused more "
                f"than {STALE_GENS_MAX} times, and their data is lost"
            )
        forgotten = vanished_before - self._health.vanished_nodes
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
        try:
            await self._mark_all()
        finally:
            self._changes.live.marking = None
            self._health.abort()
            shared.collections.is_marking = False
        shared.collections.end_marking(trigger)
        self.durations.observe(shared.clock() - begun)
        async with shared.conditions.bucket_lock:
            shared.conditions[Fact.MARKS_VALID].notify_all()
            shared.conditions[Fact.BUCKETS_MOVED].notify_all()

    async def _mark_all(self) -> None:
        markings = [GcMarks(member.cache) for member in self._members]
        await self._in_slices(_begin(markings))
        # From here on removed pointers are marked at removal, so the order of marking does not matter.
        self._changes.live.marking = lambda device, bucket, gen: markings[device].mark_pointer(bucket, gen)
        through = self._changes.newest_seq
        await self._mark_leaves(markings)
        await self._in_slices(self._mark_others(markings))
        while self._journal.oldest_kept_seq <= through:
            await self._write_back.write_through(self._journal.accepted_seq)
            await self._journal.commit()
        self._before_gens_count()
        self._changes.live.marking = None
        await self._in_slices(_finish(markings))

    async def _in_slices(self, work: Generator[None, None, None]) -> None:
        await self._pacer.begin()
        for _ in work:
            await self._pacer.checkpoint()

    # Marking

    async def _mark_leaves(self, markings: list[GcMarks]) -> None:
        """Mark the pointers of all leaves, and rewrite leaves with too many stale ones."""
        await self._pacer.begin()
        self.found = {"leaves": 0, "pointers": 0, "stale_pointers": 0}
        self._fills, self._dirty_so_far = [], Counter()
        tally = self._health.begin()
        async for leaf in self._nodes.leaves():
            self.found["leaves"] += 1
            is_worth_it = self._mark_leaf(leaf, markings, tally)
            tally.through = leaf.bound
            if is_worth_it:
                await self._rewrite(leaf)
            self._fills.append((leaf.bound, leaf.live.word_count))
            await self._pacer.checkpoint()
            self._shared.stop.check_changeable()  # a stop does not wait for a large index
        self._health.end()
        self.dirty_sectors = self._dirty_so_far

    def _mark_leaf(self, leaf: Leaf, markings: list[GcMarks], tally: Tally) -> bool:
        """Mark and count the pointers of a leaf; returns whether to rewrite it without stale keys."""
        pointers = stale = stale_dirty = oldest = 0
        for part in leaf_pointers([leaf], self._caches):
            markings[part.device].mark_pointers(part.buckets, part.rows.gens)
            pointers += len(part.rows)
            stale += int(np.count_nonzero(part.behind))
            stale_dirty += int(np.count_nonzero(part.rows.dirty & (part.behind > 0)))
            oldest = max(oldest, int(part.behind.max(initial=0)))
            self._dirty_so_far.update(dirty_by_inode(part))
        self.found["pointers"] += pointers
        self.found["stale_pointers"] += stale
        inodes = self._index.volumes
        if stale_dirty or any(run.inode not in inodes for run in leaf.live.runs):
            tally.add(leaf, self._caches, inodes)
        return oldest > STALE_GENS_MAX or (stale - stale_dirty) * 2 > pointers

    async def _rewrite(self, leaf: Leaf) -> None:
        """Rewrite a leaf without its stale keys, which are then stored nowhere on the device."""

        async def drop_stale() -> None:
            stale = self._stale_keys(leaf)
            for start in range(0, len(stale), DROPPED_KEYS):
                for key in stale[start : start + DROPPED_KEYS]:
                    if self._nodes.tree.leaves.drop(leaf, key) and key.dirty:
                        self._health.stale_dirty_dropped(key)
                await self._pacer.checkpoint()

        if len(self._members) > 1:
            await self._forget_copies(leaf)
        self.leaves_rewritten += 1
        await self._write_back.rewrite(leaf, drop_stale)

    async def _forget_copies(self, leaf: Leaf) -> None:
        """Remove stale copies from keys that have a current one: they would hold back their buckets' gens."""
        total, good = copies(leaf, self._caches)
        some = np.flatnonzero((good > 0) & (good < total)).tolist()
        keys = list(leaf.live.keys_at(some))
        with suppress(NoFreeBuckets):
            for start in range(0, len(keys), DROPPED_KEYS):
                await self._index.forget_copies(keys[start : start + DROPPED_KEYS], FORGET_TIMEOUT_S)
                await self._pacer.checkpoint()

    def _stale_keys(self, leaf: Leaf) -> list[Key]:
        """Returns the keys of a leaf without any current pointer.

        Excludes dirty keys whose data may still be in a bucket: they record where lost data was.
        """
        _, good = copies(leaf, self._caches)
        stale = leaf.live.keys_at(np.flatnonzero(good == 0).tolist())
        return [key for key in stale if not key.dirty or self._is_long_reused(key)]

    def _is_long_reused(self, key: Key) -> bool:
        """Whether the buckets of all copies were reused many times."""
        staleness = self._changes.buckets.staleness
        return all(staleness(pointer) > STALE_GENS_MAX for pointer in key.pointers)

    def _mark_others(self, markings: list[GcMarks]) -> Generator[None, None, None]:
        """Mark metadata and the buckets that connections hold."""
        staleness, outdated = self._changes.buckets.staleness, dict[Interior, None]()
        for interior in list(interiors(self._nodes.tree.root)):
            keys = [*map(key_of, interior.children), *interior.replaced]
            for start in range(0, len(keys), NODES_A_SLICE):
                for key in keys[start : start + NODES_A_SLICE]:
                    self._mark_key(key, markings)
                    if staleness(key.pointers[0]) > STALE_GENS_MAX:
                        outdated[interior] = None
                yield
        self._outdated = list(outdated)
        for key in (self._journal.locations.uuid_bucket, self._journal.locations.root):
            self._mark_key(key, markings)
        yield
        for holder in list(self._holders):
            yield from self._mark_holder(holder, markings)

    def _mark_key(self, key: Key, markings: list[GcMarks]) -> None:
        for pointer in key.pointers:
            bucket = self._members[pointer.device].cache.geometry.bucket_of(pointer.sector)
            markings[pointer.device].mark_pointer(bucket, pointer.gen)

    def _mark_holder(self, holder: Holder, markings: list[GcMarks]) -> Generator[None, None, None]:
        """Mark a connection's buckets with their present gens: a pinned bucket is never invalidated."""
        for count, (device, bucket) in enumerate(list(holder.pieces)):
            markings[device].mark_pointer(bucket, self._members[device].cache.table.gens[bucket])
            if count % HOLDINGS_A_SLICE == 0:
                yield

    # Tidying

    async def _rewrite_outdated(self) -> None:
        """Rewrite interior nodes without the nodes they replaced, which hold back the gens of buckets."""
        for interior in self._outdated:
            await self._write_back.rewrite(interior)
            await self._pacer.checkpoint()
        self._outdated = []

    async def _tidy(self) -> None:
        """Coalesce neighbouring nodes with little content, level by level, and lower the tree if possible."""
        tree, write_back = self._nodes.tree, self._write_back
        await self._pacer.begin()
        for bound in self._half_empty():
            if bound is not None:
                self._shared.stop.check_changeable()
                await write_back.coalesce(0, *position_at(bound))
            await self._pacer.checkpoint()
        for level in range(1, tree.root.level):
            bound = 0
            while level < tree.root.level and bound != tree.last_bound:
                self._shared.stop.check_changeable()
                bound = await write_back.coalesce(level, *position_at(bound))
                await self._pacer.checkpoint()
        while await write_back.shrink():
            pass

    def _half_empty(self) -> Iterator[int | None]:
        """Yields the start of leaves that can be coalesced with the next few, by their fill when marked.

        Only those are read again. None is yielded as a point to yield to the loop: leaves may be very many.
        """
        shape, begin = self._nodes.io.shape, 0
        for number, (bound, _) in enumerate(self._fills):
            if number % FILLS_A_PIECE == 0:
                yield None
            together = 0
            for count, (_, words) in enumerate(self._fills[number : number + COALESCED_MAX], 1):
                together += words
                if shape.coalescence(together, count) is not None:
                    yield begin
                    break
            begin = bound


def _begin(markings: list[GcMarks]) -> Generator[None, None, None]:
    for marking in markings:
        yield from marking.begin()


def _finish(markings: list[GcMarks]) -> Generator[None, None, None]:
    for marking in markings:
        yield from marking.finish()
