# SPDX-License-Identifier: GPL-2.0-only
"""One garbage collection's marks of a member: the oldest gen of the pointers into each bucket.

It works in columns of its own while buckets are given out and taken back, and changes nothing before
`finish`; an aborted one leaves no trace. A gen recorded here can only be too old, never too new: a pointer
made meanwhile has its bucket's present gen, which is at least the one recorded at the start.
"""

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from bcached.state.buckets.bucket_table import COUNT_BUCKETS, Buckets, State
from bcached.state.buckets.gens import ahead_each, behind, behind_each
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX
from bcached.state.buckets.member_buckets import MemberBuckets

RETIRED_BUCKETS = 512  # per slice: a millisecond


class GcMarks:
    """The scratch columns of one member: oldest gens."""

    def __init__(self, member: MemberBuckets) -> None:
        self._member = member
        self._oldest = np.empty(0, np.uint8)

    def begin(self) -> Generator[None, None, None]:
        """Start as if there were no pointers: every bucket's oldest gen is its present one."""
        table = self._member.table
        self._oldest = np.empty(table.bucket_count, np.uint8)
        for start in range(0, table.bucket_count, COUNT_BUCKETS):
            chunk = slice(start, start + COUNT_BUCKETS)
            self._oldest[chunk] = table.gens_array[chunk]
            yield

    def mark_pointer(self, bucket: int, gen: int) -> None:
        """Record a pointer into a bucket with this gen, stale or not."""
        if behind(gen, int(self._oldest[bucket])):
            self._oldest[bucket] = gen

    def mark_pointers(self, buckets: Buckets, gens: NDArray[np.int64]) -> None:
        """Record pointers into these buckets, of which some may be named several times."""
        steps = behind_each(gens, self._oldest[buckets])
        older = np.flatnonzero(steps)
        if len(older):  # where one bucket has several pointers, the oldest is assigned last
            older = older[np.argsort(steps[older], kind="stable")]
            self._oldest[buckets[older]] = gens[older].astype(np.uint8)

    def finish(self) -> Generator[None, None, None]:
        """Install the oldest gens, and retire the empty buckets that their gens held back."""
        table = self._member.table
        assert len(self._oldest) == table.bucket_count, "marks installed that were not begun"
        for start in range(0, table.bucket_count, COUNT_BUCKETS):
            chunk = slice(start, start + COUNT_BUCKETS)
            far = ahead_each(table.gens_array[chunk], table.last_gc_array[chunk]) >= GEN_DISTANCE_MAX
            far &= table.states_array[chunk] == State.EMPTY
            table.last_gc_array[chunk] = self._oldest[chunk]
            for bucket in np.flatnonzero(far)[:RETIRED_BUCKETS]:  # the rest will be invalidated
                self._member.retire(start + int(bucket))
            yield
        yield from table.recount_distances()
