# SPDX-License-Identifier: GPL-2.0-only
"""free_inc: invalidated buckets, which may be used once a prio write has made their gens durable.

They leave in the order in which they came. So two counts tell which of them are ready: how many buckets ever
left, and how many of all that ever entered have durable gens.
"""

from collections import deque
from collections.abc import Iterable, Iterator


class FreeInc:
    """A fifo of buckets in state FREE_INC; those at its head may be ready."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.buckets: deque[int] = deque()
        self._left = 0  # buckets that ever left
        self._durable_through = 0  # how many of all that ever entered have durable gens

    def __repr__(self) -> str:
        return f"<FreeInc {len(self)} of {self.capacity}, {self.ready} ready>"

    def __len__(self) -> int:
        return len(self.buckets)

    def __iter__(self) -> Iterator[int]:
        return iter(self.buckets)

    @property
    def space(self) -> int:
        """How many more buckets fit."""
        return self.capacity - len(self.buckets)

    @property
    def ready(self) -> int:
        """Buckets at the head whose gens are durable."""
        return max(self._durable_through - self._left, 0)

    @property
    def awaiting_prios(self) -> int:
        """Buckets whose gens are not durable yet."""
        return len(self.buckets) - self.ready

    @property
    def entered(self) -> int:
        """How many buckets ever entered: what a snapshot of the gens taken now covers."""
        return self._left + len(self.buckets)

    def extend(self, buckets: Iterable[int]) -> None:
        """Append buckets that were just invalidated."""
        self.buckets.extend(buckets)
        assert len(self.buckets) <= self.capacity, "more buckets were invalidated than fit"

    def gens_became_durable(self, through: int) -> None:
        """Make ready the first `through` of all buckets that ever entered."""
        assert through <= self.entered, "a prio write covers buckets that had not entered"
        self._durable_through = max(self._durable_through, through)

    def need_no_prios(self) -> None:
        """Make all ready: in a set that is not synchronous nothing has to be durable."""
        self._durable_through = self.entered

    def pop(self, bucket: int) -> None:
        """Remove the bucket at the head, which is ready."""
        assert self.ready > 0, "a bucket left free_inc before its gen was durable"
        assert self.buckets[0] == bucket, f"bucket {bucket} is not the head of free_inc"
        self.buckets.popleft()
        self._left += 1
