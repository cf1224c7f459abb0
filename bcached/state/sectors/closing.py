"""What open buckets give when there is nothing else: those of writers that are gone, or have been idle.

There may be 128 open buckets, each all but empty, and on a small set that is a large part of it. When buckets
run dry and a request waits, in this order:

1. Those whose last writer is gone are closed: what is left of them is given up, and what lies in them says
   what they are now.
2. Those who wait for sectors get them out of any open bucket of their kind, the one used longest ago first.
   A writer loses nothing by that but that its data lies together; the kernel's share, too, beyond 128.
3. The one that has been idle for longest is closed, if nothing but its open bucket keeps it from being
   reclaimed; never one that was used a moment ago.
4. The same if it holds dirty data, which can then be moved (evacuation.py).
"""

from collections.abc import Iterator

from bcached.state.buckets.next_step import Step
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.open_buckets import MOVERS_WRITE_POINT, Slot
from bcached.state.sectors.sector_allocator import SectorAllocator

IDLE_S = 1.0


class LastResort:
    """What one member can have of the set's open buckets."""

    def __init__(self, sectors: SectorAllocator, device: int) -> None:
        self._sectors = sectors
        self._device = device

    def step(self, waiting: frozenset[Reserve], now: float, *, with_dirty: bool) -> Step | None:
        """What to do next, if that may help; with_dirty: when all else was tried."""
        if any(gone(self._sectors)):
            return Step.CLOSE
        if Reserve.NONE in waiting and not self._sectors.sharing:
            return Step.SHARE
        return Step.CLOSE if self.closable(now, with_dirty=with_dirty) else None

    def closable(self, now: float, *, with_dirty: bool) -> list[Slot]:
        """The slots to close next: all whose writers are gone, or else the one idle for longest."""
        lost = list(gone(self._sectors))
        if lost:
            return lost
        for slot in idle(self._sectors, now):
            if self._gives(slot, with_dirty=with_dirty):
                return [slot]
        return []

    def idle_in_s(self, now: float) -> float | None:
        """In how many seconds another slot counts as idle; None if none will."""
        left = (IDLE_S - (now - slot.used_at) for slot in self._sectors.open_buckets if slot.sectors_free)
        return min((seconds for seconds in left if seconds > 0), default=None)

    def _gives(self, slot: Slot, *, with_dirty: bool) -> bool:
        """Whether to close a slot makes a bucket reclaimable, or one that data can be moved from."""
        if slot.writer is not None and slot.writer[1] == MOVERS_WRITE_POINT:
            return False  # what is left of it is counted on
        table = self._sectors.caches[self._device].table
        return any(
            table.pins[bucket] == 1 and (with_dirty or not table.dirty_sectors[bucket])
            for device, bucket in slot.places
            if device == self._device
        )


def gone(sectors: SectorAllocator) -> Iterator[Slot]:
    """Open slots whose writers are gone."""
    return (slot for slot in sectors.open_buckets if slot.sectors_free and slot.has_lost_its_writer)


def idle(sectors: SectorAllocator, now: float) -> Iterator[Slot]:
    """Open slots of writers that are there, and have not used them for a while."""
    return (
        slot
        for slot in sectors.open_buckets
        if slot.sectors_free and not slot.has_lost_its_writer and now - slot.used_at >= IDLE_S
    )
