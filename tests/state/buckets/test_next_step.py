# SPDX-License-Identifier: GPL-2.0-only
from collections import Counter
from itertools import product, takewhile
from typing import Any

import numpy as np
import pytest

from bcached.set_state import Replacement
from bcached.state.accounting.invariants import violations
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.next_step import COLLECT_DISTANCE, WRITE_DISTANCE, Step, next_step
from bcached.state.buckets.replacement import Random
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.sector_allocator import SectorAllocator
from instruments.samples.allocator_by_hand import AllocatorByHand
from instruments.samples.bucket_states import force_state
from instruments.samples.small_member import (
    a_member,
    fill_reserves,
    invalidate,
    metadata_of,
    use,
    write_prios,
)

every_policy = pytest.mark.parametrize("policy", list(Replacement), ids=lambda policy: policy.name.lower())


def with_empty(count: int, **options: Any) -> MemberBuckets:
    """A member with full reserves and so many empty buckets; all others are in use for good."""
    member = a_member(**options)
    fill_reserves(member)
    for bucket in [*member.free_inc, *member.unused.buckets]:
        use_anyway(member, bucket)
        member.free_inc._left += bucket in member.free_inc
    member.free_inc.buckets.clear()
    member.unused.buckets.clear()
    table = member.table
    in_use = np.flatnonzero(table.states_array == State.EMPTY)[count:]
    table.states_array[in_use] = State.DIRTY
    for column in (table.sectors_array, table.dirty_sectors_array, table.tainted_array):
        column[in_use] = 1
    table.recount_sectors()
    table.counts[State.EMPTY] -= len(in_use)
    table.counts[State.DIRTY] += len(in_use)
    return member


def use_anyway(member: MemberBuckets, bucket: int) -> None:
    """Put data into a bucket, wherever it stands."""
    force_state(member.table, bucket, State.EMPTY)
    use(member, bucket)


def drain(member: MemberBuckets, *reserves: Reserve) -> None:
    for reserve in reserves:
        for bucket in member.reserves.lists[reserve]:
            use_anyway(member, bucket)
        member.reserves.lists[reserve].clear()


def by_hand(
    member: MemberBuckets, *waiting: Reserve, policy: Replacement = Replacement.LRU
) -> AllocatorByHand:
    hand = AllocatorByHand(member, policy)
    hand.waiting = set(waiting)
    return hand


# Each step when it must be


def test_ready_buckets_are_pushed_before_anything_else() -> None:
    member = with_empty(20)
    drain(member, Reserve.NONE)
    member.retire(next(member.table.in_state(State.EMPTY)))
    invalidate(member)
    assert by_hand(member, Reserve.NONE).next_step() is Step.PUSH


def test_with_room_on_free_inc_victims_are_looked_for() -> None:
    member = with_empty(20)
    hand = by_hand(member)
    assert hand.next_step() is Step.INVALIDATE
    hand.do(Step.INVALIDATE)
    assert hand.next_step() is Step.WRITE_PRIOS


def test_a_full_free_inc_has_its_gens_written_once() -> None:
    member = with_empty(20)
    invalidate(member)
    hand = by_hand(member)
    hand.do(Step.WRITE_PRIOS)
    assert hand.snapshot is not None
    assert hand.next_step() is Step.WAIT
    hand.end_prios()
    assert member.free_inc.ready == 4


def test_a_set_that_is_not_synchronous_never_writes_prios() -> None:
    member = with_empty(20, synchronous=False)
    drain(member, Reserve.NONE, Reserve.MOVINGGC)
    hand = by_hand(member, Reserve.NONE)
    assert Step.WRITE_PRIOS not in hand.settle()
    assert member.reserves.room() == 0


def test_with_everything_full_there_is_nothing_to_do() -> None:
    member = with_empty(20)
    hand = by_hand(member)
    assert hand.settle() == [Step.INVALIDATE, Step.WRITE_PRIOS, Step.PUSH]
    assert member.reserves.room() == 0
    assert not member.free_inc.space
    assert hand.settle() == []


def test_a_partly_filled_free_inc_is_written_only_if_that_helps_somebody() -> None:
    member = with_empty(2)
    drain(member, Reserve.NONE)
    hand = by_hand(member)
    assert hand.settle() == [Step.INVALIDATE]
    assert (member.free_inc.awaiting_prios, member.invalidate_needs_gc) == (2, True)
    hand.waiting = {Reserve.BTREE}  # which lacks none
    assert Step.WRITE_PRIOS not in hand.settle()
    hand.waiting = {Reserve.NONE}
    assert hand.settle()[-2:] == [Step.WRITE_PRIOS, Step.PUSH]
    assert member.reserves.has(Reserve.NONE)


def test_a_partly_filled_free_inc_that_other_reserves_would_swallow_stays() -> None:
    member = with_empty(2)
    drain(member, Reserve.NONE, Reserve.MOVINGGC, Reserve.BTREE)
    hand = by_hand(member, Reserve.NONE)
    assert hand.settle() == [Step.INVALIDATE, Step.COLLECT]
    assert member.free_inc.awaiting_prios == 2


def test_a_short_pass_is_made_once_and_again_when_something_was_given_back() -> None:
    member = with_empty(2)
    hand = by_hand(member)
    hand.settle()
    assert hand.settle() == []
    member.table.dirty_sectors[519] = 0
    member.table.recount_sectors()
    member.settle(519)  # one is still too few
    assert hand.settle() == []
    member.table.dirty_sectors[518] = 0
    member.table.recount_sectors()
    member.settle(518)
    assert hand.settle()[:2] == [Step.INVALIDATE, Step.WRITE_PRIOS]


def test_a_short_pass_is_followed_by_one_collection_if_somebody_waits() -> None:
    member = with_empty(0)
    drain(member, Reserve.NONE)
    hand = by_hand(member, Reserve.NONE)
    assert hand.settle() == [Step.INVALIDATE, Step.COLLECT]
    assert hand.settle() == []
    assert by_hand(with_empty(0)).settle() == [Step.INVALIDATE]


def test_what_little_was_found_waits_for_the_collection_that_may_find_more() -> None:
    member = with_empty(2)
    drain(member, Reserve.NONE)
    hand = by_hand(member, Reserve.NONE)
    for step in (Step.INVALIDATE, Step.COLLECT, Step.WAIT):
        assert hand.next_step() is step
        hand.do(step)
    hand.end_collection()
    assert hand.next_step() is Step.WRITE_PRIOS


@every_policy
def test_one_bucket_is_found_by_every_policy_if_somebody_waits_for_it(policy: Replacement) -> None:
    member = with_empty(1)
    drain(member, Reserve.NONE)
    hand = by_hand(member, Reserve.NONE, policy=policy)
    hand.settle()
    assert member.reserves.has(Reserve.NONE)


class Unlucky:
    """Draws the same bucket again and again."""

    def integers(self, low: int, _high: int, count: int) -> np.ndarray:
        return np.full(count, low)


def test_somebody_who_comes_later_has_all_buckets_looked_at() -> None:
    member = with_empty(1)
    drain(member, Reserve.NONE)
    hand = by_hand(member, policy=Replacement.RANDOM)
    policy = member.policies[Replacement.RANDOM]
    assert isinstance(policy, Random)
    policy.rng = Unlucky()  # type: ignore[assignment]
    hand.settle()
    assert member.free_inc.awaiting_prios == 0
    hand.waiting = {Reserve.NONE}
    assert hand.settle()[0] is Step.INVALIDATE  # no collection is needed for that
    assert member.reserves.has(Reserve.NONE)


# The guard


def far(member: MemberBuckets, column: str, distance: int) -> None:
    """Gens of some buckets so far ahead of the index's oldest or of those on disk."""
    for bucket in list(member.table.in_state(State.DIRTY))[:3]:
        getattr(member.table, column)[bucket] = member.table.gens[bucket] - distance & 255
    for _ in member.table.recount_distances():
        pass


@pytest.mark.parametrize(
    ("distance", "steps"), [(WRITE_DISTANCE - 1, []), (WRITE_DISTANCE, [Step.WRITE_PRIOS])]
)
def test_prios_are_written_before_gens_run_away_from_the_disk(distance: int, steps: list[Step]) -> None:
    member = with_empty(20)
    hand = by_hand(member)
    hand.settle()
    far(member, "gens_on_disk", distance)
    assert hand.settle()[: len(steps) or 1] == steps
    assert member.table.distance_disk < WRITE_DISTANCE


@pytest.mark.parametrize(
    ("distance", "steps"), [(COLLECT_DISTANCE - 1, []), (COLLECT_DISTANCE, [Step.COLLECT])]
)
def test_garbage_is_collected_before_gens_run_away_from_the_index(distance: int, steps: list[Step]) -> None:
    member = with_empty(20)
    hand = by_hand(member)
    hand.settle()
    far(member, "last_gc", distance)
    assert hand.settle() == steps
    assert member.table.distance_index < COLLECT_DISTANCE


@pytest.mark.parametrize("column", ["last_gc", "gens_on_disk"])
@every_policy
def test_buckets_held_back_by_their_gens_come_free_for_whoever_waits(
    column: str, policy: Replacement
) -> None:
    member = with_empty(3)
    drain(member, Reserve.NONE)
    for bucket in member.table.in_state(State.EMPTY):
        getattr(member.table, column)[bucket] = member.table.gens[bucket] - GEN_DISTANCE_MAX & 255
    for _ in member.table.recount_distances():
        pass
    hand = by_hand(member, Reserve.NONE, policy=policy)
    hand.settle()
    assert member.reserves.has(Reserve.NONE)


# All of it, from everywhere


Start = tuple[int, int, int, int, tuple[Reserve, ...], tuple[Reserve, ...], str]


def states() -> list[Start]:
    """How many empty, awaiting, ready and unused buckets; drained reserves; who waits; what is far."""
    found: list[Start] = list(
        product(
            (0, 1, 6),
            (0, 2, 4),
            (0, 2),
            (0, 1),
            ((), (Reserve.NONE,), (Reserve.NONE, Reserve.MOVINGGC, Reserve.BTREE)),
            ((), (Reserve.NONE,), (Reserve.BTREE,)),
            ("", "last_gc", "gens_on_disk"),
        )
    )
    return [state for state in found if state[4] or not state[5]]  # with full reserves nobody waits


def in_state(
    empty: int, awaiting: int, ready: int, unused: int, drained: tuple[Reserve, ...], far_from: str
) -> MemberBuckets:
    member = with_empty(empty + awaiting + ready + unused + 1)
    for count, is_ready in ((ready, True), (awaiting, False)):
        for bucket in list(member.table.in_state(State.EMPTY))[: min(count, member.free_inc.space)]:
            member.table.bump(bucket)
            force_state(member.table, bucket, State.FREE_INC)
            member.free_inc.buckets.append(bucket)
        if is_ready and member.free_inc:
            write_prios(member)
            member.push(list(member.unused.buckets))  # the chain before
    for bucket in list(member.table.in_state(State.EMPTY))[:unused]:
        member.retire(bucket)
    use(member, *list(member.table.in_state(State.EMPTY))[empty:])
    drain(member, *drained)
    if far_from:
        for bucket in list(member.table.in_state(State.EMPTY))[:2]:
            getattr(member.table, far_from)[bucket] = member.table.gens[bucket] - GEN_DISTANCE_MAX & 255
        for _ in member.table.recount_distances():
            pass
    return member


def wrong(member: MemberBuckets) -> list[str]:
    return violations(SectorAllocator([member]), [], [metadata_of(member)])


def outlook(hand: AllocatorByHand) -> tuple[object, ...]:
    """All that a step can change."""
    member = hand.buckets
    fifos = (*member.reserves.lists, member.free_inc.buckets, member.unused.buckets)
    lists = [tuple(buckets) for buckets in fifos]
    tried = (hand.tried.invalidated_at, hand.tried.was_exhaustive, hand.tried.collected_at)
    return (*lists, tried, hand.prios_asked, hand.marking, member.prio_chains.writes, hand.collections)


@pytest.mark.no_cover
@pytest.mark.parametrize("delayed", [False, True], ids=["at once", "delayed"])
def test_from_everywhere_it_comes_to_rest_with_all_done_that_could_be(delayed: bool) -> None:
    for empty, awaiting, ready, unused, drained, waiting, far_from in states():
        case = f"{empty=} {awaiting=} {ready=} {unused=} {drained=} {waiting=} {far_from=}"
        member = in_state(empty, awaiting, ready, unused, drained, far_from)
        hand = by_hand(member, *waiting)
        before: set[tuple[object, ...]] = set()
        while (step := hand.next_step()) is not Step.WAIT:
            look = (step, *outlook(hand))
            assert look not in before, f"{step.name} again, and nothing changed: {case}"
            before.add(look)
            hand.do(step)
            if not delayed:
                finish(hand)
        finish(hand)
        hand.settle(delayed=delayed)
        assert wrong(member) == [], case
        did = Counter(hand.steps)
        assert did[Step.COLLECT] <= 3, case
        assert did[Step.WRITE_PRIOS] <= 3, case
        assert not hand.prios_asked, f"a prio write waits for ever: {case}"
        assert not (member.reserves.room() and member.ready), case
        for reserve in waiting:
            assert served(hand, reserve), case


def finish(hand: AllocatorByHand) -> None:
    if hand.marking is not None:
        hand.end_collection()
    if hand.snapshot is not None:
        hand.end_prios()


def served(hand: AllocatorByHand, reserve: Reserve) -> bool:
    """Whether somebody who waits has a bucket, or there are none beyond what other reserves lack."""
    member = hand.buckets
    before = takewhile(lambda lack: lack[0] is not reserve, member.reserves.lacking())
    lacking = sum(count for _, count in before)
    there = member.table.reclaimable_count + len(member.free_inc) + len(member.unused.buckets)
    return member.reserves.has(reserve) or there <= lacking


# Buckets that only data may use


def with_only_tainted(count: int) -> MemberBuckets:
    """Nothing is left but a prio chain, and so many buckets that keys on disk may name."""
    member = with_empty(count)
    drain(member, Reserve.BTREE, Reserve.MOVINGGC, Reserve.NONE)
    for bucket in list(member.table.in_state(State.EMPTY)):
        member.add_live(bucket, 4, False)
        member.remove_live(bucket, 4, False, 1)
    member.emptying_durable(1)
    assert member.unused.only_for_data == count
    return member


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("delayed", [False, True], ids=["at once", "delayed"])
def test_prios_are_written_for_a_node_that_waits_for_buckets_only_data_may_use(
    count: int, delayed: bool
) -> None:
    member = with_only_tainted(count)
    hand = by_hand(member, Reserve.BTREE)
    steps = hand.settle(delayed=delayed)
    if count == 1:  # it is in the reserve of the moving collector, and the chain before makes up for no more
        assert Step.WRITE_PRIOS not in steps
        return
    assert steps.count(Step.WRITE_PRIOS) == 1
    assert member.reserves.has(Reserve.BTREE)
    assert wrong(member) == []


def test_prios_are_not_written_for_data_that_only_data_may_use() -> None:
    member = with_only_tainted(4)
    hand = by_hand(member, Reserve.NONE)
    assert Step.WRITE_PRIOS not in hand.settle()
    assert member.reserves.has(Reserve.NONE)
    assert member.unused.only_for_data == 2
    assert member.reserves.room()


def test_where_prios_need_not_be_durable_everything_is_for_everybody() -> None:
    member = with_empty(2, synchronous=False)
    drain(member, Reserve.BTREE)
    for bucket in list(member.table.in_state(State.EMPTY)):
        member.add_live(bucket, 4, False)
        member.remove_live(bucket, 4, False, 1)
        member.retire(bucket)
    by_hand(member, Reserve.BTREE).settle()
    assert member.reserves.count(Reserve.BTREE) == 2


# Dirty data moved together


def next_of(
    member: MemberBuckets, hand: AllocatorByHand, *, collecting: bool = False, evacuating: bool = False
) -> Step:
    return next_step(
        member,
        hand.tried,
        synchronous=True,
        collections=0,
        collecting=collecting,
        waiting=frozenset(hand.waiting),
        may_evacuate=True,
        evacuating=evacuating,
    )


def dry(*waiting: Reserve) -> tuple[MemberBuckets, AllocatorByHand]:
    """A member in which all buckets hold dirty data, and a pass found none."""
    member = with_empty(0)
    drain(member, Reserve.NONE)
    hand = by_hand(member, *waiting)
    hand.do(Step.INVALIDATE)
    return member, hand


def test_dirty_data_is_moved_when_a_pass_found_too_little_and_somebody_waits() -> None:
    member, hand = dry()
    assert next_of(member, hand) is Step.WAIT
    hand.waiting = {Reserve.NONE}
    assert next_of(member, hand) is Step.EVACUATE
    assert next_of(member, hand, collecting=True) is Step.WAIT
    assert hand.next_step() is Step.COLLECT, "it may not be moved"


def test_while_it_is_moved_no_collection_is_asked_for() -> None:
    member, hand = dry(Reserve.NONE)
    assert next_of(member, hand, evacuating=True) is Step.WAIT


def test_an_evacuation_that_gained_nothing_is_repeated_only_after_a_change() -> None:
    member, hand = dry(Reserve.NONE)
    member.evacuation_was_fruitless(member.evacuation_finds())
    assert next_of(member, hand) is Step.COLLECT
    hand.tried.collection_requested(member)
    assert next_of(member, hand) is Step.WAIT
    bucket = next(member.table.in_state(State.DIRTY))
    member.add_live(bucket, 1, dirty=True)
    assert next_of(member, hand) is Step.WAIT
    member.remove_live(bucket, 1, dirty=True, seq=1)
    assert next_of(member, hand) is Step.EVACUATE


def test_buckets_that_are_on_their_way_to_somebody_come_first() -> None:
    member, hand = dry(Reserve.NONE)
    bucket = next(member.table.in_state(State.DIRTY))
    member.remove_live(bucket, 1, dirty=True, seq=1)
    hand.do(Step.INVALIDATE)
    assert next_of(member, hand) is Step.WRITE_PRIOS


def test_gens_that_hold_buckets_back_are_seen_to_first() -> None:
    member, hand = dry(Reserve.NONE)
    member.held_back = 1
    assert next_of(member, hand) is Step.COLLECT
    hand.tried.collection_requested(member)
    assert next_of(member, hand) is Step.EVACUATE
