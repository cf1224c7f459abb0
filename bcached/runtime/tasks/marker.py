# SPDX-License-Identifier: GPL-2.0-only
"""Marking: each bucket's oldest referenced gen, found in slices while buckets are allocated and keys change.

It marks in its own columns, and changes the bucket table only when it has marked everything. Before its marks
take effect, every leaf that had unwritten changes at its beginning is written, and an entry is durable that
needs none before it: what was cut in memory by then is stored nowhere. Keys that are cut during the marking
are marked, too (state/accounting/live_sectors.py).
"""

from collections.abc import Callable, Generator, Iterable

import numpy as np

from bcached.keys import Key
from bcached.runtime.coordination.pacing import Pacer
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.index.index import Index
from bcached.runtime.tasks.stale_keys import STALE_GENS_MAX, StaleKeyRemover
from bcached.state.accounting.gc_marks import GcMarks
from bcached.state.accounting.index_health import Tally
from bcached.state.accounting.leaf_pointers import leaf_pointers
from bcached.state.index.node import Interior, Leaf, key_of
from bcached.state.index.node_paths import interiors
from bcached.state.sectors.reservations import Holder
from bcached.store.journal.journal import Journal
from bcached.store.member import Member

HOLDINGS_A_SLICE = 1024
NODES_A_SLICE = 128  # an interior node may have ten thousand children


class Marker:
    """Marks for the garbage collector, and notes what there is to tidy.

    before_gens_count is called when all is marked, before any gen may rise further because of it.
    """

    def __init__(
        self,
        members: list[Member],
        journal: Journal,
        index: Index,
        holders: Iterable[Holder],
        stale_keys: StaleKeyRemover,
        pacer: Pacer,
        shared: Shared,
        before_gens_count: Callable[[], None],
    ) -> None:
        self.found: dict[str, int] = {}  # counts of the last marking, to which its round adds
        self.outdated: list[Interior] = []  # nodes that name buckets reused many times since
        self.fills: list[tuple[int, int]] = []  # for each leaf: the end of its range, and its words
        self._members = members
        self._member_buckets = [member.buckets for member in members]
        self._journal = journal
        self._index = index
        self._holders = holders  # of open connections, whose buckets are marked, too
        self._stale_keys = stale_keys  # rewrites leaves with many of them, when they are read anyway
        self._pacer = pacer
        self._shared = shared
        self._before_gens_count = before_gens_count

    async def mark_all(self) -> None:
        """Mark everything that names a bucket, and let gens rise accordingly.

        1. Marks begin. 2. Leaves. 3. Other nodes, metadata, held buckets. 4. Leaves and an entry are written,
        so that what was removed before is stored nowhere. 5. Readers of gens learn of it. 6. The marks take
        effect.
        """
        markings = [GcMarks(member.buckets) for member in self._members]
        await self._in_slices(_begin(markings))
        # From here on removed pointers are marked at removal, so the order of marking does not matter.
        self._index.changes.live.marking = lambda device, bucket, gen: markings[device].mark_pointer(
            bucket, gen
        )
        through = self._index.changes.newest_seq
        await self._mark_leaves(markings)
        await self._in_slices(self._mark_others(markings))
        while self._journal.oldest_kept_seq <= through:
            await self._index.write_back.write_through(self._journal.accepted_seq)
            await self._journal.commit()
        self._before_gens_count()
        self._index.changes.live.marking = None
        await self._in_slices(_finish(markings))

    async def _in_slices(self, work: Generator[None, None, None]) -> None:
        await self._pacer.begin()
        for _ in work:
            await self._pacer.checkpoint()

    async def _mark_leaves(self, markings: list[GcMarks]) -> None:
        """Mark the pointers of all leaves, and rewrite leaves with too many stale ones."""
        await self._pacer.begin()
        self.found = {"leaves": 0, "pointers": 0, "stale_pointers": 0}
        self.fills = []
        tally, use = self._index.health.begin(), self._index.changes.live.use
        use.begin()
        async for leaf in self._index.nodes.leaves():
            self.found["leaves"] += 1
            is_worth_it = self._mark_leaf(leaf, markings, tally)
            tally.through = leaf.bound
            use.counted(leaf)
            if is_worth_it:
                await self._stale_keys.rewrite(leaf)
            self.fills.append((leaf.bound, leaf.live.word_count))
            await self._pacer.checkpoint()
            self._shared.stop.check_changeable()  # a stop does not wait for a large index
        self._index.health.end()
        use.end()

    def _mark_leaf(self, leaf: Leaf, markings: list[GcMarks], tally: Tally) -> bool:
        """Mark and count the pointers of a leaf; returns whether to rewrite it without stale keys."""
        pointers = stale = stale_dirty = oldest = 0
        for part in leaf_pointers([leaf], self._member_buckets):
            markings[part.device].mark_pointers(part.buckets, part.rows.gens)
            pointers += len(part.rows)
            stale += int(np.count_nonzero(part.behind))
            stale_dirty += int(np.count_nonzero(part.rows.dirty & (part.behind > 0)))
            oldest = max(oldest, int(part.behind.max(initial=0)))
            self._index.changes.live.use.count_part(part)
        self.found["pointers"] += pointers
        self.found["stale_pointers"] += stale
        inodes = self._index.volumes
        if stale_dirty or any(run.inode not in inodes for run in leaf.live.runs):
            tally.add(leaf, self._member_buckets, inodes)
        return oldest > STALE_GENS_MAX or (stale - stale_dirty) * 2 > pointers

    def _mark_others(self, markings: list[GcMarks]) -> Generator[None, None, None]:
        """Mark metadata and the buckets that connections hold."""
        staleness, outdated = self._index.changes.buckets.staleness, dict[Interior, None]()
        for interior in list(interiors(self._index.nodes.tree.root)):
            keys = [*map(key_of, interior.children), *interior.replaced]
            for start in range(0, len(keys), NODES_A_SLICE):
                for key in keys[start : start + NODES_A_SLICE]:
                    self._mark_key(key, markings)
                    if staleness(key.pointers[0]) > STALE_GENS_MAX:
                        outdated[interior] = None
                yield
        self.outdated = list(outdated)
        for key in (self._journal.locations.uuid_bucket, self._journal.locations.root):
            self._mark_key(key, markings)
        yield
        for holder in list(self._holders):
            yield from self._mark_holder(holder, markings)

    def _mark_key(self, key: Key, markings: list[GcMarks]) -> None:
        for pointer in key.pointers:
            bucket = self._members[pointer.device].buckets.geometry.bucket_of(pointer.sector)
            markings[pointer.device].mark_pointer(bucket, pointer.gen)

    def _mark_holder(self, holder: Holder, markings: list[GcMarks]) -> Generator[None, None, None]:
        """Mark a connection's buckets with their present gens: a pinned bucket is never invalidated."""
        for count, (device, bucket) in enumerate(list(holder.pieces)):
            markings[device].mark_pointer(bucket, self._members[device].buckets.table.gens[bucket])
            if count % HOLDINGS_A_SLICE == 0:
                yield


def _begin(markings: list[GcMarks]) -> Generator[None, None, None]:
    for marking in markings:
        yield from marking.begin()


def _finish(markings: list[GcMarks]) -> Generator[None, None, None]:
    for marking in markings:
        yield from marking.finish()
