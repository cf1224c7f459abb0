# SPDX-License-Identifier: GPL-2.0-only
from contextlib import suppress
from random import Random
from typing import NamedTuple

import pytest

from bcached.errors import LimitExceeded, NoSuchVolume, NotReserved, RequestError, StaleKey
from bcached.keys import Key, Pointer
from bcached.state.accounting.invariants import violations
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import Geometry
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors import sector_allocator
from bcached.state.sectors.reservations import WHOLE_BUCKET_INODE, Holder
from bcached.state.sectors.sector_allocator import SectorAllocator
from instruments.samples.bucket_states import force_state
from instruments.samples.small_member import (
    BUCKET_SECTORS,
    GEOMETRY,
    a_member,
    an_allocator,
    fill_reserves,
    metadata_of,
    run,
)


class Set:
    """A sector allocator over some members with full reserves, and a holder."""

    def __init__(self, members: int = 1, limit: int = 1000, geometry: Geometry = GEOMETRY) -> None:
        self.members = [a_member(geometry, device) for device in range(members)]
        self.allocator = an_allocator(*self.members)
        self.holders = [Holder(name, limit, geometry) for name in ("one", "two")]
        self.fill()

    def fill(self) -> None:
        for member in self.members:
            fill_reserves(member)

    def carve(self, sectors: int = 8, offset: int = 0, holder: int = 0, **options: object) -> Key:
        key = self.allocator.carve(self.holders[holder], 0, offset, sectors, 5, **options)  # type: ignore[arg-type]
        assert key is not None
        return key

    def verify(self) -> None:
        found = violations(self.allocator, self.holders, [metadata_of(member) for member in self.members])
        assert found == []

    def bucket(self, key: Key) -> int:
        return self.members[0].geometry.bucket_of(key.pointers[0].sector)

    def state(self, bucket: int) -> State:
        return State(self.members[0].table.states[bucket])

    def pins(self, bucket: int) -> int:
        return self.members[0].table.pins[bucket]

    def everything(self) -> tuple[object, ...]:
        """All that a refused request must leave as it was."""
        allocator = self.allocator
        return (
            [
                (bytes(member.table.states), bytes(member.table.gens), bytes(member.table.pins.cast("B")))
                for member in self.members
            ],
            [[list(buckets) for buckets in member.reserves.lists] for member in self.members],
            [(slot.stream, slot.writer, slot.sectors_free, slot.sectors) for slot in allocator.open_buckets],
            [
                (holder.total, {place: list(pieces) for place, pieces in holder.pieces.items()})
                for holder in self.holders
            ],
            (allocator.allocated_sectors, allocator.reserved_sectors, allocator.buckets_taken),
        )


def exhausted(members: int = 1) -> Set:
    """Nothing open, and no bucket ready for data."""
    a_set = Set(members)
    for member in a_set.members:
        while (bucket := member.reserves.take(Reserve.NONE)) is not None:
            member.table.become_metadata(bucket, State.BTREE)
    return a_set


# Cutting


class Asked(NamedTuple):
    inode: int
    offset: int
    sectors: int


@pytest.mark.parametrize("seed", range(6))
def test_a_row_is_carved_as_its_extents_are_one_by_one(seed: int) -> None:
    rng = Random(seed)
    geometry = Geometry(520, 1, 128, 8, 4)
    rows, single = Set(limit=150, geometry=geometry), Set(limit=150, geometry=geometry)
    shorter = 0
    for _ in range(40):
        asked = [Asked(0, 0, 8)]
        for _ in range(rng.randrange(30)):
            last = asked[-1]
            goes_on = rng.random() < 0.8
            inode = last.inode if goes_on or rng.random() < 0.8 else 3 - last.inode
            offset = last.offset + last.sectors if goes_on else 8 * rng.randrange(50)
            asked.append(Asked(inode, offset, 8 * rng.choice([1, 1, 2, 5])))
        holder, write_point = rng.randrange(2), rng.randrange(3)
        keys: list[Key] = []
        one_by_one: list[Key] = []
        with suppress(LimitExceeded):
            while len(keys) < len(asked) and (
                run := rows.allocator.carve_run(rows.holders[holder], asked, len(keys), write_point)
            ):
                keys += run
        with suppress(LimitExceeded):
            for one in asked:
                key = single.allocator.carve(single.holders[holder], *one, write_point)
                if key is None:
                    break
                one_by_one.append(key)
        assert keys == one_by_one
        shorter += len(keys) < len(asked)
        assert rows.everything() == single.everything()
        if rng.random() < 0.6:
            given_back = keys[:: rng.choice([1, 2])]
            for a_set in (rows, single):
                a_set.allocator.release(a_set.holders[holder], given_back)
                a_set.fill()
    assert shorter, "no limit was ever reached"
    rows.verify()


def test_a_key_names_its_extent_and_the_bucket_with_its_gen() -> None:
    a_set = Set()
    bucket = a_set.members[0].reserves.lists[Reserve.NONE][0]
    gen = a_set.members[0].table.gens[bucket]
    assert a_set.carve(8, 40) == Key(0, 40, 8, False, (Pointer(0, bucket * BUCKET_SECTORS, gen),))
    assert a_set.allocator.allocated_sectors == a_set.allocator.reserved_sectors == 8
    a_set.verify()


def test_every_piece_pins_and_the_last_one_takes_over_the_open_buckets_pin() -> None:
    a_set = Set()
    bucket = a_set.bucket(a_set.carve(4))
    assert (a_set.state(bucket), a_set.pins(bucket)) == (State.OPEN, 2)
    a_set.carve(2, 4)
    assert (a_set.state(bucket), a_set.pins(bucket)) == (State.OPEN, 3)
    a_set.carve(4, 6)  # the remainder, 6 sectors, is below a block
    assert (a_set.state(bucket), a_set.pins(bucket)) == (State.HELD, 3)
    a_set.verify()


def test_less_is_given_when_the_bucket_ends() -> None:
    a_set = Set()
    a_set.carve(8)
    assert a_set.carve(100, 8).sectors == 8
    a_set.verify()


def test_an_extent_that_is_not_to_be_divided_begins_in_the_next_bucket() -> None:
    it = Set()
    first = it.carve(BUCKET_SECTORS - 8, undivided=True)
    it.fill()
    second = it.carve(16, offset=1000, undivided=True)
    assert second.sectors == 16
    assert it.bucket(second) != it.bucket(first)
    it.fill()
    assert it.carve(BUCKET_SECTORS + 8, offset=2000, undivided=True).sectors == BUCKET_SECTORS
    it.verify()


def test_without_a_next_bucket_it_is_refused_and_the_rest_is_kept_for_others() -> None:
    it = Set()
    it.carve(BUCKET_SECTORS - 8, moving=True)
    for reserve in (Reserve.NONE, Reserve.MOVINGGC):
        while it.members[0].take_data(reserve) is not None:
            pass
    assert it.allocator.carve(it.holders[0], 0, 1000, 16, 5, moving=True, undivided=True) is None
    assert it.carve(16, offset=1000, moving=True).sectors == 8


def test_copies_lie_on_different_members() -> None:
    a_set = Set(3)
    key = a_set.carve(8, replicas=3)
    assert {pointer.device for pointer in key.pointers} == {0, 1, 2}
    assert a_set.allocator.reserved_sectors == 24
    assert a_set.allocator.allocated_sectors == 8
    a_set.verify()


def test_what_is_moved_comes_from_its_own_reserve_once_none_is_empty() -> None:
    a_set = exhausted()
    (moving,) = a_set.members[0].reserves.lists[Reserve.MOVINGGC]
    assert a_set.allocator.carve(a_set.holders[0], 0, 0, 8, 5) is None
    assert a_set.bucket(a_set.carve(moving=True)) == moving


def test_volumes_that_are_always_dirty_have_buckets_of_their_own() -> None:
    a_set = Set()
    cached = a_set.carve(4)
    a_set.fill()
    dirty = a_set.allocator.carve(a_set.holders[0], 3, 4, 4, 5)
    assert dirty is not None
    assert a_set.bucket(dirty) != a_set.bucket(cached)
    assert (dirty.dirty, cached.dirty) == (True, False)
    a_set.verify()


def test_a_slot_of_another_kind_is_closed_for_good() -> None:
    a_set = Set()
    bucket = a_set.bucket(a_set.carve(4))
    for slot in a_set.allocator.open_buckets:
        if slot.sectors_free:
            break
    a_set.fill()
    assert a_set.allocator._refill(slot, 3, Reserve.NONE, 1)
    assert (a_set.state(bucket), a_set.pins(bucket)) == (State.HELD, 1)
    a_set.verify()


# Refusals


def refusals(a_set: Set) -> dict[str, tuple[type[RequestError] | None, dict[str, object]]]:
    key = a_set.carve(4)
    pointer = key.pointers[0]

    def moved(**changes: int) -> Key:
        fields = {"device": pointer.device, "sector": pointer.sector, "gen": pointer.gen} | changes
        return Key(0, 0, 4, False, (Pointer(**fields),))

    return {
        "stale": (StaleKey, {"keys": [key, moved(gen=pointer.gen + 1 & 255)]}),
        "ahead": (StaleKey, {"keys": [key, moved(gen=pointer.gen - 1 & 255)]}),
        "no such member": (StaleKey, {"keys": [key, moved(device=9)]}),
        "in front of the buckets": (StaleKey, {"keys": [key, moved(sector=0)]}),
        "behind the buckets": (StaleKey, {"keys": [key, moved(sector=BUCKET_SECTORS * 520)]}),
        "not held": (NotReserved, {"keys": [key, moved(sector=pointer.sector + 4)]}),
        "twice": (NotReserved, {"keys": [key, key]}),
        "no pointers": (NotReserved, {"keys": [key, Key(0, 0, 4, False, ())]}),
    }


@pytest.mark.parametrize("case", refusals(Set()))
def test_a_release_that_cannot_be_changes_nothing(case: str) -> None:
    a_set = Set()
    error, arguments = refusals(a_set)[case]
    before = a_set.everything()
    with pytest.raises(error):  # type: ignore[arg-type]
        a_set.allocator.release(a_set.holders[0], **arguments)  # type: ignore[arg-type]
    assert a_set.everything() == before
    a_set.verify()


def test_a_stale_key_tells_the_gen_of_now() -> None:
    a_set = Set()
    key = a_set.carve(4)
    gen = key.pointers[0].gen
    old = Key(0, 0, 4, False, (Pointer(0, key.pointers[0].sector, gen - 1 & 255),))
    with pytest.raises(StaleKey) as refused:
        a_set.allocator.release(a_set.holders[0], [old])
    assert refused.value.fields == {"key": old, "bucket_gen": gen}


def test_nobody_releases_what_another_holds() -> None:
    a_set = Set()
    key = a_set.carve(4)
    before = a_set.everything()
    with pytest.raises(NotReserved):
        a_set.allocator.release(a_set.holders[1], [key])
    assert a_set.everything() == before


def test_there_is_nothing_for_a_volume_that_is_not() -> None:
    a_set = Set()
    before = a_set.everything()
    with pytest.raises(NoSuchVolume):
        a_set.allocator.carve(a_set.holders[0], 77, 0, 8, 5)
    assert a_set.everything() == before


@pytest.mark.parametrize("members", [1, 2])
def test_nothing_is_given_beyond_the_limit(members: int) -> None:
    a_set = Set(members, limit=members)
    a_set.carve(4, replicas=members)
    before = a_set.everything()
    with pytest.raises(LimitExceeded):
        a_set.carve(4, 4, replicas=members)
    with pytest.raises(LimitExceeded):
        a_set.allocator.take_buckets(a_set.holders[0], members)
    assert a_set.everything() == before


@pytest.mark.parametrize("members", [1, 2])
def test_without_a_bucket_there_is_nothing_and_nothing_changes(members: int) -> None:
    a_set = exhausted(members)
    before = a_set.everything()
    assert a_set.allocator.carve(a_set.holders[0], 0, 0, 8, 5, replicas=members) is None
    assert a_set.allocator.take_buckets(a_set.holders[0], members) is None
    assert a_set.everything() == before


def test_one_member_without_a_bucket_is_enough_for_that() -> None:
    a_set = Set(2)
    while (bucket := a_set.members[1].reserves.take(Reserve.NONE)) is not None:
        a_set.members[1].table.become_metadata(bucket, State.BTREE)
    before = a_set.everything()
    assert a_set.allocator.carve(a_set.holders[0], 0, 0, 8, 5, replicas=2) is None
    assert a_set.everything() == before
    assert a_set.carve(8).pointers[0].device == 0


def test_whoever_may_not_refill_takes_no_bucket_but_what_is_open() -> None:
    a_set = Set()
    a_set.carve(8)
    before = a_set.everything()
    assert a_set.allocator.carve(a_set.holders[0], 0, 999, 8, 77, may_refill=False) is None
    assert a_set.everything() == before
    assert a_set.carve(8, 8, may_refill=False).sectors == 8


# Whole buckets


def test_whole_buckets_belong_to_no_volume_and_go_whole() -> None:
    a_set = Set(2)
    key = a_set.allocator.take_buckets(a_set.holders[0], 2)
    assert key is not None
    assert (key.sectors, len(key.pointers)) == (BUCKET_SECTORS, 2)
    bucket = a_set.bucket(key)
    assert (a_set.state(bucket), a_set.pins(bucket)) == (State.HELD, 1)
    assert {inode for pieces in a_set.holders[0].pieces.values() for _, _, inode in pieces} == {
        WHOLE_BUCKET_INODE
    }
    a_set.verify()
    a_set.allocator.free_buckets(a_set.holders[0], key)
    assert a_set.allocator.reserved_sectors == 0
    a_set.verify()


def test_part_of_a_bucket_is_not_freed_as_a_whole() -> None:
    a_set = Set()
    key = a_set.allocator.take_buckets(a_set.holders[0], 1)
    assert key is not None
    part = Key(0, 0, 8, False, key.pointers)
    with pytest.raises(NotReserved):
        a_set.allocator.free_buckets(a_set.holders[0], part)
    a_set.allocator.release(a_set.holders[0], [part])
    before = a_set.everything()
    with pytest.raises(NotReserved):
        a_set.allocator.free_buckets(a_set.holders[0], key)
    assert a_set.everything() == before
    a_set.verify()


# Giving back


def test_a_closed_bucket_retires_with_its_last_pin() -> None:
    a_set = Set()
    keys = [a_set.carve(8), a_set.carve(8, 8)]
    bucket = a_set.bucket(keys[0])
    gen = a_set.members[0].table.gens[bucket]
    a_set.allocator.release(a_set.holders[0], keys[:1])
    assert a_set.state(bucket) == State.HELD
    a_set.allocator.release(a_set.holders[0], keys[1:])
    assert a_set.state(bucket) == State.UNUSED
    assert a_set.members[0].table.gens[bucket] == gen + 1
    a_set.verify()


def test_an_open_bucket_stays_open_without_pieces() -> None:
    a_set = Set()
    key = a_set.carve(8)
    a_set.allocator.release(a_set.holders[0], [key])
    assert (a_set.state(a_set.bucket(key)), a_set.pins(a_set.bucket(key))) == (State.OPEN, 1)
    a_set.verify()


def test_what_a_holder_has_ends_with_it() -> None:
    a_set = Set(2)
    for offset in (0, 8, 100, 200):
        a_set.fill()
        a_set.carve(8, offset, replicas=2)
    a_set.carve(4, 300, holder=1)
    a_set.allocator.end(a_set.holders[0])
    assert a_set.holders[0].total == 0
    assert a_set.allocator.reserved_sectors == 4
    a_set.verify()


# Quarantine


def quarantined_pair() -> tuple[Set, int]:
    """A closed bucket of which two holders have a half; the first is in quarantine."""
    a_set = Set()
    bucket = a_set.bucket(a_set.carve(8))
    a_set.carve(8, 8, holder=1)
    run(a_set.allocator.quarantine(a_set.holders[0]))
    return a_set, bucket


def test_a_bucket_in_quarantine_goes_back_to_whoever_else_holds_it() -> None:
    a_set, bucket = quarantined_pair()
    assert a_set.state(bucket) == State.QUARANTINE
    a_set.verify()
    run(a_set.allocator.end_quarantine(a_set.holders[0]))
    assert (a_set.state(bucket), a_set.pins(bucket)) == (State.HELD, 1)
    assert a_set.allocator.pins.quarantined == {}
    a_set.verify()


def test_a_bucket_stays_in_quarantine_when_the_others_are_done() -> None:
    a_set, bucket = quarantined_pair()
    a_set.allocator.end(a_set.holders[1])
    assert a_set.state(bucket) == State.QUARANTINE
    a_set.verify()
    run(a_set.allocator.end_quarantine(a_set.holders[0]))
    assert a_set.state(bucket) == State.UNUSED
    a_set.verify()


def test_a_bucket_in_two_quarantines_waits_for_both() -> None:
    a_set, bucket = quarantined_pair()
    run(a_set.allocator.quarantine(a_set.holders[1]))
    run(a_set.allocator.end_quarantine(a_set.holders[0]))
    assert a_set.state(bucket) == State.QUARANTINE
    a_set.verify()
    run(a_set.allocator.end_quarantine(a_set.holders[1]))
    assert a_set.state(bucket) == State.UNUSED
    a_set.verify()


def test_an_open_bucket_of_a_broken_connection_is_quarantined_when_it_closes() -> None:
    a_set = Set()
    bucket = a_set.bucket(a_set.carve(8))
    run(a_set.allocator.quarantine(a_set.holders[0]))
    assert a_set.state(bucket) == State.OPEN
    a_set.verify()
    a_set.carve(8, 8, holder=1)
    assert a_set.state(bucket) == State.QUARANTINE
    a_set.verify()


def test_a_great_many_buckets_end_in_steps_between_which_all_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sector_allocator, "BUCKETS_A_SLICE", 2)
    for quarantined in (True, False):
        a_set = Set()
        for offset in range(5):
            a_set.fill()
            a_set.carve(16, offset * 1000)
        works = [a_set.allocator.quarantine, a_set.allocator.end_quarantine]
        for work in works if quarantined else [a_set.allocator.ending]:
            steps = 0
            for _ in work(a_set.holders[0]):
                a_set.verify()
                steps += 1
            assert steps == 2
        assert (a_set.holders[0].total, a_set.allocator.reserved_sectors) == (0, 0)
        a_set.verify()


def test_who_holds_nothing_leaves_no_trace_in_quarantine() -> None:
    a_set = Set()
    before = a_set.everything()
    run(a_set.allocator.quarantine(a_set.holders[0]))
    run(a_set.allocator.end_quarantine(a_set.holders[0]))
    assert a_set.everything() == before


def test_a_holder_that_was_never_admitted_is_not_let_out() -> None:
    a_set = Set()
    a_set.carve(8)
    before = a_set.everything()
    with pytest.raises(AssertionError):
        run(a_set.allocator.end_quarantine(a_set.holders[0]))
    assert a_set.everything() == before


# Metadata


def test_a_metadata_bucket_is_placed_like_data() -> None:
    a_set = Set(2)
    for bucket in list(a_set.members[0].table.in_state(State.EMPTY))[:20]:
        force_state(a_set.members[0].table, bucket, State.DIRTY)
    expected = a_set.members[1].reserves.lists[Reserve.NONE][0]
    assert a_set.allocator.take_metadata(State.UUID) == (1, expected)
    assert a_set.members[1].table.states[expected] == State.UUID


def test_without_a_bucket_for_metadata_there_is_none() -> None:
    a_set = exhausted()
    while a_set.members[0].take_metadata(State.BTREE) is not None:
        pass
    before = a_set.everything()
    assert a_set.allocator.take_metadata(State.UUID) is None
    assert a_set.everything() == before


def test_an_allocator_of_nothing_has_nothing_open() -> None:
    allocator = SectorAllocator([a_member()])
    assert allocator.open_buckets.open_count == 0
    assert allocator.pending_holders == set()
