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
from instruments.samples.small_cache import a_cache, fill_reserves, invalidate, metadata_of, use, write_prios

every_policy = pytest.mark.parametrize("policy", list(Replacement), ids=lambda policy: policy.name.lower())


def with_empty(count: int, **options: Any) -> MemberBuckets:
    """A cache with full reserves and so many empty buckets; all others are in use for good."""
    cache = a_cache(**options)
    fill_reserves(cache)
    for bucket in [*cache.free_inc, *cache.unused.buckets]:
        use_anyway(cache, bucket)
        cache.free_inc._left += bucket in cache.free_inc
    cache.free_inc.buckets.clear()
    cache.unused.buckets.clear()
    table = cache.table
    in_use = np.flatnonzero(table.states_array == State.EMPTY)[count:]
    table.states_array[in_use] = State.DIRTY
    for column in (table.sectors_array, table.dirty_sectors_array, table.tainted_array):
        column[in_use] = 1
    table.counts[State.EMPTY] -= len(in_use)
    table.counts[State.DIRTY] += len(in_use)
    return cache


def use_anyway(cache: MemberBuckets, bucket: int) -> None:
    """Put data into a bucket, wherever it stands."""
    force_state(cache.table, bucket, State.EMPTY)
    use(cache, bucket)


def drain(cache: MemberBuckets, *reserves: Reserve) -> None:
    for reserve in reserves:
        for bucket in cache.reserves.lists[reserve]:
            use_anyway(cache, bucket)
        cache.reserves.lists[reserve].clear()


def by_hand(
    cache: MemberBuckets, *waiting: Reserve, policy: Replacement = Replacement.LRU
) -> AllocatorByHand:
    hand = AllocatorByHand(cache, policy)
    hand.waiting = set(waiting)
    return hand


# Each step when it must be


def test_ready_buckets_are_pushed_before_anything_else() -> None:
    cache = with_empty(20)
    drain(cache, Reserve.NONE)
    cache.retire(next(cache.table.in_state(State.EMPTY)))
    invalidate(cache)
    assert by_hand(cache, Reserve.NONE).next_step() is Step.PUSH


def test_with_room_on_free_inc_victims_are_looked_for() -> None:
    cache = with_empty(20)
    hand = by_hand(cache)
    assert hand.next_step() is Step.INVALIDATE
    hand.do(Step.INVALIDATE)
    assert hand.next_step() is Step.WRITE_PRIOS


def test_a_full_free_inc_has_its_gens_written_once() -> None:
    cache = with_empty(20)
    invalidate(cache)
    hand = by_hand(cache)
    hand.do(Step.WRITE_PRIOS)
    assert hand.snapshot is not None
    assert hand.next_step() is Step.WAIT
    hand.end_prios()
    assert cache.free_inc.ready == 4


def test_a_set_that_is_not_synchronous_never_writes_prios() -> None:
    cache = with_empty(20, synchronous=False)
    drain(cache, Reserve.NONE, Reserve.MOVINGGC)
    hand = by_hand(cache, Reserve.NONE)
    assert Step.WRITE_PRIOS not in hand.settle()
    assert cache.reserves.room() == 0


def test_with_everything_full_there_is_nothing_to_do() -> None:
    cache = with_empty(20)
    hand = by_hand(cache)
    assert hand.settle() == [Step.INVALIDATE, Step.WRITE_PRIOS, Step.PUSH]
    assert cache.reserves.room() == 0
    assert not cache.free_inc.space
    assert hand.settle() == []


def test_a_partly_filled_free_inc_is_written_only_if_that_helps_somebody() -> None:
    cache = with_empty(2)
    drain(cache, Reserve.NONE)
    hand = by_hand(cache)
    assert hand.settle() == [Step.INVALIDATE]
    assert (cache.free_inc.awaiting_prios, cache.invalidate_needs_gc) == (2, True)
    hand.waiting = {Reserve.BTREE}  # which lacks none
    assert Step.WRITE_PRIOS not in hand.settle()
    hand.waiting = {Reserve.NONE}
    assert hand.settle()[-2:] == [Step.WRITE_PRIOS, Step.PUSH]
    assert cache.reserves.has(Reserve.NONE)


def test_a_partly_filled_free_inc_that_other_reserves_would_swallow_stays() -> None:
    cache = with_empty(2)
    drain(cache, Reserve.NONE, Reserve.MOVINGGC, Reserve.BTREE)
    hand = by_hand(cache, Reserve.NONE)
    assert hand.settle() == [Step.INVALIDATE, Step.COLLECT]
    assert cache.free_inc.awaiting_prios == 2


def test_a_short_pass_is_made_once_and_again_when_something_was_given_back() -> None:
    cache = with_empty(2)
    hand = by_hand(cache)
    hand.settle()
    assert hand.settle() == []
    cache.table.dirty_sectors[519] = 0
    cache.settle(519)  # one is still too few
    assert hand.settle() == []
    cache.table.dirty_sectors[518] = 0
    cache.settle(518)
    assert hand.settle()[:2] == [Step.INVALIDATE, Step.WRITE_PRIOS]


def test_a_short_pass_is_followed_by_one_collection_if_somebody_waits() -> None:
    cache = with_empty(0)
    drain(cache, Reserve.NONE)
    hand = by_hand(cache, Reserve.NONE)
    assert hand.settle() == [Step.INVALIDATE, Step.COLLECT]
    assert hand.settle() == []
    assert by_hand(with_empty(0)).settle() == [Step.INVALIDATE]


def test_what_little_was_found_waits_for_the_collection_that_may_find_more() -> None:
    cache = with_empty(2)
    drain(cache, Reserve.NONE)
    hand = by_hand(cache, Reserve.NONE)
    for step in (Step.INVALIDATE, Step.COLLECT, Step.WAIT):
        assert hand.next_step() is step
        hand.do(step)
    hand.end_collection()
    assert hand.next_step() is Step.WRITE_PRIOS


@every_policy
def test_one_bucket_is_found_by_every_policy_if_somebody_waits_for_it(policy: Replacement) -> None:
    cache = with_empty(1)
    drain(cache, Reserve.NONE)
    hand = by_hand(cache, Reserve.NONE, policy=policy)
    hand.settle()
    assert cache.reserves.has(Reserve.NONE)


class Unlucky:
    """Draws the same bucket again and again."""

    def integers(self, low: int, _high: int, count: int) -> np.ndarray:
        return np.full(count, low)


def test_somebody_who_comes_later_has_all_buckets_looked_at() -> None:
    cache = with_empty(1)
    drain(cache, Reserve.NONE)
    hand = by_hand(cache, policy=Replacement.RANDOM)
    policy = cache.policies[Replacement.RANDOM]
    assert isinstance(policy, Random)
    policy.rng = Unlucky()  # type: ignore[assignment]
    hand.settle()
    assert cache.free_inc.awaiting_prios == 0
    hand.waiting = {Reserve.NONE}
    assert hand.settle()[0] is Step.INVALIDATE  # no collection is needed for that
    assert cache.reserves.has(Reserve.NONE)


# The guard


def far(cache: MemberBuckets, column: str, distance: int) -> None:
    """Gens of some buckets so far ahead of the index's oldest or of those on disk."""
    for bucket in list(cache.table.in_state(State.DIRTY))[:3]:
        getattr(cache.table, column)[bucket] = cache.table.gens[bucket] - distance & 255
    for _ in cache.table.recount_distances():
        pass


@pytest.mark.parametrize(
    ("distance", "steps"), [(WRITE_DISTANCE - 1, []), (WRITE_DISTANCE, [Step.WRITE_PRIOS])]
)
def test_prios_are_written_before_gens_run_away_from_the_disk(distance: int, steps: list[Step]) -> None:
    cache = with_empty(20)
    hand = by_hand(cache)
    hand.settle()
    far(cache, "gens_on_disk", distance)
    assert hand.settle()[: len(steps) or 1] == steps
    assert cache.table.distance_disk < WRITE_DISTANCE


@pytest.mark.parametrize(
    ("distance", "steps"), [(COLLECT_DISTANCE - 1, []), (COLLECT_DISTANCE, [Step.COLLECT])]
)
def test_garbage_is_collected_before_gens_run_away_from_the_index(distance: int, steps: list[Step]) -> None:
    cache = with_empty(20)
    hand = by_hand(cache)
    hand.settle()
    far(cache, "last_gc", distance)
    assert hand.settle() == steps
    assert cache.table.distance_index < COLLECT_DISTANCE


@pytest.mark.parametrize("column", ["last_gc", "gens_on_disk"])
@every_policy
def test_buckets_held_back_by_their_gens_come_free_for_whoever_waits(
    column: str, policy: Replacement
) -> None:
    cache = with_empty(3)
    drain(cache, Reserve.NONE)
    for bucket in cache.table.in_state(State.EMPTY):
        getattr(cache.table, column)[bucket] = cache.table.gens[bucket] - GEN_DISTANCE_MAX & 255
    for _ in cache.table.recount_distances():
        pass
    hand = by_hand(cache, Reserve.NONE, policy=policy)
    hand.settle()
    assert cache.reserves.has(Reserve.NONE)


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
    cache = with_empty(empty + awaiting + ready + unused + 1)
    for count, is_ready in ((ready, True), (awaiting, False)):
        for bucket in list(cache.table.in_state(State.EMPTY))[: min(count, cache.free_inc.space)]:
            cache.table.bump(bucket)
            force_state(cache.table, bucket, State.FREE_INC)
            cache.free_inc.buckets.append(bucket)
        if is_ready and cache.free_inc:
            write_prios(cache)
            cache.push(list(cache.unused.buckets))  # the chain before
    for bucket in list(cache.table.in_state(State.EMPTY))[:unused]:
        cache.retire(bucket)
    use(cache, *list(cache.table.in_state(State.EMPTY))[empty:])
    drain(cache, *drained)
    if far_from:
        for bucket in list(cache.table.in_state(State.EMPTY))[:2]:
            getattr(cache.table, far_from)[bucket] = cache.table.gens[bucket] - GEN_DISTANCE_MAX & 255
        for _ in cache.table.recount_distances():
            pass
    return cache


def wrong(cache: MemberBuckets) -> list[str]:
    return violations(SectorAllocator([cache]), [], [metadata_of(cache)])


def outlook(hand: AllocatorByHand) -> tuple[object, ...]:
    """All that a step can change."""
    cache = hand.cache
    fifos = (*cache.reserves.lists, cache.free_inc.buckets, cache.unused.buckets)
    lists = [tuple(buckets) for buckets in fifos]
    tried = (hand.tried.invalidated_at, hand.tried.was_exhaustive, hand.tried.collected_at)
    return (*lists, tried, hand.prios_asked, hand.marking, cache.prio_chains.writes, hand.collections)


@pytest.mark.parametrize("delayed", [False, True], ids=["at once", "delayed"])
def test_from_everywhere_it_comes_to_rest_with_all_done_that_could_be(delayed: bool) -> None:
    for empty, awaiting, ready, unused, drained, waiting, far_from in states():
        case = f"{empty=} {awaiting=} {ready=} {unused=} {drained=} {waiting=} {far_from=}"
        cache = in_state(empty, awaiting, ready, unused, drained, far_from)
        hand = by_hand(cache, *waiting)
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
        assert wrong(cache) == [], case
        did = Counter(hand.steps)
        assert did[Step.COLLECT] <= 3, case
        assert did[Step.WRITE_PRIOS] <= 3, case
        assert not hand.prios_asked, f"a prio write waits for ever: {case}"
        assert not (cache.reserves.room() and cache.ready), case
        for reserve in waiting:
            assert served(hand, reserve), case


def finish(hand: AllocatorByHand) -> None:
    if hand.marking is not None:
        hand.end_collection()
    if hand.snapshot is not None:
        hand.end_prios()


def served(hand: AllocatorByHand, reserve: Reserve) -> bool:
    """Whether somebody who waits has a bucket, or there are none beyond what other reserves lack."""
    cache = hand.cache
    before = takewhile(lambda lack: lack[0] is not reserve, cache.reserves.lacking())
    lacking = sum(count for _, count in before)
    there = cache.table.reclaimable_count + len(cache.free_inc) + len(cache.unused.buckets)
    return cache.reserves.has(reserve) or there <= lacking


# Buckets that only data may use


def with_only_tainted(count: int) -> MemberBuckets:
    """Nothing is left but a prio chain, and so many buckets that keys on disk may name."""
    cache = with_empty(count)
    drain(cache, Reserve.BTREE, Reserve.MOVINGGC, Reserve.NONE)
    for bucket in list(cache.table.in_state(State.EMPTY)):
        cache.add_live(bucket, 4, False)
        cache.remove_live(bucket, 4, False, 1)
    cache.emptying_durable(1)
    assert cache.unused.only_for_data == count
    return cache


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("delayed", [False, True], ids=["at once", "delayed"])
def test_prios_are_written_for_a_node_that_waits_for_buckets_only_data_may_use(
    count: int, delayed: bool
) -> None:
    cache = with_only_tainted(count)
    hand = by_hand(cache, Reserve.BTREE)
    steps = hand.settle(delayed=delayed)
    if count == 1:  # it is in the reserve of the moving collector, and the chain before makes up for no more
        assert Step.WRITE_PRIOS not in steps
        return
    assert steps.count(Step.WRITE_PRIOS) == 1
    assert cache.reserves.has(Reserve.BTREE)
    assert wrong(cache) == []


def test_prios_are_not_written_for_data_that_only_data_may_use() -> None:
    cache = with_only_tainted(4)
    hand = by_hand(cache, Reserve.NONE)
    assert Step.WRITE_PRIOS not in hand.settle()
    assert cache.reserves.has(Reserve.NONE)
    assert cache.unused.only_for_data == 2
    assert cache.reserves.room()


def test_where_prios_need_not_be_durable_everything_is_for_everybody() -> None:
    cache = with_empty(2, synchronous=False)
    drain(cache, Reserve.BTREE)
    for bucket in list(cache.table.in_state(State.EMPTY)):
        cache.add_live(bucket, 4, False)
        cache.remove_live(bucket, 4, False, 1)
        cache.retire(bucket)
    by_hand(cache, Reserve.BTREE).settle()
    assert cache.reserves.count(Reserve.BTREE) == 2


# Dirty data moved together


def next_of(
    cache: MemberBuckets, hand: AllocatorByHand, *, collecting: bool = False, evacuating: bool = False
) -> Step:
    return next_step(
        cache,
        hand.tried,
        synchronous=True,
        collections=0,
        collecting=collecting,
        waiting=frozenset(hand.waiting),
        may_evacuate=True,
        evacuating=evacuating,
    )


def dry(*waiting: Reserve) -> tuple[MemberBuckets, AllocatorByHand]:
    """A cache in which all buckets hold dirty data, and a pass found none."""
    cache = with_empty(0)
    drain(cache, Reserve.NONE)
    hand = by_hand(cache, *waiting)
    hand.do(Step.INVALIDATE)
    return cache, hand


def test_dirty_data_is_moved_when_a_pass_found_too_little_and_somebody_waits() -> None:
    cache, hand = dry()
    assert next_of(cache, hand) is Step.WAIT
    hand.waiting = {Reserve.NONE}
    assert next_of(cache, hand) is Step.EVACUATE
    assert next_of(cache, hand, collecting=True) is Step.WAIT
    assert hand.next_step() is Step.COLLECT, "it may not be moved"


def test_while_it_is_moved_no_collection_is_asked_for() -> None:
    cache, hand = dry(Reserve.NONE)
    assert next_of(cache, hand, evacuating=True) is Step.WAIT


def test_an_evacuation_that_gained_nothing_is_repeated_only_after_a_change() -> None:
    cache, hand = dry(Reserve.NONE)
    cache.evacuation_was_fruitless(cache.evacuation_finds())
    assert next_of(cache, hand) is Step.COLLECT
    hand.tried.collection_requested(cache)
    assert next_of(cache, hand) is Step.WAIT
    bucket = next(cache.table.in_state(State.DIRTY))
    cache.add_live(bucket, 1, dirty=True)
    assert next_of(cache, hand) is Step.WAIT
    cache.remove_live(bucket, 1, dirty=True, seq=1)
    assert next_of(cache, hand) is Step.EVACUATE


def test_buckets_that_are_on_their_way_to_somebody_come_first() -> None:
    cache, hand = dry(Reserve.NONE)
    bucket = next(cache.table.in_state(State.DIRTY))
    cache.remove_live(bucket, 1, dirty=True, seq=1)
    hand.do(Step.INVALIDATE)
    assert next_of(cache, hand) is Step.WRITE_PRIOS


def test_gens_that_hold_buckets_back_are_seen_to_first() -> None:
    cache, hand = dry(Reserve.NONE)
    cache.held_back = 1
    assert next_of(cache, hand) is Step.COLLECT
    hand.tried.collection_requested(cache)
    assert next_of(cache, hand) is Step.EVACUATE
