# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.keys import Key, Pointer
from bcached.state.accounting.live_sectors import LiveSectors
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve
from instruments.samples.small_member import BUCKET_SECTORS, GEOMETRY, a_member

BUCKET = 300


def two_members() -> tuple[LiveSectors, list[MemberBuckets]]:
    members = [a_member(GEOMETRY, device) for device in range(2)]
    return LiveSectors(members), members


def a_key(*gens: int, sectors: int = 8, dirty: bool = False) -> Key:
    """A key with a copy in BUCKET of as many devices."""
    pointers = tuple(Pointer(device, BUCKET * BUCKET_SECTORS + 4, gen) for device, gen in enumerate(gens))
    return Key(0, 0, sectors, dirty, pointers)


def counts(member: MemberBuckets) -> tuple[int, int]:
    return member.table.sectors[BUCKET], member.table.dirty_sectors[BUCKET]


def test_what_comes_counts_in_every_copys_bucket() -> None:
    live, members = two_members()
    live.add(a_key(0, 0))
    live.add(a_key(0, 0, sectors=3, dirty=True))
    assert [counts(member) for member in members] == [(11, 3), (11, 3)]
    assert [member.table.states[BUCKET] for member in members] == [State.DIRTY, State.DIRTY]


def test_what_goes_counts_no_more() -> None:
    live, members = two_members()
    live.add(a_key(0, 0))
    live.add(a_key(0, sectors=3, dirty=True))
    live.remove([a_key(0, 0), a_key(0, sectors=2, dirty=True)], 7)
    assert [counts(member) for member in members] == [(1, 1), (0, 0)]
    assert [dict(member.emptied) for member in members] == [{}, {BUCKET: 7}]


@pytest.mark.parametrize("gen", [4, 6, 250])
def test_pointers_of_another_gen_count_nothing(gen: int) -> None:
    live, members = two_members()
    for member in members:
        member.table.gens[BUCKET] = 5
    live.add(a_key(gen, 5))
    assert [counts(member) for member in members] == [(0, 0), (8, 0)]
    live.remove([a_key(gen, 5)], 3)
    assert [counts(member) for member in members] == [(0, 0), (0, 0)]
    assert not members[0].emptied


def test_deletions_and_devices_that_are_not_there_count_nothing() -> None:
    live, members = two_members()
    nowhere = Key(0, 0, 8, False, (Pointer(0xFFF, 64, 0),))
    deletion = Key(0, 0, 8, False, ())
    before = [bytes(member.table.sectors) for member in members]
    for key in (nowhere, deletion):
        live.add(key)
        live.remove([key], 1)
    assert [bytes(member.table.sectors) for member in members] == before


def test_a_collection_hears_of_every_pointer_that_goes_and_of_none_that_comes() -> None:
    live, members = two_members()
    heard: list[tuple[int, int, int]] = []
    live.marking = lambda device, bucket, gen: heard.append((device, bucket, gen))
    members[0].table.gens[BUCKET] = 5
    live.add(a_key(5, 0))
    assert heard == []
    live.remove([a_key(5, 0), a_key(3)], 1)  # the last one stale
    assert heard == [(0, BUCKET, 5), (1, BUCKET, 0), (0, BUCKET, 3)]
    live.marking = None
    live.add(a_key(5))
    live.remove([a_key(5)], 2)
    assert len(heard) == 3


def test_data_for_a_bucket_that_cannot_have_any_is_a_bug_of_ours() -> None:
    live, members = two_members()
    free = members[0].reserves.lists[Reserve.BTREE][0]
    key = Key(0, 0, 8, False, (Pointer(0, free * BUCKET_SECTORS, members[0].table.gens[free]),))
    with pytest.raises(AssertionError, match="which is FREE"):
        live.add(key)


def test_more_than_there_was_cannot_go() -> None:
    live, _ = two_members()
    live.add(a_key(0, sectors=8, dirty=False))
    with pytest.raises(AssertionError, match="sectors removed of"):
        live.remove([a_key(0, sectors=9)], 1)
