# SPDX-License-Identifier: MIT
"""What was read without a look-up, for the daemon's replacement policy and its metrics."""

import time
from collections.abc import Callable

from bcached.keys import Pointer
from bcached.wire.messages import TOUCHED_MAX, Bucket, Touch

PAUSE_S = 0.1
CALLS = 64  # between two looks at the clock


class Hits:
    """Counts reads, and reports them ten times a second while there are some.

    Threads may lose a count to each other: it is a hint.
    """

    def __init__(self, bucket_sectors: int, report: Callable[[Touch], None]) -> None:
        self._bucket_sectors = bucket_sectors
        self._report = report
        self._touched: set[tuple[int, int, int]] = set()  # device, bucket, gen
        self._hits = self._misses = self._bytes = 0
        self._calls = 0
        self._due_s = 0.0

    def hit(self, pointer: Pointer, length: int) -> None:
        """An object was read at a pointer."""
        self._touched.add((pointer.device, pointer.sector // self._bucket_sectors, pointer.gen))
        self._hits += 1
        self._bytes += length
        self._called()

    def miss(self) -> None:
        """An object was known not to be there."""
        self._misses += 1
        self._called()

    def _called(self) -> None:
        self._calls += 1
        if self._calls % CALLS == 0:
            now_s = time.monotonic()
            if now_s >= self._due_s:
                self._due_s = now_s + PAUSE_S
                self._send()

    def _send(self) -> None:
        touched, self._touched = self._touched, set()
        buckets = tuple([Bucket(*one) for one in touched])[:TOUCHED_MAX]
        self._report(Touch(buckets, self._hits, self._misses, self._bytes))
        self._hits = self._misses = self._bytes = 0
