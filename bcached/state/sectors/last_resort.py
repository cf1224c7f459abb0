# SPDX-License-Identifier: GPL-2.0-only
"""Open buckets as the last resort: those whose writers' connections are closed, or that are idle.

Up to 128 buckets are open, each perhaps nearly empty, which is a large part of a small set. When the last
pass found too few buckets and a request waits, in this order:

1. Slots whose last writer's connection is closed are closed, too: their sectors left are given up, and live
   data gives the state of their buckets.
2. Waiting requests get sectors of any open bucket of their kind, the least recently used first. A writer's
   data is then not together, which is all it loses; the kernel's writers share, too, beyond 128.
3. The one that has been idle for longest is closed, if only its open slot keeps it from being reclaimed;
   never one that was used in the last second.
4. The same for one with dirty data, which can then be moved (evacuation.py).
"""

from collections.abc import Iterator

from bcached.state.buckets.next_step import Step
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.open_buckets import MOVERS_WRITE_POINT, Slot
from bcached.state.sectors.sector_allocator import SectorAllocator

IDLE_S = 1.0
TIMER_S = 0.001  # the least: a rest that is only a rounding error would fire again at the same time


class LastResort:
    """What one member can gain from the set's open buckets."""

    def __init__(self, sectors: SectorAllocator, device: int) -> None:
        self._sectors = sectors
        self._device = device

    def step(self, waiting: frozenset[Reserve], now: float, *, with_dirty: bool) -> Step | None:
        """Returns the next step, if any may help. with_dirty: close also buckets with dirty data."""
        if any(abandoned(self._sectors)):
            return Step.CLOSE
        if Reserve.NONE in waiting and not self._sectors.sharing:
            return Step.SHARE
        return Step.CLOSE if self.closable(now, with_dirty=with_dirty) else None

    def closable(self, now: float, *, with_dirty: bool) -> list[Slot]:
        """The slots to close next: all of closed connections, or else the one idle for longest."""
        slots = list(abandoned(self._sectors))
        if slots:
            return slots
        for slot in idle(self._sectors, now):
            if self._gives(slot, with_dirty=with_dirty):
                return [slot]
        return []

    def idle_in_s(self, now: float) -> float | None:
        """Returns the seconds until another slot counts as idle, at least TIMER_S; None if none will."""
        left = (IDLE_S - (now - slot.used_at) for slot in self._sectors.open_buckets if slot.sectors_free)
        return min((max(seconds, TIMER_S) for seconds in left if seconds > 0), default=None)

    def _gives(self, slot: Slot, *, with_dirty: bool) -> bool:
        """Whether closing a slot makes a bucket reclaimable, or one that data can be moved from."""
        if slot.writer is not None and slot.writer[1] == MOVERS_WRITE_POINT:
            return False  # evacuations count on the sectors left in it
        table = self._sectors.members[self._device].table
        return any(
            table.pins[bucket] == 1 and (with_dirty or not table.dirty_sectors[bucket])
            for device, bucket in slot.bucket_ids
            if device == self._device
        )


def abandoned(sectors: SectorAllocator) -> Iterator[Slot]:
    """Open slots whose last writers' connections are closed."""
    return (slot for slot in sectors.open_buckets if slot.sectors_free and slot.is_abandoned)


def idle(sectors: SectorAllocator, now: float) -> Iterator[Slot]:
    """Open slots of connected writers that have not used them for IDLE_S."""
    return (
        slot
        for slot in sectors.open_buckets
        if slot.sectors_free and not slot.is_abandoned and now - slot.used_at >= IDLE_S
    )
