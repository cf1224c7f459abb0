# SPDX-License-Identifier: GPL-2.0-only
"""How bucket prios age: by one for each 1/1024 of the set's size in traffic (kernel: bch_rescale_priorities).

A bucket starts at 32768 and is reset to that by hits, so an unused one reaches zero after traffic of 32 times
the set's size. Zero stays zero. Only data buckets without pins age: metadata, the buckets on the lists and
pinned buckets keep their prio.
"""

from collections.abc import Generator

import numpy as np

from bcached.state.buckets.bucket_table import BucketTable, State
from bcached.state.buckets.geometry import INITIAL_PRIO, METADATA_PRIO
from bcached.state.buckets.replacement import SLICE_BUCKETS


class Aging:
    """Counts traffic; steps_due is how many steps the prios are behind.

    volume_sectors is the size of the whole set; min_prio is the smallest prio in the last pass.
    """

    def __init__(self, volume_sectors: int) -> None:
        self._step_sectors = max(volume_sectors // 1024, 1)
        self._left = 0  # so the first request makes a step due, as in the kernel
        self.steps_due = 0
        self.min_prio = 0

    def traffic(self, sectors: int) -> bool:
        """Count traffic. Returns whether that made a step due."""
        self._left -= sectors
        if self._left >= 0:
            return False
        steps = -(self._left // self._step_sectors)
        self._left += steps * self._step_sectors
        self.steps_due += steps
        return True


def age(tables: list[BucketTable], steps: int) -> Generator[None, None, int]:
    """Subtract `steps` from every prio that ages. Returns the smallest result (65535 if none aged)."""
    smallest = METADATA_PRIO
    taken = np.uint16(min(steps, INITIAL_PRIO))
    for table in tables:
        for start in range(0, table.bucket_count, SLICE_BUCKETS):
            chunk = slice(start, start + SLICE_BUCKETS)
            prios = table.prios_array[chunk]
            ages = table.states_array[chunk] >= State.DIRTY
            ages &= table.pins_array[chunk] == 0
            ages &= (prios != 0) & (prios != METADATA_PRIO)  # freed metadata keeps its prio
            aged = prios - np.minimum(prios, taken)
            np.copyto(prios, aged, where=ages)
            smallest = min(smallest, int(aged.min(where=ages, initial=METADATA_PRIO)))
            yield
    return smallest
