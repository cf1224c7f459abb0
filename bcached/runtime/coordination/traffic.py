# SPDX-License-Identifier: GPL-2.0-only
"""The traffic of a set: sectors allocated and found, which age prios and trigger garbage collection."""

from bcached.runtime.coordination.gc_schedule import GcSchedule
from bcached.runtime.coordination.prio_schedule import PrioSchedule
from bcached.state.sectors.sector_allocator import SectorAllocator


class Traffic:
    """Reports traffic to the schedules of prios and collections."""

    def __init__(self, sectors: SectorAllocator, prios: PrioSchedule, collections: GcSchedule) -> None:
        self._sectors = sectors
        self._prios = prios
        self._collections = collections
        self._counted_sectors = 0  # allocated sectors that the schedules were given

    def count_allocated(self) -> None:
        """Count sectors allocated since the last call: they age prios and trigger garbage collection."""
        total = self._sectors.allocated_sectors
        sectors = total - self._counted_sectors
        self._counted_sectors = total
        self._prios.count_traffic(sectors)
        self._collections.count_traffic(sectors)

    def count_found(self, sectors: int) -> None:
        """Count sectors found by look-ups: prios age by these, too."""
        self._prios.count_traffic(sectors)
