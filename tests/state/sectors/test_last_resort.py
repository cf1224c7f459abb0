# SPDX-License-Identifier: GPL-2.0-only
"""What open buckets give when nothing else is left, and to whom."""

from uuid import UUID

import pytest

from bcached.keys import Key
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.next_step import Step
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.last_resort import IDLE_S, TIMER_S, LastResort, abandoned, idle
from bcached.state.sectors.open_buckets import MOVERS_WRITE_POINT
from bcached.state.sectors.reservations import Holder
from bcached.state.sectors.sector_allocator import SectorAllocator
from instruments.samples.small_member import BUCKET_SECTORS, GEOMETRY, a_member, fill_reserves

NONE_WAITS = frozenset({Reserve.NONE})


class Open:
    """A member with writers, each with an open bucket of its own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.buckets = a_member()
        self.sectors = SectorAllocator([self.buckets], lambda: self.now)
        for inode in range(4):
            self.sectors.inodes[inode] = UUID(int=inode)
        self.sectors.flash_sectors = {3: 1 << 40}
        self.resort = LastResort(self.sectors, 0)

    def cut(self, write_point: int, sectors: int = 4, inode: int = 0) -> tuple[Holder, Key]:
        """A writer of its own, which holds what it was given."""
        holder = Holder(f"writer {write_point}", 100, GEOMETRY)
        if not self.buckets.reserves.has(Reserve.NONE):
            fill_reserves(self.buckets)
        key = self.sectors.carve(holder, inode, write_point << 20, sectors, write_point)
        assert key is not None
        return holder, key

    def bucket(self, key: Key) -> int:
        return key.pointers[0].sector // BUCKET_SECTORS

    def closed(self, *, with_dirty: bool = False) -> list[int]:
        """The buckets that are closed next, one after the other."""
        found = []
        while slots := self.resort.closable(self.now, with_dirty=with_dirty):
            for slot in slots:
                found.append(slot.bucket_ids[0][1])
                self.sectors.close(slot)
        return found

    def step(self, waiting: frozenset[Reserve] = NONE_WAITS, *, with_dirty: bool = False) -> Step | None:
        return self.resort.step(waiting, self.now, with_dirty=with_dirty)


@pytest.fixture
def open_() -> Open:
    return Open()


def test_what_the_gone_had_open_is_closed_at_once_and_is_empty_where_nothing_lies(open_: Open) -> None:
    (lost, key), (_, others) = open_.cut(1), open_.cut(2)
    assert open_.step() is Step.SHARE
    open_.sectors.end(lost)
    lost.connection_closed = True
    assert open_.step() is Step.CLOSE
    assert (
        [slot.bucket_ids[0][1] for slot in abandoned(open_.sectors)] == open_.closed() == [open_.bucket(key)]
    )
    assert open_.buckets.table.states[open_.bucket(key)] == State.UNUSED
    assert open_.buckets.table.states[open_.bucket(others)] == State.OPEN


def test_who_waits_in_a_queue_is_there_as_long_as_its_connection(open_: Open) -> None:
    owner = Holder("owner", 100, GEOMETRY)
    fill_reserves(open_.buckets)
    open_.sectors.carve(Holder("owner, waiting", 100, GEOMETRY, owner), 0, 0, 4, 1)
    assert not list(abandoned(open_.sectors))
    owner.connection_closed = True
    assert len(list(abandoned(open_.sectors))) == 1


def test_what_others_still_hold_of_it_stays_held(open_: Open) -> None:
    writer, key = open_.cut(1)
    writer.connection_closed = True
    assert open_.closed() == [open_.bucket(key)]
    assert open_.buckets.table.states[open_.bucket(key)] == State.HELD


@pytest.mark.parametrize("dirty", [False, True])
def test_the_idle_are_closed_longest_idle_first_if_that_gives_a_bucket(open_: Open, dirty: bool) -> None:
    kept, _ = open_.cut(1), open_.cut(2)
    first, second = open_.cut(3), open_.cut(4)
    for writer, key in (second, first):
        open_.buckets.add_live(open_.bucket(key), key.sectors, dirty)
        open_.sectors.end(writer)
    open_.now += IDLE_S - 0.001
    assert open_.closed(with_dirty=True) == []
    assert open_.resort.idle_in_s(open_.now) == pytest.approx(0.001)
    open_.now += 0.001
    assert len(list(idle(open_.sectors, open_.now))) == 4
    assert open_.resort.idle_in_s(open_.now) is None
    expected = [open_.bucket(first[1]), open_.bucket(second[1])]
    assert open_.closed() == ([] if dirty else expected)
    assert open_.closed(with_dirty=True) == (expected if dirty else [])
    assert open_.buckets.table.states[open_.bucket(kept[1])] == State.OPEN


@pytest.mark.parametrize("rest_s", [1e-15, 1e-9])
def test_a_rest_too_short_for_a_timer_is_waited_for_all_the_same(open_: Open, rest_s: float) -> None:
    open_.cut(1)
    for slot in open_.sectors.open_buckets:
        slot.used_at = 0.0
    assert open_.resort.idle_in_s(IDLE_S - rest_s) == TIMER_S


def test_one_that_is_used_is_never_closed(open_: Open) -> None:
    writer, key = open_.cut(1, 2)
    for offset in range(2, 8, 2):
        open_.now += IDLE_S - 0.1
        open_.sectors.end(writer)
        assert open_.closed(with_dirty=True) == []
        assert open_.sectors.carve(writer, 0, (1 << 20) + offset, 2, 1) is not None
    assert open_.buckets.table.states[open_.bucket(key)] == State.OPEN


def test_what_the_mover_fills_is_not_closed_nor_shared(open_: Open) -> None:
    mover, _ = open_.cut(MOVERS_WRITE_POINT)
    open_.sectors.end(mover)
    open_.now += 10 * IDLE_S
    assert open_.closed(with_dirty=True) == []
    assert open_.sectors.open_buckets.shared(2) is None


def test_sharing_begins_once_and_only_for_those_who_wait_for_sectors(open_: Open) -> None:
    open_.cut(1)
    assert open_.step(frozenset({Reserve.BTREE})) is None
    assert open_.step() is Step.SHARE
    open_.sectors.sharing = True
    assert open_.step() is None


def test_who_shares_gets_sectors_of_its_kind_from_the_one_used_longest_ago(open_: Open) -> None:
    flash, first, second = open_.cut(1, inode=3), open_.cut(2), open_.cut(3)
    open_.buckets.reserves.lists[Reserve.NONE].clear()
    asker = Holder("asker", 100, GEOMETRY)

    def ask(inode: int = 0, *, moving: bool = False, may_refill: bool = True) -> int | None:
        key = open_.sectors.carve(asker, inode, 0, 4, 9, moving=moving, may_refill=may_refill)
        return None if key is None else open_.bucket(key)

    open_.buckets.reserves.lists[Reserve.MOVINGGC].clear()
    assert ask() is None
    open_.sectors.sharing = True
    assert ask(moving=True) is None
    taken = [ask(may_refill=True) for _ in range(5)]
    assert taken == [open_.bucket(first[1])] * 2 + [open_.bucket(second[1])] * 2 + [None]
    assert ask(3) == open_.bucket(flash[1])
