# SPDX-License-Identifier: GPL-2.0-only
"""How long ago data was used last when its bucket was invalidated: whether the cache is large enough.

A bucket has a prio, and no time: its prio has decreased by one with each step of aging since its last use
(prio_aging.py). So the times of the steps give its age. They are kept from the start of the daemon on: data
used before that counts as used at the start.
"""

from bisect import bisect_right
from collections.abc import Callable

import numpy as np

from bcached.state.buckets.bucket_table import U16
from bcached.state.buckets.geometry import INITIAL_PRIO
from bcached.state.statistics import Histogram

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0
AGE_BOUNDS_S = (
    *(MINUTE_S, 5 * MINUTE_S, 15 * MINUTE_S),
    *(HOUR_S, 3 * HOUR_S, 6 * HOUR_S, 12 * HOUR_S),
    *(DAY_S, 3 * DAY_S, 7 * DAY_S, 30 * DAY_S),
)
TIMES_MAX = 1024  # times of steps that are kept: half of them, once there are more


class EvictionAges:
    """Counts the ages of invalidated buckets; clock returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.ages = Histogram(AGE_BOUNDS_S)
        self._clock = clock
        self._steps = 0  # of aging, since the start
        # For some moments, the steps so far and the time: ascending.
        self._steps_at, self._times = [0], [clock()]

    def aged(self, steps: int) -> None:
        """Record that all prios were aged by so many steps."""
        self._steps += steps
        self._steps_at.append(self._steps)
        self._times.append(self._clock())
        if len(self._times) > TIMES_MAX:
            del self._steps_at[1:-1:2], self._times[1:-1:2]

    def evicted(self, prios: U16) -> None:
        """Count buckets with data that are being invalidated, by their prios."""
        if not len(prios):
            return
        now = self._clock()
        values, counts = np.unique(prios, return_counts=True)
        for prio, count in zip(values.tolist(), counts.tolist(), strict=True):
            self.ages.observe_many(now - self._last_use(prio), count)

    def _last_use(self, prio: int) -> float:
        """Returns when a bucket with this prio was used last: before it aged by the steps it lacks."""
        steps = self._steps - (INITIAL_PRIO - min(prio, INITIAL_PRIO))
        return self._times[max(bisect_right(self._steps_at, steps) - 1, 0)]
