# SPDX-License-Identifier: GPL-2.0-only
"""The invariants of a set's buckets, as one check over all of them.

Run after every step in tests, on demand by the Verify method, and after every step of the daemon with
`verify = true`. It reads the whole table at one instant, which takes about 40 ms per million buckets.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from bcached.state.accounting.ownership import Ownership
from bcached.state.buckets.bucket_table import Counts, State
from bcached.state.buckets.gens import ahead_each
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX, METADATA_PRIO
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.reservations import Holder
from bcached.state.sectors.sector_allocator import SectorAllocator


def violations(
    allocator: SectorAllocator, holders: Iterable[Holder], metadata: list[dict[State, set[int]]]
) -> list[str]:
    """Returns the violations, one sentence each.

    holders are all there are, including those in quarantine. metadata has, for each member, the buckets
    that journal, uuid table and btree use.
    """
    ownership = Ownership(allocator, [*holders, *allocator.pending_holders])
    found = list(ownership.of_the_set())
    for member in allocator.members:
        name = f"member {member.device}"
        for check in (_counts, _lists, _durable, _gens, _contents, _emptied, _taint, ownership.of_a_member):
            found += [f"{name}: {text}" for text in check(member)]
        known = metadata[member.device] | {State.RESERVED: set(range(member.geometry.first_bucket))}
        found += [f"{name}: {text}" for text in _metadata(member, known)]
    return found


def content(member: MemberBuckets, sectors: Counts, dirty_sectors: Counts) -> Iterator[str]:
    """Violations in the live sectors of a member, compared with those counted from the keys of the index."""
    table = member.table
    columns = (
        ("sectors", table.sectors_array, sectors),
        ("dirty sectors", table.dirty_sectors_array, dirty_sectors),
    )
    for name, column, counted in columns:
        for bucket in np.flatnonzero(column != counted):
            found = f"{counted[bucket]} live {name} are in the index, but {column[bucket]} are counted"
            yield f"member {member.device}: bucket {bucket}: {found}"


def _in_state(member: MemberBuckets, state: State) -> set[int]:
    return set(np.flatnonzero(member.table.states_array == state).tolist())


def _counts(member: MemberBuckets) -> Iterator[str]:
    counted = np.bincount(member.table.states_array, minlength=len(State)).tolist()
    for state in State:
        if counted[state] != member.table.counts[state]:
            yield f"{counted[state]} buckets are {state.name}, but {member.table.counts[state]} are counted"


def _lists(member: MemberBuckets) -> Iterator[str]:
    """A bucket is in a list's state exactly if it is on that list, and is on it once."""
    geometry, reserves = member.geometry, member.reserves
    chain = member.prio_chains.current + member.prio_chains.writing
    lists = {
        State.FREE: [*reserves.for_data, *(bucket for buckets in reserves.lists for bucket in buckets)],
        State.FREE_INC: list(member.free_inc),
        State.UNUSED: [*member.unused.buckets, *member.unused.for_data],
        State.PRIO: chain + member.prio_chains.freeing,
    }
    for state, buckets in lists.items():
        if len(set(buckets)) != len(buckets):
            yield f"the list of {state.name} has a bucket twice"
        if set(buckets) != _in_state(member, state):
            yield f"the list of {state.name} and the buckets in that state differ"
    lengths = [(f"reserve {it.name}", reserves.count(it), reserves.capacities[it]) for it in Reserve]
    lengths.append(("free_inc", len(member.free_inc), geometry.free_inc_capacity))
    lengths.append(("the unused list", len(member.unused.buckets), geometry.unused_capacity))
    lengths.append(("the unused list for data", len(member.unused.for_data), geometry.unused_capacity))
    for name, length, capacity in lengths:
        if length > capacity:
            yield f"{name} holds {length} buckets, more than its {capacity}"
    if len(chain) % geometry.prio_bucket_count:
        yield f"prio chains hold {len(chain)} buckets, not a multiple of {geometry.prio_bucket_count}"


def _durable(member: MemberBuckets) -> Iterator[str]:
    """Buckets that may leave free_inc have durable gens."""
    if member.free_inc.awaiting_prios < 0:
        yield "more buckets of free_inc are ready than it holds"
    for index in range(min(member.free_inc.ready, len(member.free_inc))):
        bucket = member.free_inc.buckets[index]
        if member.synchronous and member.table.gens[bucket] != member.table.gens_on_disk[bucket]:
            yield f"bucket {bucket} is ready in free_inc, but its gen is not durable"


def _gens(member: MemberBuckets) -> Iterator[str]:
    table = member.table
    for name, against in (("index", table.last_gc_array), ("disk", table.gens_on_disk_array)):
        farthest = int(ahead_each(table.gens_array, against).max())
        if farthest > GEN_DISTANCE_MAX:
            yield f"a gen is {farthest} ahead of the {name}'s"


def _contents(member: MemberBuckets) -> Iterator[str]:
    """Only data buckets have live sectors, which give the state of those that are not held."""
    table = member.table
    states, sectors, dirty = table.states_array, table.sectors_array, table.dirty_sectors_array
    totals, sums = (table.sectors_total, table.dirty_sectors_total), (int(sectors.sum()), int(dirty.sum()))
    if totals != sums:
        yield f"live and dirty sectors are {sums} in all buckets, but {totals} in their totals"
    for bucket in np.flatnonzero((states < State.OPEN) & (sectors > 0)):
        yield f"bucket {bucket} is {State(states[bucket]).name}, but has {sectors[bucket]} sectors"
    for bucket in np.flatnonzero((sectors > member.geometry.bucket_sectors) | (dirty > sectors)):
        yield f"bucket {bucket} has {sectors[bucket]} sectors, {dirty[bucket]} of them dirty"
    expected = np.full(len(states), State.EMPTY, np.uint8)
    expected[sectors > 0] = State.CLEAN
    expected[dirty > 0] = State.DIRTY
    for bucket in np.flatnonzero((states >= State.DIRTY) & (states != expected)):
        found, name = State(states[bucket]).name, State(expected[bucket]).name
        yield f"bucket {bucket} is {found}, but by its sectors should be {name}"
    metadata = (states >= State.PRIO) & (states <= State.UUID)
    for bucket in np.flatnonzero(metadata & (table.prios_array != METADATA_PRIO)):
        yield f"bucket {bucket} is {State(states[bucket]).name}, but has the prio of data"


def _emptied(member: MemberBuckets) -> Iterator[str]:
    """Buckets that an entry emptied are still empty, and on no list."""
    table = member.table
    newest = 0
    for bucket, seq in member.emptied.items():
        state = State(table.states[bucket])
        if state < State.OPEN or table.sectors[bucket]:
            yield f"bucket {bucket} was emptied, but is {state.name} with {table.sectors[bucket]} sectors"
        if seq < newest:
            yield f"bucket {bucket} was emptied by entry {seq}, but is listed behind entry {newest}"
        newest = max(newest, seq)


def _taint(member: MemberBuckets) -> Iterator[str]:
    """Buckets that keys on disk may name are not used for metadata, nor ready for it."""
    if not member.synchronous:
        return
    table, reserves = member.table, member.reserves
    data = (table.states_array >= State.OPEN) & (table.sectors_array > 0)
    for bucket in np.flatnonzero(data & (table.tainted_array == 0)):
        yield f"bucket {bucket} has {table.sectors[bucket]} sectors, but is not tainted"
    metadata = (table.states_array <= State.UUID) & (table.tainted_array != 0)
    for bucket in np.flatnonzero(metadata):
        yield f"bucket {bucket} is {State(table.states[bucket]).name}, but tainted"
    lifted = len(member.unused.for_data) - member.unused.only_for_data
    lists = {
        "reserve PRIO": reserves.lists[Reserve.PRIO],
        "reserve BTREE": reserves.lists[Reserve.BTREE],
        "reserve NONE": reserves.lists[Reserve.NONE],
        "the unused list": [*member.unused.buckets, *islice(member.unused.for_data, lifted)],
    }
    for name, buckets in lists.items():
        for listed in buckets:
            if table.is_tainted(listed):
                yield f"bucket {listed} is tainted, but on {name}"


def _metadata(member: MemberBuckets, known: dict[State, set[int]]) -> Iterator[str]:
    for state, buckets in known.items():
        there = _in_state(member, state)
        if there != buckets:
            yield f"{state.name} buckets are {sorted(there)[:8]}, but {sorted(buckets)[:8]} are in use"
