# SPDX-License-Identifier: GPL-2.0-only
"""Which buckets are emptied of dirty data, in which order, and when it is of no use."""

from random import Random

import numpy as np
import pytest

from bcached.state.buckets.bucket_table import Sectors, State
from bcached.state.buckets.evacuation import NOTHING, Evacuation, choose, least_gain, plan
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve
from instruments.samples.bucket_states import force_state
from instruments.samples.small_member import BUCKET_SECTORS, GEOMETRY, a_member, fill_reserves, run, use

NONE_WAITS = frozenset({Reserve.NONE})


def mixed(*dirty: int, clean: int = 2) -> MemberBuckets:
    """A member in which these buckets hold so much dirty data, beside clean data, all others nothing else."""
    member = a_member()
    fill_reserves(member)
    empty = list(member.table.in_state(State.EMPTY))
    for bucket, sectors in zip(empty, dirty, strict=False):
        if sectors < BUCKET_SECTORS:
            use(member, bucket, sectors=min(clean, BUCKET_SECTORS - sectors), dirty=False)
        use(member, bucket, sectors=sectors)
    use(member, *empty[len(dirty) :], sectors=BUCKET_SECTORS)
    member.free_inc.buckets.clear()
    member.unused.buckets.clear()
    return member


def planned(member: MemberBuckets, stuck: dict[int, int] | None = None, spare: int = 0) -> Evacuation:
    return run(plan(member, stuck_in(member, stuck or {}), NONE_WAITS, spare))


def stuck_in(member: MemberBuckets, sectors: dict[int, int]) -> Sectors:
    column = np.zeros_like(member.table.dirty_sectors_array)
    column[list(sectors)] = list(sectors.values())
    return column


def dirty_of(member: MemberBuckets, found: Evacuation) -> list[int]:
    return [member.table.dirty_sectors[bucket] for bucket in found.buckets.tolist()]


def test_those_with_least_dirty_data_go_first() -> None:
    member = mixed(9, 1, 5, 2)
    assert dirty_of(member, planned(member)) == [1, 2, 5]  # the fourth would fill one more
    assert planned(member).gain == 2


def test_of_equals_those_used_longest_ago_go_first() -> None:
    member = mixed(3, 3, 3)
    buckets = sorted(planned(member).buckets.tolist())
    for bucket, prio in zip(buckets, (300, 100, 200), strict=True):
        member.table.prios[bucket] = prio
    assert planned(member).buckets.tolist() == [buckets[1], buckets[2], buckets[0]]


def test_without_a_gain_nothing_is_moved() -> None:
    for dirty in ([], [BUCKET_SECTORS - 1], [BUCKET_SECTORS] * 5, [9, 8], [1]):
        assert planned(mixed(*dirty)).gain == 0
    assert NOTHING.gain == 0


def test_what_is_left_of_the_bucket_moved_to_last_is_room_too() -> None:
    member = mixed(5)
    assert planned(member, spare=4).gain == 0
    assert planned(member, spare=5).gain == 1


def test_a_bucket_of_which_nothing_can_be_moved_is_passed_over_until_it_changes() -> None:
    member = mixed(1, 2, 3)
    (first, *others) = planned(member).buckets.tolist()
    assert planned(member, {first: 1}).buckets.tolist() == others
    assert planned(member, {first: 2}).buckets.tolist() == [first, *others]


def test_a_bucket_whose_gen_cannot_go_up_is_passed_over() -> None:
    member = mixed(1, 2, 3)
    first, *others = planned(member).buckets.tolist()
    member.table.last_gc[first] = (member.table.gens[first] - GEN_DISTANCE_MAX) & 255
    assert planned(member).buckets.tolist() == others


def test_open_held_and_clean_buckets_are_left_alone() -> None:
    member = mixed(1, 1, 1, 1)
    buckets = planned(member).buckets.tolist()
    for bucket, state in zip(buckets, (State.OPEN, State.HELD), strict=False):
        force_state(member.table, bucket, state)
    assert planned(member).buckets.tolist() == buckets[2:]


@pytest.mark.parametrize("missing", range(6))
def test_a_round_is_worth_it_only_if_somebody_gets_a_bucket(missing: int) -> None:
    member = mixed(*[1] * 5)  # which gives four
    for _ in range(missing):
        force_state(member.table, member.reserves.lists[Reserve.BTREE].popleft(), State.HELD)
    member.reserves.lists[Reserve.NONE].clear()
    assert least_gain(member, NONE_WAITS) == 1 + missing
    assert planned(member).gain == (4 if missing < 4 else 0)
    assert run(plan(member, stuck_in(member, {}), frozenset({Reserve.BTREE}), 0)).gain == 4


def test_the_fewest_that_gain_enough_or_else_the_most() -> None:
    random = Random(1)
    for _ in range(2000):
        bucket_sectors, spare = random.choice([(8, 0), (16, 5), (128, 40)])
        dirty = sorted(random.randint(1, bucket_sectors) for _ in range(random.randint(0, 40)))
        least = random.randint(1, 4)
        enough = least + random.randint(0, 6)
        sums = np.cumsum(np.array(dirty, np.int64))
        over = [max(sum(dirty[:count]) - spare, 0) for count in range(1, len(dirty) + 1)]
        gains = [count - -(-sectors // bucket_sectors) for count, sectors in enumerate(over, 1)]
        goal = min(max(gains, default=0), enough)
        expected = (gains.index(goal) + 1, goal) if goal >= least else (0, 0)
        assert choose(sums, bucket_sectors, spare, least, enough) == expected


def test_round_after_round_dirty_data_becomes_as_dense_as_it_can_be() -> None:
    random = Random(2)
    for _ in range(200):
        left = sorted(random.randint(1, BUCKET_SECTORS) for _ in range(random.randint(1, 60)))
        total, used, spare = sum(left), len(left), 0
        while (chosen := choose(np.cumsum(np.array(left, np.int64)), BUCKET_SECTORS, spare, 1, 3))[0]:
            count, gain = chosen
            over = sum(left[:count]) - spare
            filled = -(-max(over, 0) // BUCKET_SECTORS)
            spare = filled * BUCKET_SECTORS - over
            left = left[count:]
            used -= gain
            assert count - filled == gain > 0
        assert used == -(-total // BUCKET_SECTORS)


def test_a_plan_never_counts_on_more_than_the_candidates_have() -> None:
    member = mixed(*[BUCKET_SECTORS // 2] * 9)
    found = planned(member)
    assert found.gain == len(found.buckets) - sum(dirty_of(member, found)) // BUCKET_SECTORS
    assert GEOMETRY.bucket_sectors == BUCKET_SECTORS
