"""How bucket prios age: each 1/1024 of the set's volume in traffic takes one (seed: bch_rescale_priorities).

A bucket starts at 32768 and is renewed by hits, so what is not used reaches zero after 32 volumes of
traffic. Zero stays zero. Only what may hold data that nobody pins ages: metadata and the buckets on the
lists do not, and what is pinned keeps its prio.
"""

from collections.abc import Generator

import numpy as np

from bcached.state.buckets.bucket_table import BucketTable, State
from bcached.state.buckets.geometry import INITIAL_PRIO, METADATA_PRIO
from bcached.state.buckets.replacement import SLICE_BUCKETS


class Aging:
    """Counts traffic, and says how many steps the prios are behind.

    volume_sectors is the size of the whole set; min_prio is the smallest prio seen in the last pass.
    """

    def __init__(self, volume_sectors: int) -> None:
        self._step_sectors = max(volume_sectors // 1024, 1)
        self._left = 0  # the first request always owes a step, as in the seed
        self.steps_due = 0
        self.min_prio = 0

    def traffic(self, sectors: int) -> bool:
        """Count traffic; True if that made a step due."""
        self._left -= sectors
        if self._left >= 0:
            return False
        steps = -(self._left // self._step_sectors)
        self._left += steps * self._step_sectors
        self.steps_due += steps
        return True


def age(tables: list[BucketTable], steps: int) -> Generator[None, None, int]:
    """Take `steps` from every prio that ages; the smallest that is left (65535 if none aged)."""
    smallest = METADATA_PRIO
    taken = np.uint16(min(steps, INITIAL_PRIO))
    for table in tables:
        for start in range(0, table.bucket_count, SLICE_BUCKETS):
            chunk = slice(start, start + SLICE_BUCKETS)
            prios = table.prios_array[chunk]
            ages = table.states_array[chunk] >= State.DIRTY
            ages &= table.pins_array[chunk] == 0
            ages &= (prios != 0) & (prios != METADATA_PRIO)  # metadata that was freed keeps its prio
            aged = prios - np.minimum(prios, taken)
            np.copyto(prios, aged, where=ages)
            smallest = min(smallest, int(aged.min(where=ages, initial=METADATA_PRIO)))
            yield
    return smallest
