"""One member device: its table, its lists, and every move of a bucket between them.

The life of a bucket, each arrow one method here:

    EMPTY, CLEAN --invalidate--> FREE_INC --prios durable--> (ready) --push--> FREE --take--> OPEN or metadata
    EMPTY --retire--> UNUSED ----------------------------------------push--> FREE
    OPEN --close--> HELD --last pin dropped--> EMPTY (or CLEAN), and retired at once if there is room
    metadata --free_metadata--> EMPTY, likewise

Rules of this file: a bucket's gen goes up once each time round, on the way to FREE_INC or to UNUSED. One
that went through FREE_INC is pushed only after that gen is durable. One that went through UNUSED may be
pushed at once: nothing on the device points into it, nor will after any crash.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable

import numpy as np

from bcached.format.superblock import Replacement
from bcached.state.bucket_table import BucketTable, State
from bcached.state.geometry import INITIAL_PRIO, Geometry
from bcached.state.replacement import POLICIES, Candidates, Search
from bcached.state.reserves import Reserve, Reserves

INVALIDATED_BUCKETS = 2048  # at once, scattered: up to a millisecond
FREED_BUCKETS = 512  # at once, one after the other: a millisecond


class Cache:
    """Buckets of one member and the lists they are on.

    clock gives seconds; seed makes the random policy repeatable.
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
        self.synchronous = synchronous
        self.device = device
        self.table = BucketTable(geometry.bucket_count, geometry.first_bucket, gens)
        self.reserves = Reserves(geometry, clock)
        self.free_inc: deque[int] = deque()
        self._pushed = 0  # buckets that ever left free_inc
        self._durable_through = 0  # which of all that ever entered it have durable gens
        self.unused: deque[int] = deque()
        self.prio_chain: list[int] = []  # the chain the journal points to
        self.prio_chain_writing: list[int] = []  # the one that is being written
        self.prio_chain_before: list[int] = []  # what is left of the one before, which is being freed
        self.oldest_prio = 0  # smallest prio of this member at the last aging
        # Whether the last pass could not fill free_inc, and what the world looked like then.
        self.dry = False
        self.held_back = 0
        self.reclaims = 0  # counts whatever may let a later pass find more: pins and keys dropped
        self.invalidated = dict.fromkeys(Replacement, 0)
        self.discarded = 0
        self.prio_writes = 0
        self._cursor = geometry.first_bucket
        self._rng = np.random.default_rng(seed)
        # Where the next snapshot of the gens goes: memory that is there already is copied to twice as fast.
        self._spare_gens: bytearray | None = bytearray(self.table.gens)

    # From the data to the lists

    def search(self, policy: Replacement, min_prio: int) -> Generator[None, None, Candidates]:
        """Run a policy for as many buckets as free_inc has room for."""
        return POLICIES[policy](
            self.table,
            Search(self.free_inc_room, self.geometry.heap_size, min_prio, self._cursor, self._rng),
        )

    def invalidate(self, policy: Replacement, found: Candidates) -> Generator[None, None, int]:
        """Move what may still be invalidated to free_inc, and note whether that filled it; how many."""
        self._cursor = found.cursor
        room = missing = self.free_inc_room
        for start in range(0, len(found.buckets), INVALIDATED_BUCKETS):
            buckets = found.buckets[start : start + INVALIDATED_BUCKETS]
            buckets = buckets[self.table.may_invalidate(buckets)][:missing]
            self.table.invalidate(buckets)
            self.free_inc.extend(buckets.tolist())
            missing -= len(buckets)
            if not missing:
                break
            yield
        self.invalidated[policy] += room - missing
        self.dry = missing > 0
        self.held_back = found.held_back
        return room - missing

    def retire(self, bucket: int) -> bool:
        """Put an empty bucket on the unused list, if there is room and its gen may go up."""
        table = self.table
        assert table.states[bucket] == State.EMPTY, f"bucket {bucket} is not empty"
        if len(self.unused) >= self.geometry.unused_capacity or not table.may_bump(bucket):
            return False
        table.bump(bucket)
        table.prios[bucket] = INITIAL_PRIO
        table.move(bucket, State.UNUSED)
        self.unused.append(bucket)
        return True

    def settle(self, bucket: int) -> None:
        """Say where a bucket stands that is not open (any more); retire it at once if it is empty."""
        state = self.table.settle(bucket)
        if state == State.HELD:
            return
        self.reclaims += 1
        if state == State.EMPTY:
            self.retire(bucket)

    def free_metadata(self, buckets: Iterable[int]) -> None:
        """Let go of metadata buckets that nothing durable points to any more (seed: bch_bucket_free)."""
        for bucket in buckets:
            assert State.PRIO <= self.table.states[bucket] <= State.UUID
            self.table.move(bucket, State.EMPTY)
            self.settle(bucket)

    # From the lists to the reserves

    @property
    def free_inc_room(self) -> int:
        """How many more buckets free_inc takes."""
        return self.geometry.free_inc_capacity - len(self.free_inc)

    @property
    def free_inc_ready(self) -> int:
        """Buckets at the head of free_inc whose gens are durable."""
        return max(self._durable_through - self._pushed, 0)

    def need_no_prios(self) -> None:
        """Take all of free_inc as ready: in a set that is not synchronous nothing has to be durable."""
        self._durable_through = self._pushed + len(self.free_inc)

    @property
    def awaiting_prios(self) -> int:
        """Buckets of free_inc whose gens are not durable yet."""
        return len(self.free_inc) - self.free_inc_ready

    @property
    def ready(self) -> int:
        """Buckets that could go to the reserves now."""
        return len(self.unused) + self.free_inc_ready

    def next_batch(self, limit: int) -> list[int]:
        """The buckets that go to the reserves next, unused ones first; they stay on their lists for now."""
        count = min(limit, self.reserves.room(), self.ready)
        batch = [self.unused[index] for index in range(min(count, len(self.unused)))]
        return batch + [self.free_inc[index] for index in range(count - len(batch))]

    def push(self, batch: list[int]) -> int:
        """Move a batch from its lists to the reserves as far as there is room; how many."""
        pushed = 0
        for bucket in batch:
            if not self.reserves.room():
                break
            if self.unused and self.unused[0] == bucket:
                self.unused.popleft()
            else:
                assert self.free_inc_ready > 0, "a bucket left free_inc before its gen was durable"
                assert self.free_inc[0] == bucket
                self.free_inc.popleft()
                self._pushed += 1
            self.table.move(bucket, State.FREE)
            self.reserves.push(bucket)
            pushed += 1
        return pushed

    def seed_reserves(self, reserves: tuple[Reserve, ...]) -> list[int]:
        """Fill reserves with the first empty buckets, as the kernel does after its first marking.

        Safe without a prio write since nothing points into an empty bucket; the gen still goes up, so that
        no pointer made from now on can be taken for an older one.
        """
        table = self.table
        empty = table.in_state(State.EMPTY)
        seeded: list[int] = []
        for reserve in reserves:
            missing = self.reserves.room_in(reserve)
            while missing:
                bucket = next(empty, None)
                if bucket is None:
                    return seeded
                if not table.may_bump(bucket):
                    continue
                table.bump(bucket)
                table.prios[bucket] = INITIAL_PRIO
                table.move(bucket, State.FREE)
                self.reserves.push_to(reserve, bucket)
                seeded.append(bucket)
                missing -= 1
        return seeded

    # From the reserves to whoever needs one

    def take_data(self, reserve: Reserve) -> int | None:
        """A bucket for data, open and pinned once (seed: bch_bucket_alloc)."""
        bucket = self.reserves.take(reserve)
        if bucket is not None:
            self.table.become_open(bucket)
        return bucket

    def take_metadata(self, state: State) -> int | None:
        """A bucket for a btree node or the uuid table."""
        bucket = self.reserves.take(Reserve.BTREE)
        if bucket is not None:
            self.table.become_metadata(bucket, state)
        return bucket

    @property
    def has_prio_chain(self) -> bool:
        """Whether the reserves hold a whole chain of buckets for a prio write."""
        return self.reserves.available(Reserve.PRIO) >= self.geometry.prio_bucket_count

    def take_prio_chain(self) -> list[int]:
        """All buckets of the next prio write at once; the reserves must hold them.

        Kernel: bch_prio_write allocates one by one, and waits in between for the thread it runs in.
        """
        assert self.has_prio_chain, "the prio writer never waits for a bucket"
        assert not self.prio_chain_writing
        for _ in range(self.geometry.prio_bucket_count):
            bucket = self.reserves.take(Reserve.PRIO)
            assert bucket is not None
            self.table.become_metadata(bucket, State.PRIO)
            self.prio_chain_writing.append(bucket)
        return self.prio_chain_writing

    # Prios written

    def snapshot_gens(self) -> tuple[bytearray, int]:
        """All gens at this instant, and how many buckets that ever entered free_inc they cover."""
        gens, self._spare_gens = self._spare_gens, None
        assert gens is not None, "a prio write is under way"
        memoryview(gens)[:] = self.table.gens
        return gens, self._pushed + len(self.free_inc)

    def gens_became_durable(self, gens: bytearray, through: int) -> Generator[None, None, None]:
        """Take note of a finished prio write: free_inc is ready that far, and the chain before is free."""
        self._spare_gens = self.table.replace_gens_on_disk(gens)
        self._durable_through = max(self._durable_through, through)
        self.prio_chain_before, self.prio_chain = self.prio_chain, self.prio_chain_writing
        self.prio_chain_writing = []
        self.prio_writes += 1
        while self.prio_chain_before:
            freed = self.prio_chain_before[:FREED_BUCKETS]
            del self.prio_chain_before[:FREED_BUCKETS]
            self.free_metadata(freed)
            yield
        yield from self.table.recount_distances()
