"""Everything that must always be true of a set's buckets, as one check over all of it.

Run after every step in tests, on demand by the Verify method, and after every step of the daemon if the
configuration says so. It reads the whole table at one instant, about 40 ms a million buckets.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from bcached.state.bucket_table import State
from bcached.state.cache import Cache
from bcached.state.geometry import GEN_DISTANCE_MAX, METADATA_PRIO
from bcached.state.holdings import Holdings
from bcached.state.reservations import Holder
from bcached.state.reserves import Reserve
from bcached.state.sector_allocator import SectorAllocator

WITHOUT_DATA = (State.FREE, State.FREE_INC, State.UNUSED, State.EMPTY)


def violations(
    allocator: SectorAllocator, holders: Iterable[Holder], metadata: list[dict[State, set[int]]]
) -> list[str]:
    """What is wrong, one sentence each; empty if nothing is.

    holders are all there are, those in quarantine too. metadata tells, for each member, which buckets
    journal, uuid table and btree are known to use.
    """
    holdings = Holdings(allocator, [*holders, *allocator.gathering])
    found = list(holdings.of_the_set())
    for cache in allocator.caches:
        name = f"member {cache.device}"
        for check in (_counts, _lists, _durable, _gens, _contents, holdings.of_a_member):
            found += [f"{name}: {text}" for text in check(cache)]
        known = metadata[cache.device] | {State.RESERVED: set(range(cache.geometry.first_bucket))}
        found += [f"{name}: {text}" for text in _metadata(cache, known)]
    return found


def _in_state(cache: Cache, state: State) -> set[int]:
    return set(np.flatnonzero(cache.table.states_array == state).tolist())


def _counts(cache: Cache) -> Iterator[str]:
    counted = np.bincount(cache.table.states_array, minlength=len(State)).tolist()
    for state in State:
        if counted[state] != cache.table.counts[state]:
            yield f"{counted[state]} buckets are {state.name}, but {cache.table.counts[state]} are counted"


def _lists(cache: Cache) -> Iterator[str]:
    """Every bucket on a list is in the list's state, on one list, once; and the other way round."""
    geometry, reserves = cache.geometry, cache.reserves
    chain = cache.prio_chain + cache.prio_chain_writing
    lists = {
        State.FREE: [bucket for buckets in reserves.lists for bucket in buckets],
        State.FREE_INC: list(cache.free_inc),
        State.UNUSED: list(cache.unused),
        State.PRIO: chain + cache.prio_chain_before,
    }
    for state, buckets in lists.items():
        if len(set(buckets)) != len(buckets):
            yield f"a bucket is twice on the list of {state.name}"
        if set(buckets) != _in_state(cache, state):
            yield f"the list of {state.name} and the buckets in that state differ"
    lengths = [(f"reserve {it.name}", len(reserves.lists[it]), reserves.capacities[it]) for it in Reserve]
    lengths.append(("free_inc", len(cache.free_inc), geometry.free_inc_capacity))
    lengths.append(("the unused list", len(cache.unused), geometry.unused_capacity))
    for name, length, capacity in lengths:
        if length > capacity:
            yield f"{name} holds {length} buckets, more than its {capacity}"
    if len(chain) % geometry.prio_bucket_count:
        yield f"prio chains hold {len(chain)} buckets, no multiple of {geometry.prio_bucket_count}"


def _durable(cache: Cache) -> Iterator[str]:
    """What may leave free_inc carries a gen that is durable."""
    if cache.awaiting_prios < 0:
        yield "more of free_inc is ready than there is"
    for index in range(min(cache.free_inc_ready, len(cache.free_inc))):
        bucket = cache.free_inc[index]
        if cache.synchronous and cache.table.gens[bucket] != cache.table.gens_on_disk[bucket]:
            yield f"bucket {bucket} is ready in free_inc, but its gen is not durable"


def _gens(cache: Cache) -> Iterator[str]:
    table = cache.table
    for name, against in (("index", table.last_gc_array), ("disk", table.gens_on_disk_array)):
        farthest = int((table.gens_array - against).max())
        if farthest > GEN_DISTANCE_MAX:
            yield f"a gen is {farthest} ahead of the {name}'s"


def _contents(cache: Cache) -> Iterator[str]:
    table = cache.table
    for bucket in np.flatnonzero(np.isin(table.states_array, WITHOUT_DATA) & (table.sectors_array > 0)):
        name, sectors = State(table.states[bucket]).name, table.sectors[bucket]
        yield f"bucket {bucket} is {name}, but has {sectors} sectors"
    for bucket in np.flatnonzero((table.states_array == State.CLEAN) & (table.sectors_array == 0)):
        yield f"bucket {bucket} is CLEAN, but has no sectors"
    metadata = (table.states_array >= State.PRIO) & (table.states_array <= State.UUID)
    for bucket in np.flatnonzero(metadata & (table.prios_array != METADATA_PRIO)):
        yield f"bucket {bucket} is {State(table.states[bucket]).name}, but has the prio of data"


def _metadata(cache: Cache, known: dict[State, set[int]]) -> Iterator[str]:
    for state, buckets in known.items():
        there = _in_state(cache, state)
        if there != buckets:
            yield f"{state.name} buckets are {sorted(there)[:8]}, but {sorted(buckets)[:8]} are in use"
