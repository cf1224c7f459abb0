# SPDX-License-Identifier: GPL-2.0-only
"""The leaf writer: keeps the index on the device close enough to the one in memory.

It writes leaves with a block's worth of new keys, leaves that need the journal's oldest entries when the
journal runs short, and leaves that must be written before their memory can be released. Before gens become
durable, it writes leaves on whose device copy removed dirty keys remain: these must go before they are stale.
"""

import asyncio

from bcached.errors import RequestError
from bcached.runtime.coordination.conditions import Fact
from bcached.runtime.coordination.shared import Shared
from bcached.state.accounting.live_sectors import LiveSectors
from bcached.state.statistics import WRITE_BOUNDS_S, Histogram
from bcached.store.btree.write_back import WriteBack
from bcached.store.journal.journal import Journal

PAUSE_S = 0.001


class LeafWriter:
    """Writes nodes of the index (kernel: journal_reclaim's btree_flush_write, and each leaf's own delay)."""

    def __init__(self, write_back: WriteBack, journal: Journal, live: LiveSectors, shared: Shared) -> None:
        self.durations = Histogram(WRITE_BOUNDS_S)
        self._nodes = write_back.nodes
        self._write_back = write_back
        self._journal = journal
        self._live = live
        self._through = -1  # the entry that `catch_up` needs leaves and journal to be beyond
        self._awaited = False  # whether it still waits
        self._shared = shared
        self._is_repaired = False  # whether torn nodes are repaired, which is done once
        shared.steps.node_writers.add(self)
        journal.on_durable.append(self._journal_moved)
        journal.on_pressure.append(shared.leaves_wanted)

    async def run(self) -> None:
        """Work until the set stops; a DeviceError ends it, and the daemon with it."""
        shared = self._shared
        while True:
            async with shared.conditions.bucket_lock:
                await shared.conditions[Fact.LEAVES_WANTED].wait_for(self._has_work)
            if shared.stop.is_requested:
                return
            shared.steps.begin(self)
            begun = shared.clock()
            try:
                await self._write()
            except RequestError:
                if shared.stop.refusal is None:
                    raise
                return  # no request gets a bucket any more; the journal has the rest
            finally:
                shared.steps.end(self)
            self.durations.observe(shared.clock() - begun)
            # An oversize leaf may have shrunk: changes that wait for the index to grow can be made, although
            # no node was freed. Such a leaf is wanted, so it ends in a round of this task.
            shared.queue.serve()
            # Leaves that other tasks are about to use cannot be evicted, and no fact announces when they can.
            await asyncio.sleep(PAUSE_S if self._nodes.is_over_limit else 0)

    async def catch_up(self) -> None:
        """Return when no leaf on a device, and no needed entry, has dirty keys that are removed by now.

        Returns early if that lacks buckets for nodes: only the caller's prio write may provide these.
        """
        shared, seq = self._shared, self._live.cleaned_seq
        if not seq or self._journal.oldest_kept_seq > seq:
            return
        self._through = max(self._through, seq)
        self._awaited = True
        shared.leaves_wanted()
        async with shared.conditions.bucket_lock:
            await shared.conditions[Fact.LEAVES_WRITTEN].wait_for(
                lambda: (
                    self._journal.oldest_kept_seq > seq
                    or shared.steps.waiting_for_nodes
                    or shared.stop.refusal is not None
                )
            )
        self._awaited = False

    @property
    def _is_behind(self) -> bool:
        return self._journal.oldest_kept_seq <= self._through

    def _has_work(self) -> bool:
        nodes, leaves = self._nodes, self._nodes.tree.leaves
        return bool(
            self._shared.stop.is_requested
            or not self._is_repaired
            or leaves.wanted
            or (leaves.memory_bytes > nodes.limit_bytes and next(nodes.tree.evictable(), None) is not None)
            or self._write_back.has_throttled
            or nodes.is_over_limit
            or leaves.waiting.are_many
            or self._hides_free_buckets
            or self._pressing() is not None
            or self._is_behind
        )

    async def _write(self) -> None:
        """Write what is wanted.

        1. Torn nodes, once, before all else: no other reader could read them. 2. Leaves that the oldest
        entries are needed for. 3. Leaves until the rest fits into memory; else some that changes wait for,
        if these are many or hide free buckets. 4. Leaves with a block's worth of keys. 5. All, until no
        removed dirty key is left on a device.
        """
        if not self._is_repaired:
            await self._write_back.rewrite_torn()
            self._is_repaired = True
        pressing = self._pressing()
        if pressing is not None:
            await self._write_back.write_through(pressing)
        if self._nodes.is_over_limit:
            await self._write_back.reduce_unwritten()
        elif self._nodes.tree.leaves.waiting.are_many or self._hides_free_buckets:
            await self._write_back.write_waiting()
        await self._write_back.write_wanted()
        while self._is_behind:
            await self._write_back.write_through(self._journal.accepted_seq)
            await self._journal.commit()

    @property
    def _hides_free_buckets(self) -> bool:
        """Whether requests lack buckets, and changes wait for leaves: what these overwrite counts as live."""
        return bool(
            self._nodes.tree.leaves.waiting.by_bound
            and self._live.candidates_are_few
            and self._shared.queue.waiting()
        )

    def _pressing(self) -> int | None:
        """Returns the entry through which leaves must be written to free journal space; None if none."""
        seq, oldest = self._journal.pressure(), self._nodes.tree.leaves.pins.oldest
        return seq if seq is not None and oldest is not None and oldest <= seq else None

    def _journal_moved(self, _: int) -> None:
        if self._pressing() is not None:
            self._shared.leaves_wanted()
        if self._awaited and not self._is_behind:
            self._shared.conditions.announce(Fact.LEAVES_WRITTEN)
