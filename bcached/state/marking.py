"""One garbage collection's view of a member: what is reachable, and the oldest gen anything still names.

It works in columns of its own while buckets are given out and taken back, and changes nothing before
`finish`; one that is broken off leaves no trace. A gen noted here can only be too old, never too new:
a pointer made meanwhile carries its bucket's gen of now, which is at least the one noted at the start.

Until there is an index, the pointers are those of metadata and those that connections hold.
"""

from collections.abc import Generator

import numpy as np

from bcached.state.bucket_table import COUNT_BUCKETS, BucketTable, State
from bcached.state.cache import Cache


class Marking:
    """The scratch columns of one member: oldest gens."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._oldest = np.empty(0, np.uint8)
        self.retired = 0

    def begin(self) -> Generator[None, None, None]:
        """Start from what holds if nothing points anywhere: every bucket's oldest gen is its own."""
        table = self._cache.table
        self._oldest = np.empty(table.bucket_count, np.uint8)
        for start in range(0, table.bucket_count, COUNT_BUCKETS):
            chunk = slice(start, start + COUNT_BUCKETS)
            self._oldest[chunk] = table.gens_array[chunk]
            yield

    def mark_pointer(self, bucket: int, gen: int) -> None:
        """Note that something points into a bucket with this gen, stale or not."""
        if 0 < (int(self._oldest[bucket]) - gen) & 255 <= 128:
            self._oldest[bucket] = gen

    def finish(self) -> Generator[None, None, None]:
        """Make the oldest gens count, and retire empty buckets as far as the unused list has room."""
        table = self._cache.table
        for start in range(0, table.bucket_count, COUNT_BUCKETS):
            chunk = slice(start, start + COUNT_BUCKETS)
            table.last_gc_array[chunk] = self._oldest[chunk]
            yield
        yield from table.recount_distances()
        self._retire_empty(table)

    def _retire_empty(self, table: BucketTable) -> None:
        """Buckets that could not be retired when they fell empty, for their gens."""
        room = self._cache.geometry.unused_capacity - len(self._cache.unused)
        held_back = self._cache.held_back
        if room <= 0 or not held_back:
            return
        for bucket in np.flatnonzero(table.states_array == State.EMPTY)[:room].tolist():
            self.retired += self._cache.retire(bucket)
