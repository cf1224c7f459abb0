"""Everything that must always be true of a set's buckets, as one check over all of it.

Run after every step in tests, on demand by the Verify method, and after every step of the daemon if the
configuration says so. It reads the whole table at one instant, about 40 ms a million buckets.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from bcached.state.bucket_table import State
from bcached.state.cache import Cache
from bcached.state.geometry import GEN_DISTANCE_MAX, METADATA_PRIO
from bcached.state.reservations import Holder
from bcached.state.reserves import Reserve
from bcached.state.sector_allocator import SectorAllocator


def violations(
    allocator: SectorAllocator, holders: Iterable[Holder], metadata: list[dict[State, set[int]]]
) -> list[str]:
    """What is wrong, one sentence each; empty if nothing is.

    metadata tells, for each member, which buckets journal, uuid table and btree are known to use.
    """
    pins, found = _expected_pins(allocator, [*holders, *allocator.gathering])
    for cache in allocator.caches:
        name = f"member {cache.device}"
        for check in (_counts, _lists, _durable, _gens):
            found += [f"{name}: {text}" for text in check(cache)]
        found += [f"{name}: {text}" for text in _pins(cache, pins[cache.device])]
        found += [f"{name}: {text}" for text in _metadata(cache, metadata[cache.device])]
    return found


def _counts(cache: Cache) -> Iterator[str]:
    counted = np.bincount(cache.table.states_array, minlength=len(State)).tolist()
    for state in State:
        if counted[state] != cache.table.counts[state]:
            yield f"{counted[state]} buckets are {state.name}, but {cache.table.counts[state]} are counted"
    if sum(cache.table.counts) != cache.geometry.bucket_count:
        yield f"states sum to {sum(cache.table.counts)} of {cache.geometry.bucket_count} buckets"


def _lists(cache: Cache) -> Iterator[str]:
    """Every bucket on a list is in the list's state, on one list, once; and the other way round."""
    reserves = cache.reserves
    for reserve in Reserve:
        if len(reserves.lists[reserve]) > reserves.capacities[reserve]:
            yield f"reserve {reserve.name} holds more than its {reserves.capacities[reserve]}"
    lists = {
        State.FREE: [bucket for buckets in reserves.lists for bucket in buckets],
        State.FREE_INC: list(cache.free_inc),
        State.UNUSED: list(cache.unused),
        State.PRIO: cache.prio_chain + cache.prio_chain_writing,
    }
    for state, buckets in lists.items():
        if len(set(buckets)) != len(buckets):
            yield f"a bucket is twice on the list of {state.name}"
        if set(buckets) != set(np.flatnonzero(cache.table.states_array == state).tolist()):
            yield f"the list of {state.name} and the buckets in that state differ"


def _durable(cache: Cache) -> Iterator[str]:
    """What may leave free_inc carries a gen that is durable."""
    if cache.awaiting_prios < 0:
        yield "more of free_inc is ready than there is"
    for index in range(cache.free_inc_ready):
        bucket = cache.free_inc[index]
        if cache.synchronous and cache.table.gens[bucket] != cache.table.gens_on_disk[bucket]:
            yield f"bucket {bucket} is ready in free_inc, but its gen is not durable"


def _gens(cache: Cache) -> Iterator[str]:
    table = cache.table
    for name, against in (("index", table.last_gc_array), ("disk", table.gens_on_disk_array)):
        farthest = int((table.gens_array - against).max())
        if farthest > GEN_DISTANCE_MAX:
            yield f"a gen is {farthest} ahead of the {name}'s"
    metadata = (table.states_array >= State.PRIO) & (table.states_array <= State.UUID)
    if bool((table.prios_array[metadata] != METADATA_PRIO).any()):
        yield "a metadata bucket has the prio of data"


def _expected_pins(allocator: SectorAllocator, holders: list[Holder]) -> tuple[list[Counter[int]], list[str]]:
    """How many pins each bucket should have, from who holds it; and extents that overlap."""
    pins: list[Counter[int]] = [Counter() for _ in allocator.caches]
    runs: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for slot in allocator.open_buckets:
        if slot.sectors_free:
            for place, sector in zip(slot.places, slot.sectors, strict=True):
                pins[place[0]][place[1]] += 1
                runs.setdefault(place, []).append((sector, sector + slot.sectors_free))
    for holder in holders:
        for (device, bucket), pieces in holder.pieces.items():
            pins[device][bucket] += len(pieces)
            runs.setdefault((device, bucket), []).extend((start, end) for start, end, _ in pieces)
    found = []
    for (device, bucket), extents in runs.items():
        extents.sort()
        for (_, end), (start, _) in pairwise(extents):
            if start < end:
                found.append(f"member {device}: sectors of bucket {bucket} are given out twice at {start}")
    return pins, found


def _pins(cache: Cache, expected: Counter[int]) -> Iterator[str]:
    pinned = {
        int(bucket): int(cache.table.pins_array[bucket]) for bucket in np.flatnonzero(cache.table.pins_array)
    }
    for bucket in sorted(pinned.keys() | {bucket for bucket, pins in expected.items() if pins}):
        if pinned.get(bucket, 0) != expected[bucket]:
            yield f"bucket {bucket} has {pinned.get(bucket, 0)} pins, but {expected[bucket]} are known"
        if cache.table.states[bucket] not in (State.OPEN, State.HELD, State.QUARANTINE):
            yield f"bucket {bucket} is pinned and {State(cache.table.states[bucket]).name}"
    held = np.isin(cache.table.states_array, (State.OPEN, State.HELD, State.QUARANTINE))
    for bucket in np.flatnonzero(held & (cache.table.pins_array == 0)).tolist():
        yield f"bucket {bucket} is {State(cache.table.states[bucket]).name}, but nobody holds it"


def _metadata(cache: Cache, known: dict[State, set[int]]) -> Iterator[str]:
    for state, buckets in known.items():
        there = set(np.flatnonzero(cache.table.states_array == state).tolist())
        if there != buckets:
            yield f"{state.name} buckets are {sorted(there)[:8]}, but {sorted(buckets)[:8]} are in use"
