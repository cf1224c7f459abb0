# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.keys import Pointer
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.placement import members_with, space, take_data_buckets
from bcached.state.buckets.reserves import Reserve
from instruments.samples.bucket_states import force_state
from instruments.samples.small_member import BUCKET_SECTORS, GEOMETRY, a_member, fill_reserves


def some_members(*ready: bool) -> list[MemberBuckets]:
    """One member for each: whether a bucket for data is ready."""
    members = [a_member(GEOMETRY, device) for device in range(len(ready))]
    for member, is_ready in zip(members, ready, strict=True):
        fill_reserves(member)
        if not is_ready:
            member.reserves.lists[Reserve.NONE].clear()
    return members


def use(member: MemberBuckets, buckets: int) -> None:
    for bucket in list(member.table.in_state(State.EMPTY))[:buckets]:
        force_state(member.table, bucket, State.DIRTY)


def devices(chosen: list[MemberBuckets] | None) -> list[int] | None:
    return None if chosen is None else [member.device for member in chosen]


def test_space_is_what_is_free_or_could_be_made_so() -> None:
    (member,) = some_members(True)
    before = space(member)
    use(member, 3)
    assert before - space(member) == 3 * BUCKET_SECTORS
    for state in (State.FREE, State.FREE_INC, State.UNUSED, State.CLEAN):
        force_state(member.table, 300, State.EMPTY)
        full = space(member)
        force_state(member.table, 300, state)
        assert space(member) == full
    for state in (State.OPEN, State.HELD, State.QUARANTINE, State.DIRTY, State.BTREE):
        force_state(member.table, 300, state)
        assert space(member) == full - BUCKET_SECTORS


def test_the_member_with_most_space_comes_first() -> None:
    members = some_members(True, True, True)
    use(members[0], 5)
    use(members[2], 2)
    assert devices(members_with(members, Reserve.NONE, 3)) == [1, 2, 0]
    assert devices(members_with(members, Reserve.NONE, 1)) == [1]


def test_among_equals_the_one_with_the_oldest_data_then_the_first() -> None:
    members = some_members(True, True, True)
    members[0].oldest_prio, members[1].oldest_prio, members[2].oldest_prio = 9, 9, 3
    assert devices(members_with(members, Reserve.NONE, 3)) == [2, 0, 1]


def test_members_without_a_bucket_are_left_out() -> None:
    members = some_members(True, False, True)
    use(members[0], 5)
    assert devices(members_with(members, Reserve.NONE, 2)) == [2, 0]
    assert devices(members_with(members, Reserve.MOVINGGC, 3)) == [1, 2, 0]


@pytest.mark.parametrize("ready", [(True,), (True, False)])
def test_too_few_members_are_none(ready: tuple[bool, ...]) -> None:
    members = some_members(*ready)
    assert members_with(members, Reserve.NONE, 2) is None
    assert devices(members_with(members, Reserve.NONE, 1)) == [0]


def test_one_member_without_a_bucket_is_none() -> None:
    assert members_with(some_members(False), Reserve.NONE, 1) is None


def test_copies_are_taken_from_different_members_or_not_at_all() -> None:
    members = some_members(True, False, True)
    before = [list(member.reserves.lists[Reserve.NONE]) for member in members]
    gens = [
        member.table.gens[buckets[0]] if buckets else 0
        for member, buckets in zip(members, before, strict=True)
    ]
    assert take_data_buckets(members, Reserve.NONE, 3) is None
    assert [list(member.reserves.lists[Reserve.NONE]) for member in members] == before
    assert all(not member.table.counts[State.OPEN] for member in members)
    assert take_data_buckets(members, Reserve.NONE, 2) == (
        Pointer(0, before[0][0] * BUCKET_SECTORS, gens[0]),
        Pointer(2, before[2][0] * BUCKET_SECTORS, gens[2]),
    )
    assert [member.table.counts[State.OPEN] for member in members] == [1, 0, 1]
