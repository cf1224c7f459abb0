# SPDX-License-Identifier: GPL-2.0-only
"""Applying a change of keys, for every kind of caller.

A change is accepted without an await: its journal entry, the tree and the live sectors change together, in
the order in which they are replayed. All waiting comes before: for nodes that must be read, space in the
journal, buckets for new nodes. After a wait every condition is checked again: none is valid across an await.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from bcached.errors import DeviceError, DeviceFailed, FormatError, NoFreeBuckets
from bcached.keys import Key
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.index.node_buckets import NodeBuckets
from bcached.state.accounting.live_sectors import LiveSectors
from bcached.state.index.key_batch import KeyBatch
from bcached.state.index.keys.key_ranges import Span, spans_of
from bcached.state.index.tree import Missing
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.state.sectors.sector_runs import SectorRun
from bcached.store.btree.write_back import WriteBack
from bcached.store.journal.journal import Journal
from bcached.wire.change_map import ChangeMap


class IndexWriter:
    """Puts keys into the journal, the tree and the counts of live sectors, once there is space for them."""

    def __init__(
        self,
        write_back: WriteBack,
        journal: Journal,
        sectors: SectorAllocator,
        live: LiveSectors,
        buckets: NodeBuckets,
        change_map: ChangeMap,
        shared: Shared,
    ) -> None:
        self.change_map = change_map
        self.write_back = write_back
        self.nodes = write_back.nodes
        self.journal = journal
        self.live = live
        self.buckets = buckets
        self.newest_seq = journal.seq  # the newest entry that may hold keys
        self._tree = write_back.nodes.tree
        self._count_changes = change_map.count
        self._member_buckets = sectors.members
        self._shared = shared
        self._reclaims = 0  # the members' count when the allocators were notified last
        shared.stop.on_refusal.append(lambda _: write_back.wake_throttled())
        journal.on_durable.append(self._entry_durable)
        waiting = self._tree.leaves.waiting
        waiting.on_merged, waiting.on_many = self._count_merged, shared.leaves_wanted

    # Whether it can be made now

    def is_ready(self, spans: Iterable[Span], words: int) -> bool:
        """Whether keys of so many words can be inserted in these ranges now."""
        if not self.has_space(words):
            return False
        missing = self._tree.missing
        for inode, start, end in spans:  # noqa: SIM110 (most commits have one key)
            if missing(inode, start, end) is not None:
                return False
        return True

    def has_space(self, words: int = 0) -> bool:
        """Whether journal and memory have space for a change of so many words."""
        return self.journal.has_space(words) and not self.nodes.is_over_limit

    def is_ready_for(self, batch: KeyBatch) -> bool:
        """Whether a batch can be put now; that holds until the caller's next await.

        Its keys may wait for leaves that are not loaded.
        """
        if not self.journal.has_space(len(batch.words)) or self.nodes.is_over_limit:
            return False
        return self._tree.place(batch) is None or self._may_wait(batch)

    def is_placed(self, batch: KeyBatch) -> bool:
        """Whether a batch can be inserted, or wait; that holds until the caller's next await."""
        return self._tree.place(batch) is None or self._may_wait(batch)

    def _may_wait(self, batch: KeyBatch) -> bool:
        """Whether keys of a batch may wait for the leaves that are not loaded; it is placed then.

        Not while requests wait for buckets that what they overwrite may provide.
        """
        if self._shared.queue.total and self.live.candidates_are_few:
            return False
        return self._tree.place_or_wait(batch) is None

    async def make_ready_for(self, batch: KeyBatch, left_s: float) -> None:
        """Wait until a batch can be put, as `make_ready`; its keys may wait for leaves to be loaded."""
        if not self.is_ready_for(batch):
            await self._wait_until_ready(partial(self._load_for, batch), len(batch.words), left_s)

    async def _load_for(self, batch: KeyBatch) -> None:
        """Load the leaves of a batch unless its keys may wait."""
        if not self._may_wait(batch):
            await self.nodes.load(spans_of(batch.keys))
            missing = self._tree.place(batch)
            assert missing is None, "the ranges are loaded"

    async def make_ready(
        self,
        spans: Sequence[Span],
        words: int,
        left_s: float,
        may_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait until a change can be made; that holds until the caller's next await.

        may_wait: whether it can be made without its leaves. The memory limit is checked before the nodes are
        loaded, not after: they alone may exceed it. Raises NoFreeBuckets after left_s.
        """
        self._shared.stop.check_changeable()
        if not self.is_ready(spans, words):
            await self._wait_until_ready(partial(self._load_unless, may_wait, spans), words, left_s)

    async def _load_unless(self, may_wait: Callable[[], bool], spans: Sequence[Span]) -> None:
        """Load the ranges in which it is not known what there is, and all if that does not suffice."""
        if may_wait():
            return
        unknown = [span for span in spans if isinstance(self._tree.lookup(*span), Missing)]
        await self.nodes.load(unknown)
        if not may_wait():
            await self.nodes.load(spans)

    async def _wait_until_ready(self, load: Callable[[], Awaitable[None]], words: int, left_s: float) -> None:
        shared, journal, nodes = self._shared, self.journal, self.nodes
        lacks = "btree"
        try:
            async with asyncio.timeout(max(left_s, 0)):
                while nodes.is_over_limit:
                    shared.leaves_wanted()
                    await self.write_back.wait_for_trim()
                    shared.stop.check_changeable()
                while True:
                    with as_device_failed(shared):
                        await load()
                    if journal.has_space(words):
                        break
                    lacks = "journal"
                    with as_device_failed(shared):
                        await journal.wait_for_space(words)
                    shared.stop.check_changeable()
                    lacks = "btree"
        except TimeoutError:
            raise NoFreeBuckets(lacks, int(max(left_s, 0) * 1000)) from None
        shared.stop.check_changeable()

    def may_grow(self) -> bool:
        """Whether there are buckets for the nodes that new keys may need."""
        return self.buckets.may_grow(self._tree)

    async def wait_to_grow(self, left_s: float) -> None:
        """Wait for buckets for new nodes; check `may_grow` again. NoFreeBuckets after left_s."""
        await self.buckets.wait_to_grow(self._tree, left_s)

    # Making it

    def put(self, batch: KeyBatch, keys: Sequence[Key], runs: Sequence[SectorRun]) -> int:
        """Insert a batch, whose keys replace others in their ranges; returns their seq.

        The ranges must be loaded, and the journal have space. keys are those with data, of reserved sectors;
        runs are these. Call `settle` after all related changes.
        """
        seq, cut = self._insert(batch)
        # First, since a key may cut one before it. No bucket counts more than it has: these were not live.
        self.live.add_runs(keys, runs)
        for _, removed in cut:
            self.live.remove(removed, seq)
        return seq

    def _insert(self, batch: KeyBatch) -> tuple[int, Sequence[tuple[int, Sequence[Key]]]]:
        """Insert a batch. Returns its seq, and the pieces cut out (Tree.insert_batch), not yet counted."""
        if batch.leaves is None:
            missing = self._tree.place(batch)
            assert missing is None, "the caller has not loaded the ranges"
        seq = self.journal.append_packed(batch.packed(), len(batch.keys))
        cut = self._tree.insert_batch(batch, seq)
        self._count_changes(batch.keys)
        self.newest_seq = seq
        if self._tree.leaves.wanted:
            self._shared.leaves_wanted()
        return seq, cut

    def _count_merged(self, removed: Sequence[Key]) -> None:
        """Count what changes overwrote that waited for their leaf.

        As if the newest entry removed it: a bucket that this empties may have lost other keys since.
        """
        self.live.remove(removed, self.newest_seq)
        self.settle()
        if self._tree.leaves.wanted:
            self._shared.leaves_wanted()

    def settle(self) -> None:
        """Notify the allocators if buckets became reclaimable."""
        reclaims = 0
        for buckets in self._member_buckets:
            reclaims += buckets.reclaims
        if reclaims != self._reclaims:
            self._reclaims = reclaims
            self._shared.buckets_moved()

    def change(self, keys: Sequence[Key]) -> int:
        """Put keys without a reservation; returns their seq.

        They may name sectors that are live. So each is counted after what it cut out, which may be one before
        it.
        """
        seq, cut = self._insert(KeyBatch(keys))
        live, first = self.live, 0
        for number, removed in cut:
            for key in keys[first:number]:
                live.add(key)
            live.remove(removed, seq)
            first = number
        for key in keys[first:]:
            live.add(key)
        self.settle()
        return seq

    # Afterwards

    def _entry_durable(self, seq: int) -> None:
        """Allow reuse of buckets whose last keys this entry removed: a replay does not restore them.

        Buckets of removed dirty keys wait until no leaf and no needed entry has these keys: the kernel
        complains of a stale dirty key even if a later one overwrites it.
        """
        if self.live.cleaned_seq >= self.journal.oldest_kept_seq:
            seq = self.journal.oldest_kept_seq - 1
        if sum([buckets.emptying_durable(seq) for buckets in self._member_buckets]):
            self._shared.buckets_moved()


@contextmanager
def as_device_failed(shared: Shared) -> Iterator[None]:
    """Raise DeviceFailed for an error of a device or its contents, with the first failure as the reason.

    After a failure the set refuses changes, and tasks end that others wait for: later errors follow from it.
    """
    try:
        yield
    except (DeviceError, FormatError) as error:
        if isinstance(shared.stop.refusal, DeviceFailed):
            raise shared.stop.refusal.with_traceback(None) from None
        raise DeviceFailed(str(error)) from None
