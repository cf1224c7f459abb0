"""The leaf writer: keeps the index on the device close enough to the one in memory.

It writes leaves that have a block's worth of new keys, those that need the journal's oldest entries when the
journal runs short, and whatever has to be written before it can leave the memory. And before gens become
durable, those that still name dirty data that is gone: such keys are to be gone before they become stale.
"""

import asyncio

from bcached.errors import RequestError
from bcached.runtime.conditions import Fact
from bcached.runtime.services import Services
from bcached.state.accounting.live_sectors import LiveSectors
from bcached.state.statistics import WRITE_BOUNDS_S, Histogram
from bcached.store.btree.btree import Btree
from bcached.store.journal.journal import Journal

PAUSE_S = 0.001


class LeafWriter:
    """Writes nodes of the index (kernel: journal_reclaim's btree_flush_write, and each leaf's own delay)."""

    def __init__(self, btree: Btree, journal: Journal, live: LiveSectors, services: Services) -> None:
        self.durations = Histogram(WRITE_BOUNDS_S)
        self._btree = btree
        self._journal = journal
        self._live = live
        self._through = -1  # the entry that somebody wants leaves and journal to be beyond
        self._awaited = False  # whether he still waits
        self._services = services
        self._is_mended = False
        services.node_writers.add(self)
        journal.on_durable.append(self._journal_moved)
        journal.on_pressure.append(services.leaves_wanted)

    async def run(self) -> None:
        """Work until the set stops; a DeviceError ends it, and the daemon with it."""
        services = self._services
        while True:
            async with services.conditions.bucket_lock:
                await services.conditions[Fact.LEAVES_WANTED].wait_for(self._has_work)
            if services.stopping:
                return
            services.begin_step(self)
            begun = services.clock()
            try:
                await self._write()
            except RequestError:
                if services.refusal is None:
                    raise
                return  # nobody gets a bucket any more; the journal has what is left
            finally:
                services.end_step(self)
            self.durations.observe(services.clock() - begun)
            # Leaves that others are about to use cannot go, and nobody tells when they can.
            await asyncio.sleep(PAUSE_S if self._btree.is_crowded else 0)

    async def catch_up(self) -> None:
        """Return when no leaf on a device, and no needed entry, names dirty data that is gone by now.

        Not if that takes buckets for nodes that there are none of: those may come with a prio write only.
        """
        services, seq = self._services, self._live.cleaned_seq
        if not seq or self._journal.oldest_kept_seq > seq:
            return
        self._through = max(self._through, seq)
        self._awaited = True
        services.leaves_wanted()
        async with services.conditions.bucket_lock:
            await services.conditions[Fact.LEAVES_WRITTEN].wait_for(
                lambda: (
                    self._journal.oldest_kept_seq > seq
                    or services.waiting_for_nodes
                    or services.refusal is not None
                )
            )
        self._awaited = False

    @property
    def _is_behind(self) -> bool:
        return self._journal.oldest_kept_seq <= self._through

    def _has_work(self) -> bool:
        btree = self._btree
        return bool(
            self._services.stopping
            or not self._is_mended
            or btree.tree.wanted
            or (
                btree.tree.cached_bytes > btree.cache_bytes and next(btree.tree.evictable(), None) is not None
            )
            or btree.is_waited_for
            or btree.is_crowded
            or self._pressing() is not None
            or self._is_behind
        )

    async def _write(self) -> None:
        if not self._is_mended:  # first of all: nobody else could read what is torn
            await self._btree.mend()
            self._is_mended = True
        pressing = self._pressing()
        if pressing is not None:
            await self._btree.write_through(pressing)
        if self._btree.is_crowded:
            await self._btree.relieve()
        await self._btree.write_wanted()
        while self._is_behind:
            await self._btree.write_through(self._journal.accepted_seq)
            await self._journal.commit()

    def _pressing(self) -> int | None:
        """Through which entry leaves must be written for the journal to let go of it, if there are any."""
        seq, oldest = self._journal.pressure(), self._btree.tree.pins.oldest
        return seq if seq is not None and oldest is not None and oldest <= seq else None

    def _journal_moved(self, _: int) -> None:
        if self._pressing() is not None:
            self._services.leaves_wanted()
        if self._awaited and not self._is_behind:
            self._services.conditions.announce(Fact.LEAVES_WRITTEN)
