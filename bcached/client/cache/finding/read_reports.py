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

    Threads may lose a count to each other: it is a hint. A hit counts itself in the public attributes.
    """

    def __init__(self, bucket_sectors: int, report: Callable[[Touch], None]) -> None:
        self._bucket_sectors = bucket_sectors
        self._report = report
        self.touched: set[tuple[int, int, int]] = set()  # device, bucket, gen
        self.interval = object()  # until the next report
        self.count = self.bytes = 0
        self._misses = 0
        self._due_s = 0.0

    def hit(self, pointer: Pointer, length: int) -> None:
        """An object was read at a pointer."""
        self.touched.add((pointer.device, pointer.sector // self._bucket_sectors, pointer.gen))
        self.count += 1
        self.bytes += length
        if not self.count % CALLS:
            self.report_if_due()

    def miss(self) -> None:
        """An object was known not to be there."""
        self._misses += 1
        if not self._misses % CALLS:
            self.report_if_due()

    def report_if_due(self) -> None:
        """Report what was counted, unless that was done within the last tenth of a second."""
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = now_s + PAUSE_S
            self.report()

    def report(self) -> None:
        """Report what was counted, if anything."""
        self.interval = object()
        touched, self.touched = self.touched, set()
        buckets = tuple([Bucket(*one) for one in touched])[:TOUCHED_MAX]
        counts, self.count, self._misses, self.bytes = (self.count, self._misses, self.bytes), 0, 0, 0
        if any(counts):
            self._report(Touch(buckets, *counts))
