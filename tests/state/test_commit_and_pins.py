# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of reservations whose keys stand in the index, and of what readers have pinned."""

from collections.abc import Sequence
from operator import attrgetter

import pytest

from bcached.errors import LimitExceeded, NotReserved, RequestError, StaleKey
from bcached.keys import Key, Pointer
from bcached.state.accounting.invariants import violations
from bcached.state.accounting.live_sectors import LiveSectors
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import INITIAL_PRIO, METADATA_PRIO
from bcached.state.sectors.reader_pins import BUCKETS_A_SLICE
from bcached.state.sectors.reservations import Holder
from instruments.samples.small_member import (
    BUCKET_SECTORS,
    GEOMETRY,
    a_member,
    an_allocator,
    fill_reserves,
    metadata_of,
    run,
    use,
)


class Set:
    def __init__(self, members: int = 1) -> None:
        self.members = [a_member(GEOMETRY, device) for device in range(members)]
        self.table = self.members[0].table
        self.allocator = an_allocator(*self.members)
        self.live = LiveSectors(self.members)
        self.writer = Holder("writer", 100, GEOMETRY)
        self.reader = Holder("reader", 100, GEOMETRY, reads_limit=4)

    def carve(self, sectors: int = 16, dirty: bool = False, replicas: int = 1) -> Key:
        for member in self.members:
            fill_reserves(member)
        key = self.allocator.carve(self.writer, 0, 0, sectors, 5, replicas)
        assert key is not None
        return Key(key.inode, key.offset, key.sectors, dirty, key.pointers)

    def commit(self, *keys: Key) -> None:
        self.allocator.check_commit(self.writer, keys)
        ended = self.allocator.end_reservations(self.writer, keys)
        self.put(keys)
        self.allocator.drop_pins(ended)

    def put(self, keys: Sequence[Key]) -> None:
        for key in keys:
            self.live.add(key)

    def committed(self, dirty: bool = False, replicas: int = 1) -> Key:
        key = self.carve(dirty=dirty, replicas=replicas)
        self.commit(key)
        return key

    def bucket(self, key: Key) -> int:
        return key.pointers[0].sector // BUCKET_SECTORS

    def state(self, key: Key) -> State:
        return State(self.table.states[self.bucket(key)])

    def verify(self, *others: Holder) -> None:
        metadata = [metadata_of(member) for member in self.members]
        assert violations(self.allocator, [self.writer, self.reader, *others], metadata) == []

    def everything(self) -> tuple[object, ...]:
        return (
            [
                [bytes(it) for it in (member.table.states, member.table.gens, member.table.pins)]
                for member in self.members
            ],
            [
                ({place: list(pieces) for place, pieces in it.pieces.items()}, dict(it.reads), it.reads_total)
                for it in (self.writer, self.reader)
            ],
            self.allocator.reserved_sectors,
        )


# Commit


@pytest.mark.parametrize(("dirty", "state"), [(False, State.CLEAN), (True, State.DIRTY)])
def test_a_committed_bucket_is_held_by_its_data_alone(dirty: bool, state: State) -> None:
    a_set = Set()
    key = a_set.carve(dirty=dirty)
    assert a_set.state(key) == State.HELD
    a_set.commit(key)
    assert a_set.state(key) == state
    assert (a_set.allocator.reserved_sectors, a_set.writer.total) == (0, 0)
    a_set.verify()


def test_what_is_not_committed_stays_reserved() -> None:
    a_set = Set()
    key = a_set.carve()
    first = key.pointers[0]
    middle = Key(7, 500, 4, True, (Pointer(0, first.sector + 8, first.gen),))
    a_set.commit(middle)
    assert (a_set.state(key), a_set.table.pins[a_set.bucket(key)]) == (State.HELD, 2)
    assert (a_set.allocator.reserved_sectors, a_set.writer.sectors) == (12, 12)
    a_set.verify()
    a_set.allocator.end(a_set.writer)
    assert a_set.state(key) == State.DIRTY
    a_set.verify()


def test_a_bucket_is_not_taken_for_empty_between_counting_and_committing() -> None:
    a_set = Set()
    key = a_set.committed()
    assert a_set.table.gens[a_set.bucket(key)] == key.pointers[0].gen


def test_a_bucket_stays_pinned_while_its_keys_are_put_into_the_index() -> None:
    a_set = Set()
    key = a_set.carve()
    gen, pins = a_set.table.gens[a_set.bucket(key)], a_set.table.pins[a_set.bucket(key)]
    ended = a_set.allocator.end_reservations(a_set.writer, [key])
    assert (a_set.writer.total, a_set.allocator.reserved_sectors) == (0, 0)
    assert (a_set.table.pins[a_set.bucket(key)], a_set.table.gens[a_set.bucket(key)]) == (pins, gen)
    a_set.put([key])
    a_set.allocator.drop_pins(ended)
    assert a_set.table.pins[a_set.bucket(key)] == pins - 1
    a_set.verify()


def test_keys_are_committed_together_or_not_at_all() -> None:
    a_set = Set(2)
    good = [a_set.carve(4), a_set.carve(4), a_set.carve(8, replicas=2)]
    first = good[0].pointers[0]
    stale = Key(0, 0, 4, False, (Pointer(0, first.sector, first.gen - 1 & 255),))
    not_ours = Key(0, 0, 4, False, (Pointer(0, first.sector + 400 * BUCKET_SECTORS, 0),))
    nowhere = Key(0, 0, 4, False, ())
    before = a_set.everything()
    for bad, error in ((stale, StaleKey), (not_ours, RequestError), (nowhere, NotReserved)):
        for keys in ([bad], [*good, bad]):
            with pytest.raises(error):
                a_set.allocator.check_commit(a_set.writer, keys)
            with pytest.raises(error):
                a_set.allocator.end_reservations(a_set.writer, keys)
            assert a_set.everything() == before
    for keys in ([good[0], good[0]], [good[2], good[2]]):
        with pytest.raises(NotReserved):
            a_set.allocator.check_commit(a_set.writer, keys)
        assert a_set.everything() == before
    with pytest.raises(NotReserved):
        a_set.allocator.check_commit(a_set.reader, good[:1])
    a_set.commit(*good)
    a_set.verify()


def test_a_commit_that_would_leave_too_many_pieces_is_refused() -> None:
    a_set = Set()
    key = a_set.carve()
    a_set.writer.limit = 1
    first = key.pointers[0]
    middle = Key(0, 0, 4, False, (Pointer(0, first.sector + 8, first.gen),))
    before = a_set.everything()
    with pytest.raises(LimitExceeded):
        a_set.allocator.check_commit(a_set.writer, [middle])
    assert a_set.everything() == before
    a_set.commit(key)


# Readers


@pytest.mark.parametrize(("dirty", "state"), [(False, State.CLEAN), (True, State.DIRTY)])
def test_what_a_reader_pins_is_held_until_the_last_pin_ends(dirty: bool, state: State) -> None:
    a_set = Set()
    key = a_set.committed(dirty)
    a_set.allocator.readers.pin(a_set.reader, [key])
    a_set.allocator.readers.pin(a_set.reader, [key])
    assert a_set.state(key) == State.HELD
    a_set.verify()
    a_set.allocator.readers.unpin(a_set.reader, [key])
    assert a_set.state(key) == State.HELD
    a_set.allocator.readers.unpin(a_set.reader, [key])
    assert a_set.state(key) == state
    a_set.verify()


def test_an_open_bucket_stays_open_under_a_reader() -> None:
    a_set = Set()
    key = a_set.carve(8)
    a_set.commit(key)
    a_set.allocator.readers.pin(a_set.reader, [key])
    assert a_set.state(key) == State.OPEN
    a_set.verify()
    a_set.allocator.readers.unpin(a_set.reader, [key])
    assert a_set.state(key) == State.OPEN
    a_set.verify()


def test_data_that_goes_while_it_is_read_is_free_when_the_reader_is_done() -> None:
    a_set = Set()
    key = a_set.committed()
    a_set.allocator.readers.pin(a_set.reader, [key])
    a_set.live.remove([key], 3)
    a_set.members[0].emptying_durable(3)
    assert a_set.state(key) == State.HELD
    a_set.allocator.readers.unpin(a_set.reader, [key])
    assert a_set.state(key) == State.UNUSED
    a_set.verify()


def test_only_what_is_pinned_is_unpinned_and_all_of_it_or_nothing() -> None:
    a_set = Set()
    key, other = a_set.committed(), a_set.committed()
    a_set.allocator.readers.pin(a_set.reader, [key])
    first = key.pointers[0]
    another_gen = Key(0, 0, 16, False, (Pointer(0, first.sector, first.gen - 1 & 255),))
    before = a_set.everything()
    for keys in ([other], [key, other], [key, key], [another_gen]):
        with pytest.raises(NotReserved):
            a_set.allocator.readers.unpin(a_set.reader, keys)
        assert a_set.everything() == before
    with pytest.raises(NotReserved):
        a_set.allocator.readers.unpin(a_set.writer, [key])
    a_set.verify()


def test_a_reader_pins_every_copy_and_no_more_than_its_limit() -> None:
    a_set = Set(2)
    key = a_set.committed(replicas=2)
    a_set.allocator.readers.pin(a_set.reader, [key, key])
    before = a_set.everything()
    with pytest.raises(LimitExceeded) as refused:
        a_set.allocator.readers.pin(a_set.reader, [key])
    assert refused.value.fields == {"limit": "pins_per_connection", "value": 6}
    assert a_set.everything() == before
    assert dict(a_set.reader.reads) == {(0, a_set.bucket(key)): 2, (1, key.pointers[1].sector // 16): 2}
    a_set.verify()


def test_a_key_that_is_stale_cannot_be_pinned() -> None:
    a_set = Set()
    key = a_set.committed()
    first = key.pointers[0]
    stale = Key(0, 0, 16, False, (Pointer(0, first.sector, first.gen - 1 & 255),))
    before = a_set.everything()
    with pytest.raises(StaleKey):
        a_set.allocator.readers.pin(a_set.reader, [key, stale])
    assert a_set.everything() == before


@pytest.mark.parametrize("how", ["readers.end", "end", "quarantine"])
def test_pins_end_with_their_reader(how: str) -> None:
    a_set = Set()
    keys = [a_set.committed(), a_set.committed(dirty=True)]
    a_set.allocator.readers.pin(a_set.reader, [*keys, *keys])
    ending = attrgetter(how)(a_set.allocator)(a_set.reader)
    if ending is not None:
        run(ending)
    assert (a_set.reader.reads, a_set.reader.reads_total) == ({}, 0)
    assert [a_set.state(key) for key in keys] == [State.CLEAN, State.DIRTY]
    a_set.verify()


def test_a_reader_with_a_great_many_pins_ends_in_steps() -> None:
    a_set = Set()
    buckets = list(a_set.table.in_state(State.EMPTY))[: BUCKETS_A_SLICE + 20]
    use(a_set.members[0], *buckets, dirty=False)
    a_set.reader.reads_limit = 10**6
    keys = [Key(0, 0, 1, False, (Pointer(0, it * BUCKET_SECTORS, a_set.table.gens[it]),)) for it in buckets]
    a_set.allocator.readers.pin(a_set.reader, keys)
    steps = 0
    for _ in a_set.allocator.readers.ending(a_set.reader):
        steps += 1
        a_set.verify()
    assert steps == 1
    assert a_set.table.counts[State.CLEAN] == len(buckets)


# Use


def test_what_was_used_is_worth_most() -> None:
    a_set = Set(2)
    key, other = a_set.committed(replicas=2), a_set.committed()
    for member in a_set.members:
        member.table.prios_array[:] = 9
    a_set.allocator.validity.touch([key])
    touched = [pointer.sector // BUCKET_SECTORS for pointer in key.pointers]
    for member, bucket in zip(a_set.members, touched, strict=True):
        assert member.table.prios[bucket] == INITIAL_PRIO
        assert int((member.table.prios_array == 9).sum()) == GEOMETRY.bucket_count - 1
    assert other.pointers[0].device in (0, 1)


def test_what_is_stale_or_metadata_or_nowhere_is_not_touched() -> None:
    a_set = Set()
    key = a_set.committed()
    bucket = a_set.bucket(key)
    first = key.pointers[0]
    a_set.table.prios[bucket] = 9
    node = a_set.members[0].take_metadata(State.BTREE)
    assert node is not None
    a_set.allocator.validity.touch(
        [
            Key(0, 0, 16, False, (Pointer(0, first.sector, first.gen + 1),)),
            Key(0, 0, 16, False, (Pointer(0, node * BUCKET_SECTORS, a_set.table.gens[node]),)),
            Key(0, 0, 16, False, (Pointer(9, 0, 0), Pointer(0, 10**9, 0))),
        ]
    )
    assert (a_set.table.prios[bucket], a_set.table.prios[node]) == (9, METADATA_PRIO)
