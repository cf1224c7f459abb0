# SPDX-License-Identifier: GPL-2.0-only
"""Validity of keys: every pointer must have the present gen of a bucket that there is."""

import pytest

from bcached.errors import NotReserved, StaleKey
from bcached.keys import Key, Pointer
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import INITIAL_PRIO
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.sectors.key_validity import KeyValidity
from instruments.samples.bucket_states import force_state
from instruments.samples.small_member import BUCKET_SECTORS, BUCKETS, a_member

BUCKET = 300


def two_members() -> list[MemberBuckets]:
    return [a_member(device=0), a_member(device=1)]


def pointer(device: int = 0, bucket: int = BUCKET, gen: int = 0) -> Pointer:
    return Pointer(device, bucket * BUCKET_SECTORS + 8, gen)


def key(*pointers: Pointer) -> Key:
    return Key(1, 0, 8, False, pointers)


def test_the_present_gen_is_valid_and_no_other() -> None:
    members = two_members()
    validity = KeyValidity(members)
    members[0].table.gens[BUCKET] = 7
    validity.check(key(pointer(gen=7)))
    for gen in (6, 8):
        with pytest.raises(StaleKey) as refused:
            validity.check(key(pointer(gen=gen)))
        assert refused.value.fields["bucket_gen"] == 7


@pytest.mark.parametrize(
    "nowhere", [pointer(device=2), pointer(bucket=BUCKETS), pointer(bucket=0)], ids=["device", "end", "first"]
)
def test_a_pointer_to_no_bucket_is_stale(nowhere: Pointer) -> None:
    validity = KeyValidity(two_members())
    assert validity.gen_of(nowhere) is None
    assert not validity.is_current(nowhere)
    with pytest.raises(StaleKey):
        validity.check(key(nowhere))


def test_a_key_without_pointers_names_nothing_that_could_be_held() -> None:
    with pytest.raises(NotReserved):
        KeyValidity(two_members()).check(key())


def test_every_copy_must_be_current_for_a_commit_and_one_for_a_look_up() -> None:
    members = two_members()
    validity = KeyValidity(members)
    both = key(pointer(0), pointer(1))
    assert validity.current([both], touch=False) == [both]
    members[1].table.gens[BUCKET] = 1
    with pytest.raises(StaleKey):
        validity.check(both)
    assert validity.current([both], touch=False) == [key(pointer(0))]
    members[0].table.gens[BUCKET] = 1
    assert validity.current([both], touch=False) == []


@pytest.mark.parametrize("copies", [1, 2])
def test_a_read_renews_the_prio_of_data_only(copies: int) -> None:
    members = two_members()
    validity = KeyValidity(members)
    read = key(*(pointer(device) for device in range(copies)))
    for member in members:
        force_state(member.table, BUCKET, State.FREE)
        member.table.prios[BUCKET] = 5
    validity.current([read], touch=True)
    assert members[0].table.prios[BUCKET] == 5  # it is on a reserve
    for member in members:
        force_state(member.table, BUCKET, State.CLEAN)
    validity.current([read], touch=False)
    assert members[0].table.prios[BUCKET] == 5
    validity.current([read], touch=True)
    assert [member.table.prios[BUCKET] for member in members[:copies]] == [INITIAL_PRIO] * copies


def test_touching_passes_over_another_gen() -> None:
    members = two_members()
    validity = KeyValidity(members)
    table = members[0].table
    force_state(table, BUCKET, State.CLEAN)
    table.prios[BUCKET] = 5
    validity.touch([key(pointer(gen=1))])
    assert table.prios[BUCKET] == 5
    validity.touch([key(pointer(gen=0))])
    assert table.prios[BUCKET] == INITIAL_PRIO
