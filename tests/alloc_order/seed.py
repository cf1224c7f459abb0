# SPDX-License-Identifier: GPL-2.0-only
"""The toy: a cache device, its lists, and the three threads of alloc.c and btree.c that work on them."""

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

from .threads import Condition, Thread

GEN_DISTANCE_MAX = 96  # BUCKET_GC_GEN_MAX
BTREE_RESERVE = 7  # eight asked for, as a fifo of the kernel rounds it


class Mark(IntEnum):
    """What garbage collection last found in a bucket."""

    NONE = 0
    RECLAIMABLE = 1
    DIRTY = 2
    METADATA = 3


class Reserve(IntEnum):
    """The lists of free buckets, in alloc.c's order."""

    BTREE = 0
    PRIO = 1
    MOVINGGC = 2
    NONE = 3


@dataclass
class Bucket:
    """struct bucket, less what has no part here."""

    pin: int = 0
    gen: int = 0
    last_gc: int = 0
    mark: Mark = Mark.NONE


@dataclass
class Fifo:
    """A list with a fixed number of places."""

    capacity: int
    items: deque[int] = field(default_factory=deque)

    @property
    def is_full(self) -> bool:
        """Whether there is no place left."""
        return len(self.items) >= self.capacity

    def push(self, bucket: int) -> bool:
        """Put a bucket in; false if there is no place."""
        if self.is_full:
            return False
        self.items.append(bucket)
        return True


class Seed:
    """struct cache and cache_set: one device, fifo replacement, synchronous, discards off."""

    def __init__(self, bucket_count: int, prio_buckets: int, free: int, free_inc: int) -> None:
        self.buckets = [Bucket() for _ in range(bucket_count)]
        self.free = {
            Reserve.BTREE: Fifo(BTREE_RESERVE),
            Reserve.PRIO: Fifo(prio_buckets),
            Reserve.MOVINGGC: Fifo(free),
            Reserve.NONE: Fifo(free),
        }
        self.free_inc = Fifo(free_inc)
        self.index: dict[int, tuple[int, bool]] = {}  # bucket of a key: its pointer's gen, whether dirty
        self.prio_buckets: list[int] = []
        self.gc_mark_valid = True
        self.invalidate_needs_gc = False
        self.fifo_last_bucket = 0
        self.prio_writes = self.collections = self.invalidations = 0

    # Opening.

    def fill(self, keys: int, *, dirty: bool = False) -> None:
        """Give the first buckets keys, as a device in use has."""
        for number in range(keys):
            self.index[number] = (self.buckets[number].gen, dirty)
            self.buckets[number].mark = Mark.DIRTY if dirty else Mark.RECLAIMABLE

    def seed_reserves(self) -> None:
        """The initial garbage collection: unmarked buckets fill the prio reserve."""
        for number, bucket in enumerate(self.buckets):
            if self.free[Reserve.PRIO].is_full:
                return
            if bucket.mark is Mark.NONE and self.can_invalidate(bucket):
                self.invalidate_one(bucket)
                self.free[Reserve.PRIO].push(number)

    # Invalidation.

    def can_invalidate(self, bucket: Bucket) -> bool:
        """bch_can_invalidate_bucket."""
        assert self.gc_mark_valid
        reclaimable = bucket.mark in (Mark.NONE, Mark.RECLAIMABLE)
        return reclaimable and bucket.pin == 0 and bucket.gen - bucket.last_gc < GEN_DISTANCE_MAX

    def invalidate_one(self, bucket: Bucket) -> None:
        """__bch_invalidate_one_bucket; gens do not wrap in a toy."""
        bucket.gen += 1
        bucket.pin += 1
        self.invalidations += 1

    def invalidate_buckets(self) -> None:
        """invalidate_buckets_fifo: all buckets at most once, and a cry for gc if that was not enough."""
        assert not self.invalidate_needs_gc
        checked = 0
        while not self.free_inc.is_full:
            number = self.fifo_last_bucket % len(self.buckets)
            self.fifo_last_bucket = number + 1
            if self.can_invalidate(self.buckets[number]):
                self.invalidate_one(self.buckets[number])
                self.free_inc.push(number)
            checked += 1
            if checked >= len(self.buckets):
                self.invalidate_needs_gc = True
                return

    # The allocator thread.

    def allocator_thread(self) -> Thread:
        """bch_allocator_thread, step by step."""
        while True:
            while self.free_inc.items:
                yield self.pushed(self.free_inc.items.popleft())
            while not self.free_inc.is_full:
                yield lambda: self.gc_mark_valid and not self.invalidate_needs_gc
                self.invalidate_buckets()
            yield from self.prio_write()

    def pushed(self, number: int) -> Condition:
        """A wait whose question does the deed: bch_allocator_push, the prio reserve first."""
        order = (Reserve.PRIO, *Reserve)
        return lambda: any(self.free[reserve].push(number) for reserve in order)

    def prio_write(self) -> Thread:
        """bch_prio_write, called by the very thread that fills the lists it waits for."""
        old, self.prio_buckets = self.prio_buckets, []
        for _ in range(self.free[Reserve.PRIO].capacity):
            yield from self.bucket_alloc(Reserve.PRIO, self.prio_buckets)
            written = self.buckets[self.prio_buckets[-1]]
            written.mark = Mark.METADATA
            written.pin -= 1
        for number in old:
            self.buckets[number].mark = Mark.NONE
        self.prio_writes += 1

    # Allocation.

    def bucket_alloc(self, reserve: Reserve, taken: list[int]) -> Thread:
        """bch_bucket_alloc with wait: the common list first, then the asked one. The bucket joins taken."""

        def popped() -> bool:
            for fifo in (self.free[Reserve.NONE], self.free[reserve]):
                if fifo.items:
                    taken.append(fifo.items.popleft())
                    return True
            return False

        if not popped():
            yield popped
        assert self.buckets[taken[-1]].pin == 1
        self.buckets[taken[-1]].mark = Mark.RECLAIMABLE

    def client(self, held: list[int], count: int) -> Thread:
        """Somebody who allocates buckets one by one and holds them, pinned."""
        for _ in range(count):
            yield from self.bucket_alloc(Reserve.NONE, held)
            self.index.pop(held[-1], None)

    def drop(self, held: list[int]) -> None:
        """The client is done: clean keys stay in the index, no pin on their buckets."""
        for number in held:
            self.buckets[number].pin -= 1
            self.index[number] = (self.buckets[number].gen, False)
        held.clear()

    # Garbage collection.

    def gc_thread(self) -> Thread:
        """bch_gc_thread, woken by invalidate_needs_gc; others may run between start and finish."""
        while True:
            yield lambda: self.invalidate_needs_gc
            self.gc_start()
            yield lambda: True
            self.gc_finish()

    def gc_start(self) -> None:
        """btree_gc_start: forget the marks of what nobody holds."""
        self.gc_mark_valid = False
        for bucket in self.buckets:
            bucket.last_gc = bucket.gen
            if bucket.pin == 0:
                bucket.mark = Mark.NONE

    def gc_finish(self) -> None:
        """bch_btree_gc_finish, with the walk before it: mark what the index and the prio chain point to."""
        for number, (gen, dirty) in self.index.items():
            if gen == self.buckets[number].gen:
                self.buckets[number].mark = Mark.DIRTY if dirty else Mark.RECLAIMABLE
        for number in self.prio_buckets:
            self.buckets[number].mark = Mark.METADATA
        self.gc_mark_valid = True
        self.invalidate_needs_gc = False
        self.collections += 1
