# SPDX-License-Identifier: GPL-2.0-only
"""The reserves: short lists of buckets that are ready to be used, each for one kind of need.

A bucket from here can be used without a write or a wait. The allocator task fills them in PUSH order;
an allocation takes from `none` first and then from its own reserve, so the other three are not touched as
long as ordinary buckets are ready (kernel: bch_allocator_push, bch_bucket_alloc). Unlike in the kernel, the
first bucket that data can be moved to comes before those for nodes.
"""

from collections import deque
from collections.abc import Callable, Iterator
from enum import IntEnum

from bcached.state.buckets.geometry import Geometry


class Reserve(IntEnum):
    """What a bucket is set aside for, with the kernel's numbers."""

    BTREE = 0  # btree nodes and the uuid table
    PRIO = 1
    MOVINGGC = 2
    NONE = 3  # for every need, mostly data


DATA = (Reserve.MOVINGGC, Reserve.NONE)

# "Prios and gens are the most important": without them nothing becomes durable, and nothing free.
PUSH = (Reserve.PRIO, Reserve.BTREE, Reserve.MOVINGGC, Reserve.NONE)
PUSH_FIRST_MOVED = (Reserve.PRIO, Reserve.MOVINGGC, Reserve.BTREE, Reserve.NONE)  # see Reserves.lacking


def kept_for_rewriting(root_level: int) -> int:
    """Buckets a growing tree may not take, kept to write it out: twice its height, and three."""
    return 2 * root_level + 3


def needed_for_a_split(root_level: int) -> int:
    """The most buckets that one change of a tree takes: every level split, and a new root."""
    return 2 * (root_level + 1) + 1


class Reserves:
    """Four fifos of free buckets of one device, and how long each has been empty.

    clock returns seconds; only differences count.
    """

    def __init__(self, geometry: Geometry, clock: Callable[[], float]) -> None:
        capacities = geometry.reserve_capacities
        self.capacities = [capacities[reserve.name.lower()] for reserve in Reserve]
        self.lists: list[deque[int]] = [deque() for _ in Reserve]
        self.for_data: deque[int] = deque()  # buckets of `none` that metadata may not use
        self.taken = [0] * len(Reserve)
        self._clock = clock
        self._empty_s = [0.0] * len(Reserve)
        self._empty_since: list[float | None] = [clock() if size else None for size in self.capacities]

    def __repr__(self) -> str:
        counts = (f"{it.name} {self.count(it)}/{self.capacities[it]}" for it in Reserve)
        return f"<Reserves {', '.join(counts)}>"

    def fit_tree(self, root_level: int) -> None:
        """Make the btree reserve hold twice what a tree of this height keeps back, and a split.

        Kernel: eight buckets for any height, and a wait in mid-split when there are none left.
        """
        needed = 2 * kept_for_rewriting(root_level) + needed_for_a_split(root_level)
        self.capacities[Reserve.BTREE] = max(self.capacities[Reserve.BTREE], needed)

    def room(self) -> int:
        """How many more buckets fit in all reserves together."""
        return sum(self.capacities) - sum(map(len, self.lists)) - len(self.for_data)

    def count(self, reserve: Reserve) -> int:
        """How many buckets a reserve holds."""
        return len(self.lists[reserve]) + (len(self.for_data) if reserve is Reserve.NONE else 0)

    def room_in(self, reserve: Reserve) -> int:
        """How many more buckets fit in one reserve."""
        return self.capacities[reserve] - self.count(reserve)

    def lacking(self) -> Iterator[tuple[Reserve, int]]:
        """Yields how many buckets each reserve lacks, in the order in which they are filled.

        One bucket that data can be moved to comes before those for nodes: with it others can be emptied.
        """
        room = {reserve: self.room_in(reserve) for reserve in PUSH}
        first = int(room[Reserve.MOVINGGC] > 0 and not self.lists[Reserve.MOVINGGC])
        room[Reserve.MOVINGGC] -= first
        yield Reserve.PRIO, room[Reserve.PRIO]
        yield Reserve.MOVINGGC, first
        for reserve in PUSH[1:]:
            yield reserve, room[reserve]

    @property
    def data_room(self) -> int:
        """How many more buckets fit in the reserves for data."""
        return sum(map(self.room_in, DATA))

    def push(self, bucket: int, *, for_data: bool = False) -> Reserve:
        """Put a bucket on the first reserve with space; there must be space. Returns that reserve.

        for_data: the bucket may not become metadata.
        """
        order = PUSH if self.lists[Reserve.MOVINGGC] else PUSH_FIRST_MOVED
        for reserve in DATA if for_data else order:
            if self.room_in(reserve) > 0:
                self.push_to(reserve, bucket, for_data=for_data)
                return reserve
        raise AssertionError("no reserve has space")

    def push_to(self, reserve: Reserve, bucket: int, *, for_data: bool = False) -> None:
        """Put a bucket on this reserve."""
        assert self.room_in(reserve) > 0
        assert reserve in DATA or not for_data, "a bucket only for data on a reserve for metadata"
        since = self._empty_since[reserve]
        if since is not None:
            self._empty_s[reserve] += self._clock() - since
            self._empty_since[reserve] = None
        if for_data and reserve is Reserve.NONE:
            self.for_data.append(bucket)
        else:
            self.lists[reserve].append(bucket)

    def has(self, reserve: Reserve) -> bool:
        """Whether `take` would find a bucket."""
        return bool(self.lists[Reserve.NONE] or self.lists[reserve] or (self.for_data and reserve in DATA))

    def available(self, reserve: Reserve) -> int:
        """How many buckets `take` would find in a row."""
        own = len(self.lists[reserve]) if reserve is not Reserve.NONE else 0
        for_data = len(self.for_data) if reserve in DATA else 0
        return len(self.lists[Reserve.NONE]) + own + for_data

    def take(self, reserve: Reserve) -> int | None:
        """Take a bucket from `none`, else from the need's own reserve; None if both are empty.

        Data takes the buckets that only data can use first, so that the others stay for metadata.
        """
        if self.for_data and reserve in DATA:
            source, buckets = Reserve.NONE, self.for_data
        else:
            source = Reserve.NONE if self.lists[Reserve.NONE] else reserve
            buckets = self.lists[source]
        if not buckets:
            return None
        bucket = buckets.popleft()
        self.taken[reserve] += 1
        if not buckets and not self.count(source):
            self._empty_since[source] = self._clock()
        return bucket

    def lift(self, is_for_data: Callable[[int], bool]) -> None:
        """Give metadata the buckets that need not be kept for data any more, which are the oldest here."""
        while self.for_data and not is_for_data(self.for_data[0]):
            self.lists[Reserve.NONE].append(self.for_data.popleft())

    def empty_seconds(self, reserve: Reserve) -> float:
        """How long a reserve has been empty in total, in seconds."""
        since = self._empty_since[reserve]
        return self._empty_s[reserve] + (0.0 if since is None else self._clock() - since)
