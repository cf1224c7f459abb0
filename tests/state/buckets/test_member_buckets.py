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
from instruments.samples.small_member import (
    GEOMETRY,
    a_member,
    fill_reserves,
    invalidate,
    metadata_of,
    push,
    run,
    write_prios,
)


def wrong(member: MemberBuckets) -> list[str]:
    return violations(SectorAllocator([member]), [], [metadata_of(member)])


def lists(member: MemberBuckets) -> tuple[list[int], ...]:
    return (
        list(member.free_inc),
        list(member.unused.buckets),
        *(list(buckets) for buckets in member.reserves.lists),
    )


# Seeding


def test_seeding_takes_the_first_empty_buckets_and_raises_their_gens() -> None:
    member = MemberBuckets(GEOMETRY, 0)
    for bucket in (1, 2, 5):
        force_state(member.table, bucket, State.JOURNAL)
    assert member.initial_fill((Reserve.PRIO, Reserve.BTREE)) == [3, 4, 6, 7, 8, 9, 10, 11]
    assert list(member.reserves.lists[Reserve.PRIO]) == [3]
    assert list(member.reserves.lists[Reserve.BTREE]) == [4, 6, 7, 8, 9, 10, 11]
    assert [member.table.gens[bucket] for bucket in (2, 3, 11, 12)] == [0, 1, 1, 0]
    assert [member.table.states[bucket] for bucket in (2, 3, 11, 12)] == [
        State.JOURNAL,
        State.FREE,
        State.FREE,
        State.EMPTY,
    ]


def test_seeding_leaves_out_buckets_that_hold_something_or_whose_gens_ran_ahead() -> None:
    member = MemberBuckets(GEOMETRY, 0)
    force_state(member.table, 1, State.CLEAN)
    member.table.last_gc[2] = 256 - GEN_DISTANCE_MAX
    assert member.initial_fill((Reserve.PRIO,)) == [3]
    assert member.table.gens[2] == 0


def test_seeding_an_exhausted_set_takes_what_there_is() -> None:
    member = MemberBuckets(GEOMETRY, 0)
    for bucket in range(1, GEOMETRY.bucket_count - 2):
        force_state(member.table, bucket, State.DIRTY)
    assert member.initial_fill((Reserve.PRIO, Reserve.BTREE)) == [518, 519]


# Through free_inc


def test_an_invalidated_bucket_waits_on_free_inc_for_its_gen() -> None:
    member = a_member()
    before = member.table.counts[State.EMPTY]
    assert invalidate(member) == member.geometry.free_inc_capacity == len(member.free_inc)
    assert member.table.counts[State.EMPTY] == before - 4
    assert (member.free_inc.awaiting_prios, member.free_inc.ready, member.ready) == (4, 0, 0)
    assert not member.invalidate_needs_gc
    assert wrong(member) == []


def test_nothing_leaves_free_inc_before_its_gen_is_durable() -> None:
    member = a_member()
    invalidate(member)
    before = lists(member)
    assert member.next_batch(100) == []
    with pytest.raises(AssertionError, match="before its gen was durable"):
        member.push(list(member.free_inc))
    assert lists(member) == before
    assert wrong(member) == []


def test_a_durable_prio_write_readies_what_its_snapshot_saw_and_no_more() -> None:
    member = a_member()
    invalidate(member)
    force_state(member.table, member.free_inc.buckets.pop(), State.EMPTY)  # three of four
    member.take_prio_chain()
    snapshot = member.snapshot_gens()
    assert invalidate(member) == 1  # after the snapshot
    run(member.gens_became_durable(*snapshot))
    assert (member.free_inc.ready, member.free_inc.awaiting_prios) == (3, 1)
    late = member.free_inc.buckets[3]
    assert late not in member.next_batch(100)
    push(member)
    assert late in member.free_inc
    write_prios(member)
    assert member.free_inc.ready == len(member.free_inc)
    assert wrong(member) == []


def test_a_late_report_of_an_older_write_takes_nothing_back() -> None:
    member = a_member()
    invalidate(member)
    write_prios(member)
    push(member)
    assert member.free_inc.ready == len(member.free_inc) == 2
    member.take_prio_chain()
    gens, _ = member.snapshot_gens()
    run(member.gens_became_durable(gens, 0))
    assert member.free_inc.ready == 2


def test_in_a_set_that_is_not_synchronous_free_inc_is_ready_at_once() -> None:
    member = a_member(synchronous=False)
    invalidate(member)
    member.free_inc.need_no_prios()
    assert (member.ready, member.free_inc.awaiting_prios) == (4, 0)
    assert push(member) == 2  # the reserves movinggc and none hold one each
    assert wrong(member) == []


def test_a_pass_that_fills_free_inc_is_not_dry_and_one_that_does_not_is() -> None:
    member = a_member()
    for bucket in list(member.table.in_state(State.EMPTY))[3:]:
        force_state(member.table, bucket, State.DIRTY)
    assert invalidate(member) == 3
    assert member.invalidate_needs_gc
    force_state(member.table, 519, State.EMPTY)
    assert invalidate(member) == 1
    assert not member.invalidate_needs_gc


def test_a_pass_tells_what_gens_held_back() -> None:
    member = a_member()
    for bucket in list(member.table.in_state(State.EMPTY)):
        member.table.last_gc[bucket] = member.table.gens[bucket] - GEN_DISTANCE_MAX & 255
    count = member.table.counts[State.EMPTY]
    assert invalidate(member, Replacement.LRU) == 0
    assert (member.invalidate_needs_gc, member.held_back) == (True, count)


def test_candidates_that_changed_meanwhile_are_passed_over() -> None:
    member = a_member()
    found = run(member.search(Replacement.LRU, 0))
    first, second = found.buckets[:2].tolist()
    force_state(member.table, first, State.HELD)
    member.table.last_gc[second] = member.table.gens[second] - GEN_DISTANCE_MAX & 255
    run(member.invalidate(Replacement.LRU, found))
    assert list(member.free_inc) == found.buckets[2:6].tolist()
    assert member.table.states[first] == State.HELD
    assert member.table.gens[second] == 0


def test_fifo_goes_on_where_it_was_and_the_others_leave_its_cursor_alone() -> None:
    member = a_member()
    invalidate(member, Replacement.FIFO)
    first = list(member.free_inc)
    write_prios(member)
    push(member)
    invalidate(member, Replacement.LRU)
    write_prios(member)
    member.free_inc.buckets.clear()
    invalidate(member, Replacement.FIFO)
    assert min(member.free_inc) > max(first)
    assert member.invalidated[Replacement.FIFO] == 8


def test_between_two_steps_of_an_invalidation_every_bucket_is_on_its_list() -> None:
    member = a_member(Geometry(1 << 21, 1, 16, 8, 4))
    found = run(member.search(Replacement.FIFO, 0))
    assert len(found.buckets) > INVALIDATED_BUCKETS
    steps = 0
    for _ in member.invalidate(Replacement.FIFO, found):
        steps += 1
        assert wrong(member) == []
    assert steps > 0


# Through the unused list


def test_an_empty_bucket_retires_with_a_new_gen_and_needs_no_prio_write() -> None:
    member = a_member()
    assert member.retire(100)
    assert (member.table.states[100], member.table.gens[100]) == (State.UNUSED, 1)
    assert member.table.prios[100] == INITIAL_PRIO
    assert member.next_batch(10)[:1] != []
    assert 100 in member.next_batch(10)
    assert wrong(member) == []


def test_only_empty_buckets_retire() -> None:
    member = a_member()
    force_state(member.table, 100, State.CLEAN)
    with pytest.raises(AssertionError, match="not empty"):
        member.retire(100)
    assert member.table.gens[100] == 0


def test_a_full_unused_list_takes_no_more() -> None:
    member = a_member()
    while len(member.unused.buckets) < member.geometry.unused_capacity:
        member.retire(100 + len(member.unused.buckets))
    assert not member.retire(200)
    assert (member.table.states[200], member.table.gens[200]) == (State.EMPTY, 0)
    assert wrong(member) == []


@pytest.mark.parametrize("column", ["last_gc", "gens_on_disk"])
def test_a_bucket_whose_gen_ran_ahead_does_not_retire(column: str) -> None:
    member = a_member()
    getattr(member.table, column)[100] = 256 - GEN_DISTANCE_MAX
    assert not member.retire(100)
    assert (member.table.states[100], member.table.gens[100]) == (State.EMPTY, 0)


def test_settling_says_whether_a_later_pass_may_find_more() -> None:
    member = a_member()
    before = member.reclaims
    force_state(member.table, 100, State.OPEN)
    member.table.pins[100] = 1
    member.settle(100)
    assert (member.table.states[100], member.reclaims) == (State.HELD, before)
    member.table.pins[100], member.table.sectors[100] = 0, 8
    member.settle(100)
    assert (member.table.states[100], member.reclaims) == (State.CLEAN, before + 1)
    member.table.sectors[100] = 0
    member.settle(100)
    assert (member.table.states[100], member.reclaims) == (State.UNUSED, before + 2)


# To the reserves


def test_unused_buckets_go_first_then_those_of_free_inc() -> None:
    member = a_member()
    fill_reserves(member)
    while member.reserves.take(Reserve.BTREE) is not None:
        pass
    for bucket in list(member.table.in_state(State.FREE)):
        if all(bucket not in buckets for buckets in member.reserves.lists):
            member.table.become_metadata(bucket, State.BTREE)
    invalidate(member)
    write_prios(member)
    unused, free_inc = list(member.unused.buckets), list(member.free_inc)
    assert unused
    batch = member.next_batch(100)
    assert batch == (unused + free_inc)[: member.reserves.room()]
    assert member.next_batch(2) == batch[:2]
    assert member.push(batch) == len(batch)
    assert not any(bucket in member.unused.buckets or bucket in member.free_inc for bucket in batch)


def test_a_batch_that_was_decided_on_survives_what_retires_meanwhile() -> None:
    member = a_member()
    invalidate(member)
    write_prios(member)
    batch = member.next_batch(100)
    before = list(member.unused.buckets)
    member.retire(300)  # while the batch is being discarded
    assert member.push(batch) == len(batch)
    assert (
        list(member.unused.buckets) == [*before, 300][len([bucket for bucket in batch if bucket in before]) :]
    )
    assert wrong(member) == []


def test_push_stops_where_the_room_ends() -> None:
    member = a_member()
    fill_reserves(member)
    member.retire(300)
    before = lists(member)
    assert member.next_batch(100) == []
    assert member.push([300]) == 0
    assert lists(member) == before


def test_only_the_heads_of_the_lists_can_be_pushed() -> None:
    member = a_member()
    invalidate(member)
    write_prios(member)
    member.unused.buckets.clear()
    with pytest.raises(AssertionError):
        member.push([member.free_inc.buckets[1]])


# Metadata


def test_data_is_taken_open_and_metadata_by_its_state() -> None:
    member = a_member()
    fill_reserves(member)
    none = member.reserves.lists[Reserve.NONE][0]
    assert member.take_data(Reserve.NONE) == none
    assert (member.table.states[none], member.table.pins[none]) == (State.OPEN, 1)
    assert member.take_data(Reserve.NONE) is None
    node = member.reserves.lists[Reserve.BTREE][0]
    assert member.take_metadata(State.UUID) == node
    assert (member.table.states[node], member.table.prios[node]) == (State.UUID, METADATA_PRIO)


def test_freed_metadata_is_reused_without_a_prio_write() -> None:
    member = a_member()
    member.unused.buckets.clear()
    bucket = member.take_metadata(State.UUID)
    assert bucket is not None
    gen = member.table.gens[bucket]
    member.free_metadata([bucket])
    assert (member.table.states[bucket], member.table.gens[bucket]) == (State.UNUSED, gen + 1)


@pytest.mark.parametrize("state", [State.JOURNAL, State.RESERVED, State.FREE, State.OPEN, State.EMPTY])
def test_what_is_not_metadata_is_not_freed_as_such(state: State) -> None:
    member = a_member()
    force_state(member.table, 100, state)
    with pytest.raises(AssertionError):
        member.free_metadata([100])
    assert (member.table.states[100], member.table.gens[100]) == (state, 0)


# Prio writes


def test_a_prio_write_swaps_the_chains_and_frees_the_one_before() -> None:
    member = a_member(Geometry(2000, 1, 8, 8, 4))
    before = list(member.prio_chains.current)
    assert len(before) == 2
    push(member)
    writing = list(member.take_prio_chain())
    assert not set(writing) & set(before)
    assert all(member.table.states[bucket] == State.PRIO for bucket in before + writing)
    run(member.gens_became_durable(*member.snapshot_gens()))
    assert (member.prio_chains.current, member.prio_chains.writing, member.prio_chains.writes) == (
        writing,
        [],
        2,
    )
    assert list(member.unused.buckets) == before
    assert wrong(member) == []


def test_a_chain_is_taken_whole_or_not_at_all() -> None:
    member = a_member(Geometry(2000, 1, 8, 8, 4))
    fill_reserves(member)
    while member.reserves.available(Reserve.PRIO) > 1:
        member.take_data(Reserve.PRIO)
    before = lists(member)
    assert not member.has_prio_chain
    with pytest.raises(AssertionError, match="not hold a whole chain"):
        member.take_prio_chain()
    assert lists(member) == before
    assert member.prio_chains.writing == []


def test_two_prio_writes_are_never_under_way_at_once() -> None:
    member = a_member()
    fill_reserves(member)
    member.take_prio_chain()
    member.snapshot_gens()
    fill_before = lists(member)
    with pytest.raises(AssertionError):
        member.take_prio_chain()
    with pytest.raises(AssertionError):
        member.snapshot_gens()
    assert lists(member) == fill_before


def test_a_snapshot_is_of_one_instant() -> None:
    member = a_member()
    fill_reserves(member)
    member.take_prio_chain()
    gens, through = member.snapshot_gens()
    member.retire(100)
    assert (gens[100], member.table.gens[100]) == (0, 1)
    run(member.gens_became_durable(gens, through))
    assert member.table.gens_on_disk[100] == 0
    fill_reserves(member)
    write_prios(member)
    assert member.table.gens_on_disk[100] == member.table.gens[100]


def test_snapshots_take_turns_in_memory_that_is_there_already() -> None:
    member = a_member()
    fill_reserves(member)
    seen = set()
    for _ in range(6):
        member.take_prio_chain()
        gens, through = member.snapshot_gens()
        seen.add(id(gens))
        run(member.gens_became_durable(gens, through))
        push(member)
        assert bytes(member.table.gens_on_disk) == bytes(gens)
    assert len(seen) == 2


def test_between_two_steps_of_freeing_a_long_chain_every_bucket_is_on_its_list() -> None:
    member = a_member(Geometry(1 << 20, 1, 8, 8, 4))
    assert len(member.prio_chains.current) > FREED_BUCKETS
    while member.reserves.room_in(Reserve.PRIO):
        if not push(member):
            invalidate(member)
            member.free_inc.need_no_prios()
            member.synchronous = False
    member.take_prio_chain()
    steps = 0
    for _ in member.gens_became_durable(*member.snapshot_gens()):
        steps += 1
        assert wrong(member) == []
    assert steps >= 2
    assert member.prio_chains.freeing == []


# Live data


def states(member: MemberBuckets, bucket: int) -> tuple[State, int]:
    return State(member.table.states[bucket]), member.reclaims


def test_a_bucket_is_named_for_its_live_data() -> None:
    member = a_member()
    reclaims = member.reclaims
    member.add_live(100, 4, False)
    assert states(member, 100) == (State.CLEAN, reclaims)
    member.add_live(100, 2, True)
    assert states(member, 100) == (State.DIRTY, reclaims)
    member.remove_live(100, 1, True, 1)
    assert states(member, 100) == (State.DIRTY, reclaims)
    member.remove_live(100, 1, True, 1)
    assert states(member, 100) == (State.CLEAN, reclaims + 1)
    member.remove_live(100, 4, False, 2)
    assert states(member, 100) == (State.EMPTY, reclaims + 2)
    assert wrong(member) == []


@pytest.mark.parametrize("state", [State.OPEN, State.HELD, State.QUARANTINE])
def test_a_bucket_that_is_held_stays_where_it_is_whatever_comes_and_goes(state: State) -> None:
    member = a_member()
    force_state(member.table, 100, state)
    member.add_live(100, 4, True)
    assert member.table.mark(100) == Mark.DIRTY
    member.remove_live(100, 4, True, 9)
    assert member.table.states[100] == state
    assert member.emptied == {100: 9}


@pytest.mark.parametrize("dirty", [False, True])
def test_a_bucket_settles_as_what_it_holds(dirty: bool) -> None:
    member = a_member()
    before = member.reclaims
    force_state(member.table, 100, State.HELD)
    member.add_live(100, 4, dirty)
    member.settle(100)
    assert member.table.states[100] == (State.DIRTY if dirty else State.CLEAN)
    assert member.reclaims == before + (not dirty)


def test_dirty_data_does_not_go_as_clean() -> None:
    member = a_member()
    member.add_live(100, 4, True)
    with pytest.raises(AssertionError, match="removed as clean"):
        member.remove_live(100, 4, False, 1)


def test_a_bucket_retires_when_its_emptying_is_durable_and_not_before() -> None:
    member = a_member()
    for bucket, seq in ((100, 5), (101, 6)):
        member.add_live(bucket, 4, False)
        member.remove_live(bucket, 4, False, seq)
    assert member.emptying_durable(4) == 0
    assert not member.retire(100)
    assert member.table.gens[100] == 0
    assert member.emptying_durable(5) == 1
    assert list(member.unused.for_data) == [100]
    assert member.emptied == {101: 6}
    assert wrong(member) == []


def test_a_held_bucket_whose_emptying_is_durable_retires_when_it_is_let_go() -> None:
    for durable, expected in ((5, State.UNUSED), (4, State.EMPTY)):
        member = a_member()
        force_state(member.table, 100, State.HELD)
        member.add_live(100, 4, False)
        member.remove_live(100, 4, False, 5)
        assert member.emptying_durable(durable) == 0
        member.settle(100)
        assert member.table.states[100] == expected


def test_durable_entries_do_not_become_less() -> None:
    member = a_member()
    member.emptying_durable(9)
    member.emptying_durable(3)
    member.add_live(100, 4, False)
    member.remove_live(100, 4, False, 8)
    assert member.retire(100)


def test_a_bucket_that_fills_again_is_not_empty_any_more() -> None:
    member = a_member()
    member.add_live(100, 4, False)
    member.remove_live(100, 4, False, 5)
    member.add_live(100, 2, True)
    assert member.emptying_durable(5) == 0
    assert member.table.states[100] == State.DIRTY
    member.remove_live(100, 2, True, 6)
    assert member.emptied == {100: 6}


def test_an_emptied_bucket_may_be_invalidated_at_once() -> None:
    """The journal entry of the prio write carries whatever emptied it."""
    member = a_member()
    for bucket in list(member.table.in_state(State.EMPTY)):
        member.add_live(bucket, 4, True)
    member.remove_live(100, 4, True, 5)
    assert invalidate(member) == 1
    assert member.emptied == {}
    assert member.emptying_durable(5) == 0
    write_prios(member)
    push(member)
    assert wrong(member) == []


def test_a_great_many_emptied_buckets_are_not_retired_all_at_once() -> None:
    member = a_member(Geometry(1 << 20, 1, 16, 8, 4))
    buckets = list(member.table.in_state(State.EMPTY))[: FREED_BUCKETS + 10]
    for bucket in buckets:
        member.add_live(bucket, 4, False)
        member.remove_live(bucket, 4, False, 5)
    assert member.emptying_durable(5) == FREED_BUCKETS
    assert member.emptying_durable(5) == 10


def test_in_a_set_that_is_not_synchronous_nothing_is_remembered() -> None:
    member = a_member(synchronous=False)
    member.add_live(100, 4, False)
    member.remove_live(100, 4, False, 5)
    assert not member.emptied
    assert member.retire(100)
    assert member.unused.buckets[-1] == 100
    assert wrong(member) == []


def test_counts_taken_over_say_where_every_bucket_stands() -> None:
    member = a_member()
    count = member.geometry.bucket_count
    sectors, dirty, named = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, bool)
    sectors[100:102], dirty[101], named[100:103] = 9, 3, True
    member.table.take_over(sectors, dirty, named)
    assert [State(state) for state in member.table.states[100:104]] == [
        State.CLEAN,
        State.DIRTY,
        State.EMPTY,
        State.EMPTY,
    ]
    assert (member.table.sectors[101], member.table.dirty_sectors[101]) == (9, 3)
    assert list(member.table.tainted[99:104]) == [0, 1, 1, 1, 0]
    assert wrong(member) == []


def test_counts_where_metadata_lies_are_not_taken_over() -> None:
    member = a_member()
    sectors = np.zeros(member.geometry.bucket_count, np.int64)
    sectors[member.prio_chains.current[0]] = 1
    with pytest.raises(AssertionError, match="not empty"):
        member.table.take_over(sectors, sectors * 0, sectors > 0)


# What keys on disk may name


def tainted(member: MemberBuckets, *buckets: int) -> None:
    """Unused buckets that keys came into and went from."""
    for bucket in buckets:
        member.add_live(bucket, 4, False)
        member.remove_live(bucket, 4, False, 1)
    member.emptying_durable(1)
    assert list(member.unused.for_data)[-len(buckets) :] == list(buckets)


def drained(member: MemberBuckets) -> MemberBuckets:
    """Without a bucket on any reserve or list but for a prio chain."""
    for bucket in [*member.unused.buckets, *(it for buckets in member.reserves.lists[:1] for it in buckets)]:
        force_state(member.table, bucket, State.EMPTY)
        member.add_live(bucket, 1, True)
    member.unused.buckets.clear()
    member.reserves.lists[Reserve.BTREE].clear()
    return member


def test_tainted_buckets_go_to_the_reserves_of_data_only() -> None:
    member = drained(a_member())
    tainted(member, 100, 101, 102)
    assert member.ready == 2
    assert push(member) == 2
    assert list(member.reserves.lists[Reserve.MOVINGGC]) == [100]
    assert list(member.reserves.for_data) == [101]
    assert (member.ready, list(member.unused.for_data)) == (0, [102])
    assert member.reserves.room() == 7
    assert wrong(member) == []


def test_untainted_buckets_pass_tainted_ones_by() -> None:
    member = drained(a_member())
    tainted(member, 100, 101, 102)
    push(member)
    member.retire(200)
    assert (member.ready, member.next_batch(9)) == (1, [200])
    assert push(member) == 1
    assert list(member.reserves.lists[Reserve.BTREE]) == [200]


def test_no_metadata_is_put_into_a_tainted_bucket_even_if_it_is_all_there_is() -> None:
    member = drained(a_member())
    tainted(member, 100, 101)
    push(member)
    assert member.take_metadata(State.BTREE) is None
    assert member.reserves.available(Reserve.PRIO) == 1
    assert member.take_data(Reserve.NONE) == 101


def test_a_prio_write_lifts_the_taint_wherever_a_bucket_waits() -> None:
    member = drained(a_member())
    tainted(member, 100, 101, 102)
    push(member)
    write_prios(member)
    assert list(member.reserves.lists[Reserve.NONE]) == [101]
    assert member.unused.only_for_data == 0
    push(member)
    assert 102 in member.reserves.lists[Reserve.BTREE]
    assert wrong(member) == []
    assert member.take_metadata(State.BTREE) == 101


def test_a_prio_write_lifts_nothing_that_was_retired_after_its_snapshot() -> None:
    member = drained(a_member())
    tainted(member, 100, 101)
    push(member)
    member.take_prio_chain()
    snapshot = member.snapshot_gens()
    assert member.take_data(Reserve.NONE) == 101
    tainted(member, 102, 103)
    assert push(member) == 1
    run(member.gens_became_durable(*snapshot))
    assert list(member.reserves.for_data) == [102]
    assert member.unused.only_for_data == 1
    member.table.pins[101] = 0
    member.settle(101)
    assert wrong(member) == []


def test_a_batch_that_was_decided_on_survives_a_prio_write_meanwhile() -> None:
    member = drained(a_member())
    tainted(member, 100, 101, 102)
    batch = member.next_batch(100)
    assert batch == [100, 101]
    member.retire(300)
    write_prios(member)  # while the batch is being discarded
    assert member.push(batch) == 2
    assert 100 in member.reserves.lists[Reserve.PRIO]
    assert wrong(member) == []


def test_a_bucket_that_is_opened_keeps_its_taint_until_its_gen_is_durable() -> None:
    for is_durable in (False, True):
        member = drained(a_member())
        tainted(member, 100)
        push(member)
        if is_durable:
            write_prios(member)
        assert member.take_data(Reserve.MOVINGGC) == 100
        member.table.pins[100] = 0
        member.settle(100)  # given back without a key
        assert (100 in member.unused.buckets) == is_durable
        assert (100 in member.unused.for_data) == (not is_durable)


def test_tainted_buckets_leave_the_unused_list_to_those_that_prios_need() -> None:
    member = a_member()
    member.unused.buckets.clear()
    for bucket in range(100, 110):
        member.add_live(bucket, 4, False)
        member.remove_live(bucket, 4, False, 1)
    member.emptying_durable(1)
    assert len(member.unused.for_data) == member.geometry.unused_capacity
    assert member.retire(200)
    assert len(member.unused) == member.geometry.unused_capacity + 1


def test_seeding_leaves_out_what_keys_on_disk_may_name() -> None:
    member = MemberBuckets(GEOMETRY, 0)
    member.table.tainted[1] = member.table.tainted[4] = True
    member.emptied[2] = 3
    assert member.initial_fill((Reserve.PRIO, Reserve.BTREE))[:3] == [3, 5, 6]
