# SPDX-License-Identifier: GPL-2.0-only
"""State, gens, prios, live sectors and pins of every bucket of one device, as columns.

Rules of this file: a bucket's state and gen are changed only by methods of BucketTable. Each column is a
bytearray with two views: a memoryview for single buckets (the request path) and a numpy array of the same
memory for scans. The caller may supply the memory of the gen column, since clients map it.

Every bucket is in exactly one State. In the kernel it follows from a gc mark, a pin count and the lists
together; here it is stored, so that it can be counted and checked. The kernel's mark is a function of it
(see `mark`).
"""

from collections.abc import Generator, Iterator
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from bcached.state.buckets.gens import ahead, ahead_each, is_newer, next_gen
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX, INITIAL_PRIO, METADATA_PRIO

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
Sectors = npt.NDArray[np.unsignedinteger]  # 16 bits, or 32 where buckets are that large
Bools = npt.NDArray[np.bool_]
Buckets = npt.NDArray[np.int64]
Counts = npt.NDArray[np.integer[Any]]


class State(IntEnum):
    """What a bucket is used for. The order matters: from CLEAN on, a bucket may be invalidated."""

    RESERVED = 0  # in front of the first bucket: superblock
    JOURNAL = 1
    PRIO = 2
    BTREE = 3
    UUID = 4
    FREE = 5  # on a reserve, ready to be used
    FREE_INC = 6  # invalidated; waits for its gen to be durable
    UNUSED = 7  # no pointer into it is valid, even after a crash; needs no prio write
    OPEN = 8  # sectors are being cut from it
    HELD = 9  # closed, and connections hold sectors of it
    QUARANTINE = 10  # held by a closed connection, whose writes may still be in flight
    DIRTY = 11  # holds data that exists nowhere else
    CLEAN = 12  # holds cached data only
    EMPTY = 13  # holds nothing


# The moves of a bucket, in one step each: DESIGN.md section 5 draws them.
_CONTENT = {State.DIRTY, State.CLEAN, State.EMPTY}  # what follows from live sectors alone
_METADATA = {State.PRIO, State.BTREE, State.UUID}
LEGAL_MOVES: dict[State, set[State]] = {
    State.RESERVED: set(),
    State.JOURNAL: set(),
    State.PRIO: {State.EMPTY},  # freed; then retired like any empty bucket
    State.BTREE: {State.EMPTY},
    State.UUID: {State.EMPTY},
    State.FREE: _METADATA | {State.OPEN},
    State.FREE_INC: {State.FREE},
    State.UNUSED: {State.FREE},
    State.OPEN: _CONTENT | {State.HELD, State.QUARANTINE},
    State.HELD: _CONTENT | {State.QUARANTINE},
    State.QUARANTINE: _CONTENT | {State.HELD},
    State.DIRTY: {State.CLEAN, State.EMPTY, State.HELD},  # held: pinned by a reader
    State.CLEAN: {State.DIRTY, State.EMPTY, State.HELD, State.FREE_INC},
    # A set that is being opened begins with empty buckets, and finds out what they are.
    State.EMPTY: {
        *(State.RESERVED, State.JOURNAL, *_METADATA, State.DIRTY, State.CLEAN),
        *(State.FREE_INC, State.UNUSED, State.FREE, State.HELD),
    },
}
# The same as a bit mask of new states for each old one.
_MOVES = [sum(1 << new for new in LEGAL_MOVES[old]) for old in State]
_MAY_MOVE = np.array([[new in LEGAL_MOVES[old] for new in State] for old in State])

COUNT_BUCKETS = 1 << 20  # half a millisecond
NARROW_SECTORS_MAX = (1 << 15) - 1  # a bucket's sectors, counted twice for a moment, fit 16 bits

METADATA_STATES = (State.RESERVED, State.JOURNAL, State.PRIO, State.BTREE, State.UUID)


class Mark(IntEnum):
    """The kernel's gc mark (GC_MARK)."""

    NONE = 0
    RECLAIMABLE = 1
    DIRTY = 2
    METADATA = 3


class BucketTable:
    """The columns of one device's buckets: 15 bytes a bucket.

    It has many attributes since each column has two views, and many methods since one file changes states and
    gens: those of a single bucket, and those of many (`..._each`).
    """

    def __init__(
        self,
        bucket_count: int,
        first_bucket: int,
        gens: memoryview | None = None,
        bucket_sectors: int = NARROW_SECTORS_MAX,
    ) -> None:
        self.bucket_count = bucket_count
        self.first_bucket = first_bucket
        self.states = memoryview(bytearray([State.EMPTY]) * bucket_count)
        self.gens = memoryview(bytearray(bucket_count)) if gens is None else gens  # clients may map them
        self.gens_on_disk = memoryview(bytearray(bucket_count))  # in the last durable prio chain
        self.last_gc = memoryview(bytearray(bucket_count))  # oldest gen in the index, by the last collection
        self.prios = memoryview(bytearray(bucket_count * 2)).cast("H")  # see prio_aging.py
        narrow = bucket_sectors <= NARROW_SECTORS_MAX
        sectors_bytes = bucket_count * (2 if narrow else 4)
        # Sectors of live keys, and of those that are dirty.
        self.sectors = memoryview(bytearray(sectors_bytes)).cast("H" if narrow else "I")
        self.dirty_sectors = memoryview(bytearray(sectors_bytes)).cast("H" if narrow else "I")
        self.tainted = memoryview(bytearray(bucket_count))  # see is_tainted
        self.pins = memoryview(bytearray(bucket_count * 4)).cast("I")  # of open slots, pieces and readers
        assert len(self.gens) == bucket_count
        # The same memory for numpy.
        self.states_array: U8 = np.frombuffer(self.states, np.uint8)
        self.gens_array: U8 = np.frombuffer(self.gens, np.uint8)
        self.gens_on_disk_array: U8 = np.frombuffer(self.gens_on_disk, np.uint8)
        self.last_gc_array: U8 = np.frombuffer(self.last_gc, np.uint8)
        self.prios_array: U16 = np.frombuffer(self.prios, np.uint16)
        sectors_type = np.uint16 if narrow else np.uint32
        self.sectors_array: Sectors = np.frombuffer(self.sectors, sectors_type)
        self.dirty_sectors_array: Sectors = np.frombuffer(self.dirty_sectors, sectors_type)
        self.tainted_array: U8 = np.frombuffer(self.tainted, np.uint8)
        self.pins_array: U32 = np.frombuffer(self.pins, np.uint32)
        self.counts = [0] * len(State)  # buckets by state, updated by every move
        self.counts[State.EMPTY] = bucket_count
        self.sectors_total = 0  # the sums of both columns of sectors
        self.dirty_sectors_total = 0
        self.distance_index = 0  # largest gen - last_gc (kernel: need_gc)
        self.distance_disk = 0  # largest gen - gen on disk (old kernels: need_save_prio)
        for bucket in range(first_bucket):
            self.move(bucket, State.RESERVED)

    # One bucket

    def move(self, bucket: int, state: State) -> None:
        """Change a bucket's state; nothing else does for a single bucket."""
        before = self.states[bucket]
        assert _MOVES[before] >> state & 1, f"bucket {bucket} cannot be {state!r} after {State(before)!r}"
        self.counts[before] -= 1
        self.counts[state] += 1
        self.states[bucket] = state

    def may_bump(self, bucket: int) -> bool:
        """Whether the gen can go up: not too far ahead of the oldest in the index, nor of the disk's."""
        gen = self.gens[bucket]
        return (
            ahead(gen, self.last_gc[bucket]) < GEN_DISTANCE_MAX
            and ahead(gen, self.gens_on_disk[bucket]) < GEN_DISTANCE_MAX
        )

    def bump(self, bucket: int) -> int:
        """Raise a gen by one, which makes every pointer into the bucket stale (kernel: bch_inc_gen).

        Returns the new gen.
        """
        assert self.may_bump(bucket), f"bucket {bucket}: gen is too far ahead to be raised"
        gen = next_gen(self.gens[bucket])
        self._set_gen(bucket, gen)
        return gen

    def raise_gen(self, bucket: int, gen: int) -> bool:
        """Raise a gen to that of a pointer that is ahead of it; False if the pointer is stale or equal."""
        if not is_newer(gen, self.gens[bucket]):
            return False
        self._set_gen(bucket, gen)
        return True

    def _set_gen(self, bucket: int, gen: int) -> None:
        self.gens[bucket] = gen
        self.distance_index = max(self.distance_index, ahead(gen, self.last_gc[bucket]))
        self.distance_disk = max(self.distance_disk, ahead(gen, self.gens_on_disk[bucket]))

    def become_metadata(self, bucket: int, state: State) -> None:
        """Make a bucket just taken from a reserve a metadata bucket."""
        assert state in METADATA_STATES
        self.prios[bucket] = METADATA_PRIO
        self.tainted[bucket] = False
        self.move(bucket, state)

    def become_open(self, bucket: int) -> None:
        """Make a bucket just taken from a reserve an open one, with one pin for its slot."""
        assert self.pins[bucket] == 0, f"bucket {bucket} from a reserve has {self.pins[bucket]} pins"
        self.prios[bucket] = INITIAL_PRIO
        if not self.is_tainted(bucket):
            self.tainted[bucket] = False
        self.pins[bucket] = 1
        self.move(bucket, State.OPEN)

    def settle(self, bucket: int) -> State:
        """Set a data bucket's state by its pins and sectors; it is not open. Returns the new state."""
        state = State.HELD if self.pins[bucket] else self.content(bucket)
        if state != self.states[bucket]:
            self.move(bucket, state)
        return state

    def content(self, bucket: int) -> State:
        """The state that follows from the live sectors alone: DIRTY, CLEAN or EMPTY."""
        if self.dirty_sectors[bucket]:
            return State.DIRTY
        return State.CLEAN if self.sectors[bucket] else State.EMPTY

    def is_tainted(self, bucket: int) -> bool:
        """Whether a node on disk may name a freed bucket by a pointer that is current by its gen on disk.

        True if a key was added to the bucket (`tainted`) and the gen that went up when it was freed is not
        on disk yet. Once a prio write has covered that gen, all older pointers are stale after any crash.
        """
        return bool(self.tainted[bucket]) and self.gens_on_disk[bucket] != self.gens[bucket]

    def mark(self, bucket: int) -> Mark:
        """The kernel's gc mark of a bucket."""
        state = self.states[bucket]
        if state <= State.UUID:
            return Mark.METADATA
        if self.dirty_sectors[bucket]:
            return Mark.DIRTY
        return Mark.RECLAIMABLE if self.sectors[bucket] else Mark.NONE

    # Many buckets

    @property
    def reclaimable_count(self) -> int:
        """Buckets that could be invalidated, gens aside."""
        return self.counts[State.CLEAN] + self.counts[State.EMPTY]

    def may_invalidate(self, buckets: slice | Buckets) -> Bools:
        """Whether each of these buckets may be invalidated (kernel: bch_can_invalidate_bucket)."""
        may = self.is_reclaimable(buckets)
        may &= self.may_bump_each(buckets)
        return may

    def is_reclaimable(self, buckets: slice | Buckets) -> Bools:
        """Whether each of these buckets could be invalidated, gens aside."""
        return self.states_array[buckets] >= State.CLEAN  # from which a move to FREE_INC is legal

    def may_bump_each(self, buckets: slice | Buckets) -> Bools:
        """Whether the gen of each of these buckets can go up (see `may_bump`)."""
        gens = self.gens_array[buckets]
        distances = ahead_each(gens, self.last_gc_array[buckets])
        np.maximum(distances, ahead_each(gens, self.gens_on_disk_array[buckets]), out=distances)
        return distances < GEN_DISTANCE_MAX

    def is_tainted_each(self, buckets: Buckets) -> Bools:
        """Whether each of these freed buckets is tainted."""
        tainted: Bools = self.tainted_array[buckets] != 0
        tainted &= self.gens_on_disk_array[buckets] != self.gens_array[buckets]
        return tainted

    def in_state(self, state: State) -> Iterator[int]:
        """Yields the buckets in a state, scanning as far as the caller iterates."""
        for start in range(0, self.bucket_count, COUNT_BUCKETS):
            found = np.flatnonzero(self.states_array[start : start + COUNT_BUCKETS] == state)
            for bucket in found:
                yield start + int(bucket)

    def invalidate(self, buckets: Buckets) -> None:
        """Make all pointers into these distinct buckets stale, and move the buckets to FREE_INC."""
        states = self.states_array[buckets]
        assert bool(_MAY_MOVE[states, State.FREE_INC].all()), "a bucket that cannot be on free_inc"
        assert bool(self.may_bump_each(buckets).all()), "a gen that may not be raised"
        assert not self.pins_array[buckets].any(), "a pinned bucket is invalidated"
        clean = int(np.count_nonzero(states == State.CLEAN))
        self.counts[State.CLEAN] -= clean
        self.counts[State.EMPTY] -= len(buckets) - clean
        self.counts[State.FREE_INC] += len(buckets)
        self.states_array[buckets] = State.FREE_INC
        self.gens_array[buckets] += 1
        self.prios_array[buckets] = INITIAL_PRIO
        self.sectors_total -= int(self.sectors_array[buckets].sum())  # none of it is dirty
        self.sectors_array[buckets] = 0
        gens = self.gens_array[buckets]
        if len(buckets):
            self._note_distances(buckets, gens)

    def _note_distances(self, buckets: slice | Buckets, gens: U8) -> None:
        index = int(ahead_each(gens, self.last_gc_array[buckets]).max())
        disk = int(ahead_each(gens, self.gens_on_disk_array[buckets]).max())
        self.distance_index = max(self.distance_index, index)
        self.distance_disk = max(self.distance_disk, disk)

    def take_over(self, sectors: Counts, dirty_sectors: Counts, named: Bools) -> None:
        """Set the live sectors of all buckets; only empty buckets may have some.

        named: buckets that keys on disk reference by a pointer that is current by the gen on disk.
        """
        empty = self.states_array == State.EMPTY
        assert not sectors[~empty].any(), "live data in a bucket that is not empty"
        assert bool((dirty_sectors <= sectors).all())
        self.sectors_array[:] = sectors
        self.dirty_sectors_array[:] = dirty_sectors
        self.recount_sectors()
        self.tainted_array[:] = named & empty
        dirty = dirty_sectors > 0
        clean = (sectors > 0) & ~dirty
        for state, buckets in ((State.DIRTY, dirty), (State.CLEAN, clean)):
            count = int(np.count_nonzero(buckets))
            self.states_array[buckets] = state
            self.counts[state] += count
            self.counts[State.EMPTY] -= count

    def recount_sectors(self) -> None:
        """Recount the sums of live and dirty sectors, after the columns were set as a whole."""
        self.sectors_total = int(self.sectors_array.sum())
        self.dirty_sectors_total = int(self.dirty_sectors_array.sum())

    def replace_gens_on_disk(self, gens: bytearray) -> bytearray:
        """Install a snapshot as the gens on disk. Returns the buffer it replaces."""
        assert len(gens) == self.bucket_count
        before = self.gens_on_disk.obj
        assert isinstance(before, bytearray)
        self.gens_on_disk = memoryview(gens)
        self.gens_on_disk_array = np.frombuffer(gens, np.uint8)
        return before

    def recount_distances(self) -> Generator[None, None, None]:
        """Recount the largest gen distances, after the gens on disk or the oldest in the index changed."""
        self.distance_index = self.distance_disk = 0  # bumps during the count update them, too
        for start in range(0, self.bucket_count, COUNT_BUCKETS):
            chunk = slice(start, start + COUNT_BUCKETS)
            self._note_distances(chunk, self.gens_array[chunk])
            yield
