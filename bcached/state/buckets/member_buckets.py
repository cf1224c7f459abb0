# SPDX-License-Identifier: GPL-2.0-only
"""One member device: its table, its lists, and every move of a bucket between them.

The life of a bucket, each arrow one method here:

    EMPTY, CLEAN --invalidate--> FREE_INC --prios durable--> (ready) --push--> FREE --take--> OPEN or metadata
    EMPTY --retire--> UNUSED ----------------------------------------push--> FREE
    OPEN --close--> HELD --last pin dropped--> DIRTY, CLEAN or EMPTY, which is retired at once if it may be
    CLEAN, DIRTY --pinned by a reader--> HELD, and back
    EMPTY --add_live--> CLEAN, DIRTY --remove_live--> EMPTY, retired when that is durable
    metadata --free_metadata--> EMPTY, likewise

Rules of this file: a bucket's gen goes up once per cycle, on the way to FREE_INC or to UNUSED. A bucket from
FREE_INC is pushed only after that gen is durable. A bucket from UNUSED may be pushed at once: the removal of
all pointers into it is durable. But nodes on the device may still hold such pointers, which only the journal
deletes. That does no harm to data, while the kernel refuses a set in which a bucket is referenced as a node
and, by a leaf not merged with the journal yet, as data. So a tainted bucket (bucket_table.py) serves only as
data until a prio write has covered its gen.
"""

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable
from itertools import islice

from bcached.set_state import Replacement
from bcached.state.buckets.bucket_table import U16, BucketTable, State
from bcached.state.buckets.free_inc import FreeInc
from bcached.state.buckets.geometry import INITIAL_PRIO, Geometry
from bcached.state.buckets.prio_chains import PrioChains
from bcached.state.buckets.replacement import Candidates, make_policies
from bcached.state.buckets.reserves import Reserve, Reserves
from bcached.state.buckets.unused_list import UnusedList
from bcached.tracepoints import OFF

INVALIDATED_BUCKETS = 2048  # per slice, scattered: up to a millisecond
FREED_BUCKETS = 512  # per slice, one by one: a millisecond


class MemberBuckets:
    """Buckets of one member and the lists they are on (kernel: struct cache).

    It has more public methods than most classes since each is an arrow of the drawing above, and all of them
    change several lists and the table together. clock gives seconds; seed makes the policies repeatable.
    """

    def __init__(
        self,
        geometry: Geometry,
        device: int,
        *,
        gens: memoryview | None = None,
        clock: Callable[[], float] = lambda: 0.0,
        seed: int | None = None,
        synchronous: bool = True,
    ) -> None:
        self.geometry = geometry
        self.synchronous = synchronous  # the set survives crashes; otherwise nothing has to be durable
        self.device = device  # number of the member
        self.table = BucketTable(geometry.bucket_count, geometry.first_bucket, gens, geometry.bucket_sectors)
        self.reserves = Reserves(geometry, clock)
        self.free_inc = FreeInc(geometry.free_inc_capacity)
        self.unused = UnusedList(geometry.unused_capacity)
        self.prio_chains = PrioChains(self.table)
        self.policies = make_policies(self.table, geometry.heap_size, seed)
        self.emptied: OrderedDict[int, int] = OrderedDict()  # seq of the emptying entry, oldest first
        self._emptying_durable = 0  # seq of the newest durable entry
        self.oldest_prio = 0  # smallest prio of this member at the last aging
        self.invalidate_needs_gc = False  # the last pass could not fill free_inc
        self.held_back = 0  # buckets that pass skipped for their gens
        self.reclaims = 0  # pins and keys dropped: a later pass may find more
        self.dirty_changes = 0  # changes of dirty data: a later evacuation may find more
        self._fruitless: tuple[int, int] | None = None  # evacuation_finds() of one that gained nothing
        self.invalidated = dict.fromkeys(Replacement, 0)  # buckets by policy, since the start
        self.discarded = 0  # buckets, since the start
        self.trace = OFF
        self.on_evicted: Callable[[U16], None] = lambda _: None  # called with the prios of buckets with data

    def __repr__(self) -> str:
        counts = ", ".join(f"{state.name} {self.table.counts[state]}" for state in State)
        return (
            f"<MemberBuckets {self.device}: {counts}; {self.free_inc!r}, {self.unused!r}, {self.reserves!r}>"
        )

    # From the data to the lists

    def search(self, policy: Replacement, min_prio: int) -> Generator[None, None, Candidates]:
        """Run a policy for as many buckets as free_inc has space for."""
        return self.policies[policy].search(self.free_inc.space, min_prio)

    def invalidate(self, policy: Replacement, found: Candidates) -> Generator[None, None, int]:
        """Move candidates that may still be invalidated to free_inc; record whether that filled it.

        Returns how many were moved.
        """
        space = missing = self.free_inc.space
        for start in range(0, len(found.buckets), INVALIDATED_BUCKETS):
            buckets = found.buckets[start : start + INVALIDATED_BUCKETS]
            buckets = buckets[self.table.may_invalidate(buckets)][:missing]
            self.on_evicted(self.table.prios_array[buckets[self.table.sectors_array[buckets] > 0]])
            if self.trace.listeners:
                self._trace_invalidation(buckets.tolist())
            self.table.invalidate(buckets)
            self.free_inc.extend(buckets.tolist())
            if self.emptied:  # the prio write's journal entry is newer than those that emptied them
                for bucket in buckets.tolist():
                    self.emptied.pop(bucket, None)
            missing -= len(buckets)
            if not missing:
                break
            yield
        self.invalidated[policy] += space - missing
        self.invalidate_needs_gc = missing > 0
        self.held_back = found.held_back
        return space - missing

    def _trace_invalidation(self, buckets: list[int]) -> None:
        for bucket in buckets:
            sector, sectors = self.geometry.sector_of(bucket), self.table.sectors[bucket]
            self.trace.emit("bcache_invalidate", device=self.device, sector=sector, sectors=sectors)

    def retire(self, bucket: int) -> bool:
        """Put an empty bucket on the unused list. Returns whether that was possible.

        Its emptying must be durable, its gen free to go up, and the list not full. Tainted buckets have a
        list of their own, so that they cannot keep out those that the next prio write needs.
        """
        table = self.table
        assert table.states[bucket] == State.EMPTY, f"bucket {bucket} is not empty"
        for_data = self.synchronous and bool(table.tainted[bucket])
        if self.unused.is_full(for_data=for_data) or not table.may_bump(bucket):
            return False
        if self.emptied:
            if self.emptied.get(bucket, 0) > self._emptying_durable:
                return False
            self.emptied.pop(bucket, None)
        table.bump(bucket)
        table.prios[bucket] = INITIAL_PRIO
        table.move(bucket, State.UNUSED)
        self.unused.append(bucket, for_data=for_data)
        return True

    def settle(self, bucket: int) -> None:
        """Set the state of a bucket that is not (or no longer) open; retire it at once if it is empty."""
        state = self.table.settle(bucket)
        if state == State.HELD:
            return
        if state == State.DIRTY:
            self.dirty_changes += 1
        else:
            self.reclaims += 1
        if state == State.EMPTY:
            self.retire(bucket)

    def free_metadata(self, buckets: Iterable[int]) -> None:
        """Free metadata buckets that nothing durable references any more (kernel: bch_bucket_free)."""
        for bucket in buckets:
            assert State.PRIO <= self.table.states[bucket] <= State.UUID
            self.table.move(bucket, State.EMPTY)
            self.settle(bucket)

    # Live data

    def add_live(self, bucket: int, sectors: int, dirty: bool) -> None:
        """Count live data of a key of the bucket's gen into the bucket."""
        table = self.table
        state = table.states[bucket]
        assert state >= State.OPEN, f"live data for bucket {bucket}, which is {State(state).name}"
        table.sectors[bucket] += sectors
        table.sectors_total += sectors
        if dirty:
            table.dirty_sectors[bucket] += sectors
            table.dirty_sectors_total += sectors
        table.tainted[bucket] = True
        if self.emptied:
            self.emptied.pop(bucket, None)
        if state >= State.DIRTY:
            content = table.content(bucket)
            if content != state:
                table.move(bucket, content)

    def remove_live(self, bucket: int, sectors: int, dirty: bool, seq: int) -> None:
        """Count live data out of a bucket; seq is the journal entry that removed it.

        An emptied bucket is not retired before that entry is durable (`emptying_durable`): the same change
        may also add data again.
        """
        table = self.table
        left = table.sectors[bucket] - sectors
        assert left >= 0, f"bucket {bucket}: {sectors} sectors removed of {table.sectors[bucket]}"
        if dirty:
            table.dirty_sectors[bucket] -= sectors
            table.dirty_sectors_total -= sectors
            self.dirty_changes += 1
        assert left >= table.dirty_sectors[bucket], f"bucket {bucket}: dirty data removed as clean"
        table.sectors[bucket] = left
        table.sectors_total -= sectors
        if not left and self.synchronous:
            self.emptied[bucket] = seq  # at the end: add_live removed the older item
        state = table.states[bucket]
        if state >= State.DIRTY:
            content = table.content(bucket)
            if content != state:
                table.move(bucket, content)
                self.reclaims += 1

    def emptying_durable(self, seq: int) -> int:
        """Retire buckets emptied by entries through seq, which are durable. Returns how many were retired.

        At most FREED_BUCKETS per call: the rest goes with the next call, or is invalidated before.
        """
        self._emptying_durable = max(self._emptying_durable, seq)
        emptied, states = self.emptied, self.table.states
        retired = 0
        for _ in range(min(len(emptied), FREED_BUCKETS)):
            bucket, emptied_by = next(iter(emptied.items()))
            if emptied_by > self._emptying_durable:
                break
            del emptied[bucket]
            if states[bucket] == State.EMPTY:
                retired += self.retire(bucket)
        return retired

    # Dirty data moved together (evacuation.py)

    @property
    def may_be_evacuated(self) -> bool:
        """Whether there is dirty data, and something changed since an evacuation gained nothing."""
        return self.table.counts[State.DIRTY] > 0 and self._fruitless != self.evacuation_finds()

    def evacuation_finds(self) -> tuple[int, int]:
        """The counters that an evacuation depends on: reclaims, and dirty data removed or no longer held."""
        return self.reclaims, self.dirty_changes

    def evacuation_was_fruitless(self, found: tuple[int, int]) -> None:
        """Request no evacuation until `evacuation_finds` differs from found."""
        self._fruitless = found

    # From the lists to the reserves

    @property
    def ready(self) -> int:
        """Buckets that could go to the reserves now, if those have space."""
        return len(self.unused.buckets) + self._ready_for_data + self.free_inc.ready

    @property
    def _ready_for_data(self) -> int:
        """Buckets of the unused list for data that could."""
        return self.unused.ready_for_data(self.reserves.data_room) if self.unused.for_data else 0

    def next_batch(self, limit: int) -> list[int]:
        """The buckets to push next, unused ones first, which stay on their lists until `push`."""
        count = min(limit, self.reserves.room(), self.ready)
        batch = list(islice(self.unused.buckets, count))
        batch += islice(self.unused.for_data, min(count - len(batch), self._ready_for_data))
        return batch + list(islice(self.free_inc, min(count - len(batch), self.free_inc.ready)))

    def push(self, batch: list[int]) -> int:
        """Move a batch from its lists to the reserves until those are full. Returns how many were moved.

        A bucket comes from 1. the unused list, 2. the unused list for data, and if it is tainted it goes to a
        reserve for data only, or 3. free_inc: its gen is durable, so no pointer from before is current.
        """
        unused = self.unused
        for pushed, bucket in enumerate(batch):
            if not self.reserves.room():
                return pushed
            for_data = False
            if unused.buckets and unused.buckets[0] == bucket:
                unused.pop(bucket)
            elif unused.for_data and unused.for_data[0] == bucket:
                for_data = unused.is_head_tainted
                if for_data and not self.reserves.data_room:
                    return pushed
                unused.pop_for_data(bucket)
            else:
                self.free_inc.pop(bucket)
                self.table.tainted[bucket] = False
            self.table.move(bucket, State.FREE)
            self.reserves.push(bucket, for_data=for_data)
        return len(batch)

    def initial_fill(self, reserves: tuple[Reserve, ...]) -> list[int]:
        """Fill reserves with the first empty buckets, as the kernel does after its first marking.

        Safe without a prio write since nothing points into an empty bucket; the gen still goes up, so that
        no new pointer can be taken for an older one. Tainted buckets are left to the allocator task.
        """
        table = self.table
        empty = table.in_state(State.EMPTY)
        filled: list[int] = []
        for reserve in reserves:
            missing = self.reserves.room_in(reserve)
            while missing:
                bucket = next(empty, None)
                if bucket is None:
                    return filled
                if (
                    (self.synchronous and table.tainted[bucket])
                    or bucket in self.emptied
                    or not table.may_bump(bucket)
                ):
                    continue
                table.bump(bucket)
                table.prios[bucket] = INITIAL_PRIO
                table.move(bucket, State.FREE)
                self.reserves.push_to(reserve, bucket)
                filled.append(bucket)
                missing -= 1
        return filled

    # From the reserves to their users

    def take_data(self, reserve: Reserve) -> int | None:
        """Take a bucket for data, open and pinned once (kernel: bch_bucket_alloc); None if there is none."""
        bucket = self.reserves.take(reserve)
        if bucket is not None:
            self.table.become_open(bucket)
            if self.trace.listeners:
                self._trace_alloc(bucket, reserve)
        return bucket

    def _trace_alloc(self, bucket: int, reserve: Reserve) -> None:
        sector = self.geometry.sector_of(bucket)
        self.trace.emit("bcache_alloc", device=self.device, sector=sector, reserve=reserve.name.lower())

    def take_metadata(self, state: State) -> int | None:
        """Take a bucket for a btree node or the uuid table; None if there is none."""
        bucket = self.reserves.take(Reserve.BTREE)
        if bucket is not None:
            self._become_metadata(bucket, state)
            if self.trace.listeners:
                self._trace_alloc(bucket, Reserve.BTREE)
        return bucket

    @property
    def has_prio_chain(self) -> bool:
        """Whether the reserves hold a whole chain of buckets for a prio write."""
        return self.reserves.available(Reserve.PRIO) >= self.geometry.prio_bucket_count

    def take_prio_chain(self) -> list[int]:
        """Take all buckets of the next prio write at once; the reserves must hold them.

        Kernel: bch_prio_write allocates one by one, and in between waits for the thread it runs in.
        """
        assert self.has_prio_chain, "the prio reserve does not hold a whole chain"
        writing = self.prio_chains.writing
        assert not writing, "a prio write is in progress already"
        for _ in range(self.geometry.prio_bucket_count):
            bucket = self.reserves.take(Reserve.PRIO)
            assert bucket is not None
            self._become_metadata(bucket, State.PRIO)
            if self.trace.listeners:
                self._trace_alloc(bucket, Reserve.PRIO)
            writing.append(bucket)
        return writing

    def _become_metadata(self, bucket: int, state: State) -> None:
        tainted = self.synchronous and self.table.is_tainted(bucket)
        assert not tainted, f"bucket {bucket} taken for metadata, but keys on disk may reference it"
        self.table.become_metadata(bucket, state)

    # Prios written

    def snapshot_gens(self) -> tuple[bytearray, int]:
        """Returns a copy of all gens, and how many of the buckets that ever entered free_inc it covers."""
        return self.prio_chains.snapshot(), self.free_inc.entered

    def gens_became_durable(self, gens: bytearray, through: int) -> Generator[None, None, None]:
        """Record a finished prio write: free_inc is ready up to `through`; the previous chain is freed."""
        self.prio_chains.became_durable(gens)
        self.free_inc.gens_became_durable(through)
        self.reserves.lift(self.table.is_tainted)
        self.unused.lift(self.table)
        before = self.prio_chains.freeing
        while before:
            freed = before[:FREED_BUCKETS]
            del before[:FREED_BUCKETS]
            self.free_metadata(freed)
            yield
        yield from self.table.recount_distances()
