# SPDX-License-Identifier: GPL-2.0-only
import numpy as np
import pytest

from bcached.set_state import Replacement
from bcached.state.accounting.invariants import violations
from bcached.state.buckets.bucket_table import Mark, State
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX, INITIAL_PRIO, METADATA_PRIO, Geometry
from bcached.state.buckets.member_buckets import FREED_BUCKETS, INVALIDATED_BUCKETS, MemberBuckets
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.sector_allocator import SectorAllocator
from instruments.samples.bucket_states import force_state
from instruments.samples.small_cache import (
    GEOMETRY,
    a_cache,
    fill_reserves,
    invalidate,
    metadata_of,
    push,
    run,
    write_prios,
)


def wrong(cache: MemberBuckets) -> list[str]:
    return violations(SectorAllocator([cache]), [], [metadata_of(cache)])


def lists(cache: MemberBuckets) -> tuple[list[int], ...]:
    return (
        list(cache.free_inc),
        list(cache.unused.buckets),
        *(list(buckets) for buckets in cache.reserves.lists),
    )


# Seeding


def test_seeding_takes_the_first_empty_buckets_and_raises_their_gens() -> None:
    cache = MemberBuckets(GEOMETRY, 0)
    for bucket in (1, 2, 5):
        force_state(cache.table, bucket, State.JOURNAL)
    assert cache.initial_fill((Reserve.PRIO, Reserve.BTREE)) == [3, 4, 6, 7, 8, 9, 10, 11]
    assert list(cache.reserves.lists[Reserve.PRIO]) == [3]
    assert list(cache.reserves.lists[Reserve.BTREE]) == [4, 6, 7, 8, 9, 10, 11]
    assert [cache.table.gens[bucket] for bucket in (2, 3, 11, 12)] == [0, 1, 1, 0]
    assert [cache.table.states[bucket] for bucket in (2, 3, 11, 12)] == [
        State.JOURNAL,
        State.FREE,
        State.FREE,
        State.EMPTY,
    ]


def test_seeding_leaves_out_buckets_that_hold_something_or_whose_gens_ran_ahead() -> None:
    cache = MemberBuckets(GEOMETRY, 0)
    force_state(cache.table, 1, State.CLEAN)
    cache.table.last_gc[2] = 256 - GEN_DISTANCE_MAX
    assert cache.initial_fill((Reserve.PRIO,)) == [3]
    assert cache.table.gens[2] == 0


def test_seeding_an_exhausted_set_takes_what_there_is() -> None:
    cache = MemberBuckets(GEOMETRY, 0)
    for bucket in range(1, GEOMETRY.bucket_count - 2):
        force_state(cache.table, bucket, State.DIRTY)
    assert cache.initial_fill((Reserve.PRIO, Reserve.BTREE)) == [518, 519]


# Through free_inc


def test_an_invalidated_bucket_waits_on_free_inc_for_its_gen() -> None:
    cache = a_cache()
    before = cache.table.counts[State.EMPTY]
    assert invalidate(cache) == cache.geometry.free_inc_capacity == len(cache.free_inc)
    assert cache.table.counts[State.EMPTY] == before - 4
    assert (cache.free_inc.awaiting_prios, cache.free_inc.ready, cache.ready) == (4, 0, 0)
    assert not cache.invalidate_needs_gc
    assert wrong(cache) == []


def test_nothing_leaves_free_inc_before_its_gen_is_durable() -> None:
    cache = a_cache()
    invalidate(cache)
    before = lists(cache)
    assert cache.next_batch(100) == []
    with pytest.raises(AssertionError, match="before its gen was durable"):
        cache.push(list(cache.free_inc))
    assert lists(cache) == before
    assert wrong(cache) == []


def test_a_durable_prio_write_readies_what_its_snapshot_saw_and_no_more() -> None:
    cache = a_cache()
    invalidate(cache)
    force_state(cache.table, cache.free_inc.buckets.pop(), State.EMPTY)  # three of four
    cache.take_prio_chain()
    snapshot = cache.snapshot_gens()
    assert invalidate(cache) == 1  # after the snapshot
    run(cache.gens_became_durable(*snapshot))
    assert (cache.free_inc.ready, cache.free_inc.awaiting_prios) == (3, 1)
    late = cache.free_inc.buckets[3]
    assert late not in cache.next_batch(100)
    push(cache)
    assert late in cache.free_inc
    write_prios(cache)
    assert cache.free_inc.ready == len(cache.free_inc)
    assert wrong(cache) == []


def test_a_late_report_of_an_older_write_takes_nothing_back() -> None:
    cache = a_cache()
    invalidate(cache)
    write_prios(cache)
    push(cache)
    assert cache.free_inc.ready == len(cache.free_inc) == 2
    cache.take_prio_chain()
    gens, _ = cache.snapshot_gens()
    run(cache.gens_became_durable(gens, 0))
    assert cache.free_inc.ready == 2


def test_in_a_set_that_is_not_synchronous_free_inc_is_ready_at_once() -> None:
    cache = a_cache(synchronous=False)
    invalidate(cache)
    cache.free_inc.need_no_prios()
    assert (cache.ready, cache.free_inc.awaiting_prios) == (4, 0)
    assert push(cache) == 2  # the reserves movinggc and none hold one each
    assert wrong(cache) == []


def test_a_pass_that_fills_free_inc_is_not_dry_and_one_that_does_not_is() -> None:
    cache = a_cache()
    for bucket in list(cache.table.in_state(State.EMPTY))[3:]:
        force_state(cache.table, bucket, State.DIRTY)
    assert invalidate(cache) == 3
    assert cache.invalidate_needs_gc
    force_state(cache.table, 519, State.EMPTY)
    assert invalidate(cache) == 1
    assert not cache.invalidate_needs_gc


def test_a_pass_tells_what_gens_held_back() -> None:
    cache = a_cache()
    for bucket in list(cache.table.in_state(State.EMPTY)):
        cache.table.last_gc[bucket] = cache.table.gens[bucket] - GEN_DISTANCE_MAX & 255
    count = cache.table.counts[State.EMPTY]
    assert invalidate(cache, Replacement.LRU) == 0
    assert (cache.invalidate_needs_gc, cache.held_back) == (True, count)


def test_candidates_that_changed_meanwhile_are_passed_over() -> None:
    cache = a_cache()
    found = run(cache.search(Replacement.LRU, 0))
    first, second = found.buckets[:2].tolist()
    force_state(cache.table, first, State.HELD)
    cache.table.last_gc[second] = cache.table.gens[second] - GEN_DISTANCE_MAX & 255
    run(cache.invalidate(Replacement.LRU, found))
    assert list(cache.free_inc) == found.buckets[2:6].tolist()
    assert cache.table.states[first] == State.HELD
    assert cache.table.gens[second] == 0


def test_fifo_goes_on_where_it_was_and_the_others_leave_its_cursor_alone() -> None:
    cache = a_cache()
    invalidate(cache, Replacement.FIFO)
    first = list(cache.free_inc)
    write_prios(cache)
    push(cache)
    invalidate(cache, Replacement.LRU)
    write_prios(cache)
    cache.free_inc.buckets.clear()
    invalidate(cache, Replacement.FIFO)
    assert min(cache.free_inc) > max(first)
    assert cache.invalidated[Replacement.FIFO] == 8


def test_between_two_steps_of_an_invalidation_every_bucket_is_on_its_list() -> None:
    cache = a_cache(Geometry(1 << 21, 1, 16, 8, 4))
    found = run(cache.search(Replacement.FIFO, 0))
    assert len(found.buckets) > INVALIDATED_BUCKETS
    steps = 0
    for _ in cache.invalidate(Replacement.FIFO, found):
        steps += 1
        assert wrong(cache) == []
    assert steps > 0


# Through the unused list


def test_an_empty_bucket_retires_with_a_new_gen_and_needs_no_prio_write() -> None:
    cache = a_cache()
    assert cache.retire(100)
    assert (cache.table.states[100], cache.table.gens[100]) == (State.UNUSED, 1)
    assert cache.table.prios[100] == INITIAL_PRIO
    assert cache.next_batch(10)[:1] != []
    assert 100 in cache.next_batch(10)
    assert wrong(cache) == []


def test_only_empty_buckets_retire() -> None:
    cache = a_cache()
    force_state(cache.table, 100, State.CLEAN)
    with pytest.raises(AssertionError, match="not empty"):
        cache.retire(100)
    assert cache.table.gens[100] == 0


def test_a_full_unused_list_takes_no_more() -> None:
    cache = a_cache()
    while len(cache.unused.buckets) < cache.geometry.unused_capacity:
        cache.retire(100 + len(cache.unused.buckets))
    assert not cache.retire(200)
    assert (cache.table.states[200], cache.table.gens[200]) == (State.EMPTY, 0)
    assert wrong(cache) == []


@pytest.mark.parametrize("column", ["last_gc", "gens_on_disk"])
def test_a_bucket_whose_gen_ran_ahead_does_not_retire(column: str) -> None:
    cache = a_cache()
    getattr(cache.table, column)[100] = 256 - GEN_DISTANCE_MAX
    assert not cache.retire(100)
    assert (cache.table.states[100], cache.table.gens[100]) == (State.EMPTY, 0)


def test_settling_says_whether_a_later_pass_may_find_more() -> None:
    cache = a_cache()
    before = cache.reclaims
    force_state(cache.table, 100, State.OPEN)
    cache.table.pins[100] = 1
    cache.settle(100)
    assert (cache.table.states[100], cache.reclaims) == (State.HELD, before)
    cache.table.pins[100], cache.table.sectors[100] = 0, 8
    cache.settle(100)
    assert (cache.table.states[100], cache.reclaims) == (State.CLEAN, before + 1)
    cache.table.sectors[100] = 0
    cache.settle(100)
    assert (cache.table.states[100], cache.reclaims) == (State.UNUSED, before + 2)


# To the reserves


def test_unused_buckets_go_first_then_those_of_free_inc() -> None:
    cache = a_cache()
    fill_reserves(cache)
    while cache.reserves.take(Reserve.BTREE) is not None:
        pass
    for bucket in list(cache.table.in_state(State.FREE)):
        if all(bucket not in buckets for buckets in cache.reserves.lists):
            cache.table.become_metadata(bucket, State.BTREE)
    invalidate(cache)
    write_prios(cache)
    unused, free_inc = list(cache.unused.buckets), list(cache.free_inc)
    assert unused
    batch = cache.next_batch(100)
    assert batch == (unused + free_inc)[: cache.reserves.room()]
    assert cache.next_batch(2) == batch[:2]
    assert cache.push(batch) == len(batch)
    assert not any(bucket in cache.unused.buckets or bucket in cache.free_inc for bucket in batch)


def test_a_batch_that_was_decided_on_survives_what_retires_meanwhile() -> None:
    cache = a_cache()
    invalidate(cache)
    write_prios(cache)
    batch = cache.next_batch(100)
    before = list(cache.unused.buckets)
    cache.retire(300)  # while the batch is being discarded
    assert cache.push(batch) == len(batch)
    assert (
        list(cache.unused.buckets) == [*before, 300][len([bucket for bucket in batch if bucket in before]) :]
    )
    assert wrong(cache) == []


def test_push_stops_where_the_room_ends() -> None:
    cache = a_cache()
    fill_reserves(cache)
    cache.retire(300)
    before = lists(cache)
    assert cache.next_batch(100) == []
    assert cache.push([300]) == 0
    assert lists(cache) == before


def test_only_the_heads_of_the_lists_can_be_pushed() -> None:
    cache = a_cache()
    invalidate(cache)
    write_prios(cache)
    cache.unused.buckets.clear()
    with pytest.raises(AssertionError):
        cache.push([cache.free_inc.buckets[1]])


# Metadata


def test_data_is_taken_open_and_metadata_by_its_state() -> None:
    cache = a_cache()
    fill_reserves(cache)
    none = cache.reserves.lists[Reserve.NONE][0]
    assert cache.take_data(Reserve.NONE) == none
    assert (cache.table.states[none], cache.table.pins[none]) == (State.OPEN, 1)
    assert cache.take_data(Reserve.NONE) is None
    node = cache.reserves.lists[Reserve.BTREE][0]
    assert cache.take_metadata(State.UUID) == node
    assert (cache.table.states[node], cache.table.prios[node]) == (State.UUID, METADATA_PRIO)


def test_freed_metadata_is_reused_without_a_prio_write() -> None:
    cache = a_cache()
    cache.unused.buckets.clear()
    bucket = cache.take_metadata(State.UUID)
    assert bucket is not None
    gen = cache.table.gens[bucket]
    cache.free_metadata([bucket])
    assert (cache.table.states[bucket], cache.table.gens[bucket]) == (State.UNUSED, gen + 1)


@pytest.mark.parametrize("state", [State.JOURNAL, State.RESERVED, State.FREE, State.OPEN, State.EMPTY])
def test_what_is_not_metadata_is_not_freed_as_such(state: State) -> None:
    cache = a_cache()
    force_state(cache.table, 100, state)
    with pytest.raises(AssertionError):
        cache.free_metadata([100])
    assert (cache.table.states[100], cache.table.gens[100]) == (state, 0)


# Prio writes


def test_a_prio_write_swaps_the_chains_and_frees_the_one_before() -> None:
    cache = a_cache(Geometry(2000, 1, 8, 8, 4))
    before = list(cache.prio_chains.current)
    assert len(before) == 2
    push(cache)
    writing = list(cache.take_prio_chain())
    assert not set(writing) & set(before)
    assert all(cache.table.states[bucket] == State.PRIO for bucket in before + writing)
    run(cache.gens_became_durable(*cache.snapshot_gens()))
    assert (cache.prio_chains.current, cache.prio_chains.writing, cache.prio_chains.writes) == (
        writing,
        [],
        2,
    )
    assert list(cache.unused.buckets) == before
    assert wrong(cache) == []


def test_a_chain_is_taken_whole_or_not_at_all() -> None:
    cache = a_cache(Geometry(2000, 1, 8, 8, 4))
    fill_reserves(cache)
    while cache.reserves.available(Reserve.PRIO) > 1:
        cache.take_data(Reserve.PRIO)
    before = lists(cache)
    assert not cache.has_prio_chain
    with pytest.raises(AssertionError, match="never waits"):
        cache.take_prio_chain()
    assert lists(cache) == before
    assert cache.prio_chains.writing == []


def test_two_prio_writes_are_never_under_way_at_once() -> None:
    cache = a_cache()
    fill_reserves(cache)
    cache.take_prio_chain()
    cache.snapshot_gens()
    fill_before = lists(cache)
    with pytest.raises(AssertionError):
        cache.take_prio_chain()
    with pytest.raises(AssertionError):
        cache.snapshot_gens()
    assert lists(cache) == fill_before


def test_a_snapshot_is_of_one_instant() -> None:
    cache = a_cache()
    fill_reserves(cache)
    cache.take_prio_chain()
    gens, through = cache.snapshot_gens()
    cache.retire(100)
    assert (gens[100], cache.table.gens[100]) == (0, 1)
    run(cache.gens_became_durable(gens, through))
    assert cache.table.gens_on_disk[100] == 0
    fill_reserves(cache)
    write_prios(cache)
    assert cache.table.gens_on_disk[100] == cache.table.gens[100]


def test_snapshots_take_turns_in_memory_that_is_there_already() -> None:
    cache = a_cache()
    fill_reserves(cache)
    seen = set()
    for _ in range(6):
        cache.take_prio_chain()
        gens, through = cache.snapshot_gens()
        seen.add(id(gens))
        run(cache.gens_became_durable(gens, through))
        push(cache)
        assert bytes(cache.table.gens_on_disk) == bytes(gens)
    assert len(seen) == 2


def test_between_two_steps_of_freeing_a_long_chain_every_bucket_is_on_its_list() -> None:
    cache = a_cache(Geometry(1 << 20, 1, 8, 8, 4))
    assert len(cache.prio_chains.current) > FREED_BUCKETS
    while cache.reserves.room_in(Reserve.PRIO):
        if not push(cache):
            invalidate(cache)
            cache.free_inc.need_no_prios()
            cache.synchronous = False
    cache.take_prio_chain()
    steps = 0
    for _ in cache.gens_became_durable(*cache.snapshot_gens()):
        steps += 1
        assert wrong(cache) == []
    assert steps >= 2
    assert cache.prio_chains.before == []


# Live data


def states(cache: MemberBuckets, bucket: int) -> tuple[State, int]:
    return State(cache.table.states[bucket]), cache.reclaims


def test_a_bucket_is_named_for_its_live_data() -> None:
    cache = a_cache()
    reclaims = cache.reclaims
    cache.add_live(100, 4, False)
    assert states(cache, 100) == (State.CLEAN, reclaims)
    cache.add_live(100, 2, True)
    assert states(cache, 100) == (State.DIRTY, reclaims)
    cache.remove_live(100, 1, True, 1)
    assert states(cache, 100) == (State.DIRTY, reclaims)
    cache.remove_live(100, 1, True, 1)
    assert states(cache, 100) == (State.CLEAN, reclaims + 1)
    cache.remove_live(100, 4, False, 2)
    assert states(cache, 100) == (State.EMPTY, reclaims + 2)
    assert wrong(cache) == []


@pytest.mark.parametrize("state", [State.OPEN, State.HELD, State.QUARANTINE])
def test_a_bucket_that_is_held_stays_where_it_is_whatever_comes_and_goes(state: State) -> None:
    cache = a_cache()
    force_state(cache.table, 100, state)
    cache.add_live(100, 4, True)
    assert cache.table.mark(100) == Mark.DIRTY
    cache.remove_live(100, 4, True, 9)
    assert cache.table.states[100] == state
    assert cache.emptied == {100: 9}


@pytest.mark.parametrize("dirty", [False, True])
def test_a_bucket_settles_as_what_it_holds(dirty: bool) -> None:
    cache = a_cache()
    before = cache.reclaims
    force_state(cache.table, 100, State.HELD)
    cache.add_live(100, 4, dirty)
    cache.settle(100)
    assert cache.table.states[100] == (State.DIRTY if dirty else State.CLEAN)
    assert cache.reclaims == before + (not dirty)


def test_dirty_data_does_not_go_as_clean() -> None:
    cache = a_cache()
    cache.add_live(100, 4, True)
    with pytest.raises(AssertionError, match="removed as clean"):
        cache.remove_live(100, 4, False, 1)


def test_a_bucket_retires_when_its_emptying_is_durable_and_not_before() -> None:
    cache = a_cache()
    for bucket, seq in ((100, 5), (101, 6)):
        cache.add_live(bucket, 4, False)
        cache.remove_live(bucket, 4, False, seq)
    assert cache.emptying_durable(4) == 0
    assert not cache.retire(100)
    assert cache.table.gens[100] == 0
    assert cache.emptying_durable(5) == 1
    assert list(cache.unused.for_data) == [100]
    assert cache.emptied == {101: 6}
    assert wrong(cache) == []


def test_a_held_bucket_whose_emptying_is_durable_retires_when_it_is_let_go() -> None:
    for durable, expected in ((5, State.UNUSED), (4, State.EMPTY)):
        cache = a_cache()
        force_state(cache.table, 100, State.HELD)
        cache.add_live(100, 4, False)
        cache.remove_live(100, 4, False, 5)
        assert cache.emptying_durable(durable) == 0
        cache.settle(100)
        assert cache.table.states[100] == expected


def test_durable_entries_do_not_become_less() -> None:
    cache = a_cache()
    cache.emptying_durable(9)
    cache.emptying_durable(3)
    cache.add_live(100, 4, False)
    cache.remove_live(100, 4, False, 8)
    assert cache.retire(100)


def test_a_bucket_that_fills_again_is_not_empty_any_more() -> None:
    cache = a_cache()
    cache.add_live(100, 4, False)
    cache.remove_live(100, 4, False, 5)
    cache.add_live(100, 2, True)
    assert cache.emptying_durable(5) == 0
    assert cache.table.states[100] == State.DIRTY
    cache.remove_live(100, 2, True, 6)
    assert cache.emptied == {100: 6}


def test_an_emptied_bucket_may_be_invalidated_at_once() -> None:
    """The journal entry of the prio write carries whatever emptied it."""
    cache = a_cache()
    for bucket in list(cache.table.in_state(State.EMPTY)):
        cache.add_live(bucket, 4, True)
    cache.remove_live(100, 4, True, 5)
    assert invalidate(cache) == 1
    assert cache.emptied == {}
    assert cache.emptying_durable(5) == 0
    write_prios(cache)
    push(cache)
    assert wrong(cache) == []


def test_a_great_many_emptied_buckets_are_not_retired_all_at_once() -> None:
    cache = a_cache(Geometry(1 << 20, 1, 16, 8, 4))
    buckets = list(cache.table.in_state(State.EMPTY))[: FREED_BUCKETS + 10]
    for bucket in buckets:
        cache.add_live(bucket, 4, False)
        cache.remove_live(bucket, 4, False, 5)
    assert cache.emptying_durable(5) == FREED_BUCKETS
    assert cache.emptying_durable(5) == 10


def test_in_a_set_that_is_not_synchronous_nothing_is_remembered() -> None:
    cache = a_cache(synchronous=False)
    cache.add_live(100, 4, False)
    cache.remove_live(100, 4, False, 5)
    assert not cache.emptied
    assert cache.retire(100)
    assert cache.unused.buckets[-1] == 100
    assert wrong(cache) == []


def test_counts_taken_over_say_where_every_bucket_stands() -> None:
    cache = a_cache()
    count = cache.geometry.bucket_count
    sectors, dirty, named = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, bool)
    sectors[100:102], dirty[101], named[100:103] = 9, 3, True
    cache.table.take_over(sectors, dirty, named)
    assert [State(state) for state in cache.table.states[100:104]] == [
        State.CLEAN,
        State.DIRTY,
        State.EMPTY,
        State.EMPTY,
    ]
    assert (cache.table.sectors[101], cache.table.dirty_sectors[101]) == (9, 3)
    assert list(cache.table.tainted[99:104]) == [0, 1, 1, 1, 0]
    assert wrong(cache) == []


def test_counts_where_metadata_lies_are_not_taken_over() -> None:
    cache = a_cache()
    sectors = np.zeros(cache.geometry.bucket_count, np.int64)
    sectors[cache.prio_chains.current[0]] = 1
    with pytest.raises(AssertionError, match="not empty"):
        cache.table.take_over(sectors, sectors * 0, sectors > 0)


# What keys on disk may name


def tainted(cache: MemberBuckets, *buckets: int) -> None:
    """Unused buckets that keys came into and went from."""
    for bucket in buckets:
        cache.add_live(bucket, 4, False)
        cache.remove_live(bucket, 4, False, 1)
    cache.emptying_durable(1)
    assert list(cache.unused.for_data)[-len(buckets) :] == list(buckets)


def drained(cache: MemberBuckets) -> MemberBuckets:
    """Without a bucket on any reserve or list but for a prio chain."""
    for bucket in [*cache.unused.buckets, *(it for buckets in cache.reserves.lists[:1] for it in buckets)]:
        force_state(cache.table, bucket, State.EMPTY)
        cache.add_live(bucket, 1, True)
    cache.unused.buckets.clear()
    cache.reserves.lists[Reserve.BTREE].clear()
    return cache


def test_tainted_buckets_go_to_the_reserves_of_data_only() -> None:
    cache = drained(a_cache())
    tainted(cache, 100, 101, 102)
    assert cache.ready == 2
    assert push(cache) == 2
    assert list(cache.reserves.lists[Reserve.MOVINGGC]) == [100]
    assert list(cache.reserves.for_data) == [101]
    assert (cache.ready, list(cache.unused.for_data)) == (0, [102])
    assert cache.reserves.room() == 7
    assert wrong(cache) == []


def test_untainted_buckets_pass_tainted_ones_by() -> None:
    cache = drained(a_cache())
    tainted(cache, 100, 101, 102)
    push(cache)
    cache.retire(200)
    assert (cache.ready, cache.next_batch(9)) == (1, [200])
    assert push(cache) == 1
    assert list(cache.reserves.lists[Reserve.BTREE]) == [200]


def test_no_metadata_is_put_into_a_tainted_bucket_even_if_it_is_all_there_is() -> None:
    cache = drained(a_cache())
    tainted(cache, 100, 101)
    push(cache)
    assert cache.take_metadata(State.BTREE) is None
    assert cache.reserves.available(Reserve.PRIO) == 1
    assert cache.take_data(Reserve.NONE) == 101


def test_a_prio_write_lifts_the_taint_wherever_a_bucket_waits() -> None:
    cache = drained(a_cache())
    tainted(cache, 100, 101, 102)
    push(cache)
    write_prios(cache)
    assert list(cache.reserves.lists[Reserve.NONE]) == [101]
    assert cache.unused.only_for_data == 0
    push(cache)
    assert 102 in cache.reserves.lists[Reserve.BTREE]
    assert wrong(cache) == []
    assert cache.take_metadata(State.BTREE) == 101


def test_a_prio_write_lifts_nothing_that_was_retired_after_its_snapshot() -> None:
    cache = drained(a_cache())
    tainted(cache, 100, 101)
    push(cache)
    cache.take_prio_chain()
    snapshot = cache.snapshot_gens()
    assert cache.take_data(Reserve.NONE) == 101
    tainted(cache, 102, 103)
    assert push(cache) == 1
    run(cache.gens_became_durable(*snapshot))
    assert list(cache.reserves.for_data) == [102]
    assert cache.unused.only_for_data == 1
    cache.table.pins[101] = 0
    cache.settle(101)
    assert wrong(cache) == []


def test_a_batch_that_was_decided_on_survives_a_prio_write_meanwhile() -> None:
    cache = drained(a_cache())
    tainted(cache, 100, 101, 102)
    batch = cache.next_batch(100)
    assert batch == [100, 101]
    cache.retire(300)
    write_prios(cache)  # while the batch is being discarded
    assert cache.push(batch) == 2
    assert 100 in cache.reserves.lists[Reserve.PRIO]
    assert wrong(cache) == []


def test_a_bucket_that_is_opened_keeps_its_taint_until_its_gen_is_durable() -> None:
    for is_durable in (False, True):
        cache = drained(a_cache())
        tainted(cache, 100)
        push(cache)
        if is_durable:
            write_prios(cache)
        assert cache.take_data(Reserve.MOVINGGC) == 100
        cache.table.pins[100] = 0
        cache.settle(100)  # given back without a key
        assert (100 in cache.unused.buckets) == is_durable
        assert (100 in cache.unused.for_data) == (not is_durable)


def test_tainted_buckets_leave_the_unused_list_to_those_that_prios_need() -> None:
    cache = a_cache()
    cache.unused.buckets.clear()
    for bucket in range(100, 110):
        cache.add_live(bucket, 4, False)
        cache.remove_live(bucket, 4, False, 1)
    cache.emptying_durable(1)
    assert len(cache.unused.for_data) == cache.geometry.unused_capacity
    assert cache.retire(200)
    assert len(cache.unused) == cache.geometry.unused_capacity + 1


def test_seeding_leaves_out_what_keys_on_disk_may_name() -> None:
    cache = MemberBuckets(GEOMETRY, 0)
    cache.table.tainted[1] = cache.table.tainted[4] = True
    cache.emptied[2] = 3
    assert cache.initial_fill((Reserve.PRIO, Reserve.BTREE))[:3] == [3, 5, 6]
