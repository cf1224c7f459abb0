# SPDX-License-Identifier: GPL-2.0-only
"""Frozen records of the set's statistics: all that metrics, status and explain read.

The counters are plain integers in the components that count; a snapshot copies them into these records. The
figures that the socket shows, too, are declared in bcached/set_state.py.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Annotated

from bcached.metric import gauge, histogram
from bcached.set_state import SetState

WAIT_BOUNDS_S = (1e-4, 2.5e-4, 1e-3, 2.5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0)
WRITE_BOUNDS_S = (2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0, 2.5)
SLICE_BOUNDS_S = (1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2.5e-2, 5e-2)


@dataclass(slots=True)
class Histogram:
    """Counts of observations by upper bound, in seconds; the last count is of all above."""

    bounds_s: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    sum_s: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds_s) + 1)

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds

    def observe_many(self, seconds: float, count: int) -> None:
        """Count several equal observations."""
        self.counts[bisect_left(self.bounds_s, seconds)] += count
        self.sum_s += seconds * count

    def copy(self) -> "Histogram":
        """A copy that later observations do not change."""
        return Histogram(self.bounds_s, list(self.counts), self.sum_s)


@dataclass(frozen=True, slots=True)
class OrphanStatistics:
    """Keys under an inode without a volume."""

    inode: int
    keys: int
    dirty_sectors: int
    clean_sectors: int


@dataclass(frozen=True, slots=True)
class HolderStatistics:
    """A connection that holds sectors in some buckets, and reads others; its peer may be gone."""

    name: str
    buckets: int
    read_buckets: int
    is_closed: bool


class SetStatistics(SetState, frozen=True, gc=False, kw_only=True):
    """The whole set at one instant: its state, and what only metrics and explanations read."""

    wait: Annotated[
        Histogram,
        histogram("bcached_allocation_wait_seconds", "How long allocations that had to wait waited."),
    ]
    prio_write: Annotated[
        Histogram, histogram("bcached_prio_write_duration_seconds", "Writing all prios and gens.")
    ]
    gc: Annotated[Histogram, histogram("bcached_gc_duration_seconds", "A garbage collection, start to end.")]
    gc_slice: Annotated[
        Histogram,
        histogram("bcached_gc_slice_seconds", "For how long garbage collection held the loop."),
    ]
    journal_write: Annotated[
        Histogram, histogram("bcached_journal_write_duration_seconds", "Writing a journal entry.")
    ]
    evicted_idle: Annotated[
        Histogram,
        histogram("bcached_evicted_idle_seconds", "For how long data was not used before its eviction."),
    ]
    waiters_of_largest_user: Annotated[
        int,
        gauge("bcached_allocation_waiters_largest_user", "Requests waiting of the user that has the most."),
    ] = 0
    waiters_max: Annotated[
        int, gauge("bcached_allocation_waiters_limit", "How many requests may wait at a time.")
    ] = 0
    held_by_largest_user: Annotated[
        int,
        gauge(
            "bcached_client_held_buckets_largest_user",
            "Buckets that the user with the most holds sectors of, and those it reads.",
        ),
    ] = 0
    orphans: tuple[OrphanStatistics, ...] = ()  # those with the most dirty sectors, in that order
    largest_holders: tuple[HolderStatistics, ...] = ()
    largest_waiters: tuple[tuple[int | None, int], ...] = ()  # users, and how many requests of each wait

    def state(self) -> SetState:
        """Returns what the socket reports of it."""
        return SetState(*(getattr(self, name) for name in SetState.__struct_fields__))
