# SPDX-License-Identifier: GPL-2.0-only
"""The unused list: emptied buckets, free without a prio write, since nothing durable points into them.

Old nodes on the device may still point into some, by a gen that a prio write has not covered yet (tainted:
see bucket_table.py). Those serve only as data until then, and have a fifo of their own, so that they
cannot keep out those that the next prio write needs.
"""

from collections import deque

import numpy as np

from bcached.state.buckets.bucket_table import BucketTable


class UnusedList:
    """Two fifos of buckets in state UNUSED: for every need, and for data only."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity  # of each fifo
        self.buckets: deque[int] = deque()  # for every need
        self.for_data: deque[int] = deque()  # those that were tainted when they were retired
        self._untainted = 0  # length of the head of for_data that is no longer tainted

    def __repr__(self) -> str:
        return f"<UnusedList {len(self.buckets)}, {len(self.for_data)} for data>"

    def __len__(self) -> int:
        """How many buckets there are, including those that only data may use."""
        return len(self.buckets) + len(self.for_data)

    def is_full(self, *, for_data: bool) -> bool:
        """Whether one of the fifos is full."""
        return len(self.for_data if for_data else self.buckets) >= self.capacity

    def append(self, bucket: int, *, for_data: bool) -> None:
        """Append a bucket that was just retired."""
        assert not self.is_full(for_data=for_data)
        (self.for_data if for_data else self.buckets).append(bucket)

    @property
    def only_for_data(self) -> int:
        """Buckets that wait for space in a reserve for data, or for a prio write."""
        return len(self.for_data) - self._untainted

    def ready_for_data(self, data_room: int) -> int:
        """How many buckets at the head of for_data could be used.

        They are those not tainted any more, and if that is all before them, as many others as there is space
        for in the reserves for data.
        """
        untainted, count = self._untainted, len(self.for_data)
        return count if untainted == count else untainted + min(count - untainted, data_room)

    def pop(self, bucket: int) -> None:
        """Remove a bucket from the head of the fifo for every need."""
        assert self.buckets[0] == bucket, f"bucket {bucket} is not the head of the unused list"
        self.buckets.popleft()

    @property
    def is_head_tainted(self) -> bool:
        """Whether the head of for_data may be used for data only."""
        return not self._untainted

    def pop_for_data(self, bucket: int) -> None:
        """Remove a bucket from the head of the fifo for data."""
        assert self.for_data[0] == bucket, f"bucket {bucket} is not the head of the unused list for data"
        self.for_data.popleft()
        self._untainted = max(self._untainted - 1, 0)

    def lift(self, table: BucketTable) -> None:
        """Find the buckets that are no longer tainted; those retired first are lifted first."""
        waiting = np.fromiter(self.for_data, np.int64, len(self.for_data))
        tainted = np.flatnonzero(table.is_tainted_each(waiting))
        self._untainted = int(tainted[0]) if len(tainted) else len(waiting)
