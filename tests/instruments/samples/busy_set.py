# SPDX-License-Identifier: GPL-2.0-only
"""A set of two members in which everything happens at once: what the invariants have to look at."""

from bcached.keys import Key
from bcached.state.accounting.invariants import violations
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.pending_allocations import ExtentAllocation
from bcached.state.sectors.reservations import ExtentRequest, Holder
from instruments.samples.bucket_states import force_state
from instruments.samples.small_member import (
    GEOMETRY,
    a_member,
    an_allocator,
    fill_reserves,
    invalidate,
    metadata_of,
    run,
    use,
    write_prios,
)


class BusySet:
    """Open, held and quarantined buckets, a request that waits, lists with something on each of them.

    On member 0: `open_bucket`, of which `first` and `second` hold a part each; `held_bucket`, all of it
    first's; `quarantined_bucket`, all of it `broken`'s. Both members have uuids, cached and dirty data.
    """

    def __init__(self) -> None:
        self.members = [a_member(GEOMETRY, 0), a_member(GEOMETRY, 1)]
        self.allocator = an_allocator(*self.members)
        self.first, self.second, self.broken = (
            Holder(name, 100, GEOMETRY) for name in ("first", "second", "broken")
        )
        self.metadata = [metadata_of(buckets) for buckets in self.members]
        for buckets in self.members:
            self._furnish(buckets)
        self.open_bucket = self._bucket(self.carve(self.first, 0, 4))
        self.carve(self.second, 4, 4)
        self.held_bucket = self._bucket(self.carve(self.first, 1000, 16, 6))
        self.quarantined_bucket = self._bucket(self.carve(self.broken, 2000, 16, 7))
        run(self.allocator.quarantine(self.broken))
        self.waiting = ExtentAllocation(self.allocator, self.first, [ExtentRequest(2, 0, 64, 8, whole=True)])
        self.fill()
        assert self.waiting.advance() is None
        self.buckets = self.members[0]
        self.bucket = 0  # the one a test is about
        self._prepare_lists(self.buckets)

    def _furnish(self, buckets: MemberBuckets) -> None:
        use(buckets, 300, sectors=5, dirty=False)
        use(buckets, 301, sectors=3)
        uuids = buckets.take_metadata(State.UUID)
        assert uuids is not None
        self.metadata[buckets.device][State.UUID].add(uuids)

    def _prepare_lists(self, buckets: MemberBuckets) -> None:
        """Two ready and two that await their gens on free_inc, something unused, a prio write under way."""
        fill_reserves(buckets)
        invalidate(buckets)
        while len(buckets.free_inc) > 2:
            force_state(buckets.table, buckets.free_inc.buckets.pop(), State.EMPTY)
        write_prios(buckets)
        invalidate(buckets)
        buckets.retire(400)

    def fill(self) -> None:
        for buckets in self.members:
            fill_reserves(buckets)

    def carve(self, holder: Holder, offset: int, sectors: int, write_point: int = 5) -> Key:
        """A key on member 0."""
        self.fill()
        device_1 = self.members[1].reserves.lists[Reserve.NONE]
        aside = list(device_1)
        device_1.clear()
        key = self.allocator.carve(holder, 0, offset, sectors, write_point)
        device_1.extend(aside)
        assert key is not None
        return key

    def _bucket(self, key: Key) -> int:
        return GEOMETRY.bucket_of(key.pointers[0].sector)

    def violations(self) -> list[str]:
        return violations(self.allocator, [self.first, self.second, self.broken], self.metadata)
