# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.errors import LimitExceeded, NoSuchVolume, NotReserved
from bcached.state.accounting.invariants import violations
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.pending_allocations import BucketAllocation, ExtentAllocation, MetadataAllocation
from bcached.state.sectors.reservations import ExtentRequest, Holder
from bcached.state.sectors.sector_allocator import SectorAllocator
from instruments.samples.small_member import (
    BUCKET_SECTORS,
    GEOMETRY,
    a_member,
    an_allocator,
    fill_reserves,
    metadata_of,
)


def a_set(limit: int = 1000, member_count: int = 1) -> tuple[SectorAllocator, Holder]:
    members = [a_member(GEOMETRY, device) for device in range(member_count)]
    for member in members:
        fill_reserves(member)
    return an_allocator(*members), Holder("somebody", limit, GEOMETRY)


def fill(allocator: SectorAllocator) -> None:
    for member in allocator.members:
        fill_reserves(member)


def wrong(allocator: SectorAllocator, *holders: Holder) -> list[str]:
    return violations(allocator, holders, [metadata_of(member) for member in allocator.members])


def whole(sectors: int, offset: int = 0, inode: int = 0, **options: object) -> ExtentRequest:
    return ExtentRequest(inode, offset, sectors, 5, whole=True, **options)  # type: ignore[arg-type]


def test_what_can_be_had_at_once_is_had_at_once() -> None:
    allocator, holder = a_set()
    keys = ExtentAllocation(allocator, holder, [ExtentRequest(0, 0, 100, 5)]).advance()
    assert keys is not None
    assert [[key.sectors for key in one] for one in keys] == [[BUCKET_SECTORS]]
    assert holder.total == 1
    assert wrong(allocator, holder) == []


def test_a_whole_extent_goes_on_from_bucket_to_bucket() -> None:
    allocator, holder = a_set()
    work = ExtentAllocation(allocator, holder, [whole(40, 96), ExtentRequest(1, 0, 8, 6)])
    assert work.advance() is None
    fill(allocator)
    assert work.advance() is None
    fill(allocator)
    assert work.advance() is None
    fill(allocator)
    keys = work.advance()
    assert keys is not None
    assert [(key.offset, key.sectors) for key in keys[0]] == [(96, 16), (112, 16), (128, 8)]
    assert [(key.inode, key.sectors) for key in keys[1]] == [(1, 8)]
    assert holder.total == 4
    assert allocator.pending_holders == set()
    assert wrong(allocator, holder) == []


def test_until_it_is_complete_nothing_of_it_is_the_clients() -> None:
    allocator, holder = a_set()
    work = ExtentAllocation(allocator, holder, [whole(40)])
    assert work.advance() is None
    assert holder.total == 0
    assert allocator.reserved_sectors == BUCKET_SECTORS
    assert wrong(allocator, holder) == []  # and yet it is accounted for
    (gathered,) = allocator.pending_holders
    key = work._current[0]
    assert gathered.covers(key)
    with pytest.raises(NotReserved):
        allocator.release(holder, [key])
    work.undo()
    assert wrong(allocator, holder) == []


def test_an_undo_gives_all_back_and_can_be_repeated() -> None:
    allocator, holder = a_set()
    fill(allocator)
    held = allocator.carve(holder, 2, 0, 16, 9)
    assert held is not None
    fill(allocator)
    work = ExtentAllocation(allocator, holder, [whole(8, inode=1), whole(40)])
    assert work.advance() is None
    work.undo()
    work.undo()
    assert (allocator.reserved_sectors, holder.total) == (16, 1)
    assert allocator.pending_holders == set()
    assert wrong(allocator, holder) == []


def test_after_an_undo_it_begins_anew() -> None:
    allocator, holder = a_set()
    work = ExtentAllocation(allocator, holder, [whole(24)])
    assert work.advance() is None
    work.undo()
    for _ in range(3):
        fill(allocator)
        keys = work.advance()
        if keys is not None:
            break
    assert keys is not None
    assert sum(key.sectors for key in keys[0]) == 24
    assert keys[0][0].offset == 0
    assert wrong(allocator, holder) == []


def test_the_limit_is_that_of_all_the_client_has_and_will_have() -> None:
    allocator, holder = a_set(limit=2)
    assert allocator.carve(holder, 0, 0, 4, 5) is not None
    work = ExtentAllocation(allocator, holder, [ExtentRequest(0, 4, 2, 5), ExtentRequest(0, 6, 2, 5)])
    with pytest.raises(LimitExceeded) as refused:
        work.advance()
    assert refused.value.fields["value"] == 3
    work.undo()
    assert holder.total == 1
    assert wrong(allocator, holder) == []


def test_a_volume_that_goes_meanwhile_ends_it() -> None:
    allocator, holder = a_set()
    work = ExtentAllocation(allocator, holder, [whole(40)])
    assert work.advance() is None
    del allocator.inodes[0]
    fill(allocator)
    with pytest.raises(NoSuchVolume):
        work.advance()
    work.undo()
    assert allocator.reserved_sectors == 0
    assert wrong(allocator, holder) == []


def test_one_that_moves_waits_for_the_moving_reserve_and_the_others_for_none() -> None:
    allocator, holder = a_set()
    assert ExtentAllocation(allocator, holder, [whole(8)]).reserve is Reserve.NONE
    moving = ExtentAllocation(allocator, holder, [whole(8), whole(8, 99, moving=True)])
    assert moving.reserve is Reserve.MOVINGGC
    assert moving.inodes == {0}


def test_whole_buckets_come_all_at_once_or_not_at_all() -> None:
    allocator, holder = a_set(member_count=2)
    bucket = allocator.members[1].take_data(Reserve.NONE)
    assert bucket is not None
    allocator.members[1].table.pins[bucket] = 0
    allocator.members[1].settle(bucket)
    work = BucketAllocation(allocator, holder, 2)
    assert work.advance() is None
    work.undo()
    assert holder.total == 0
    fill(allocator)
    key = work.advance()
    assert key is not None
    assert len(key.pointers) == 2
    assert holder.covers(key)
    assert wrong(allocator, holder) == []


def test_a_metadata_bucket_is_known_from_the_moment_it_is_taken() -> None:
    allocator, _ = a_set()
    work = MetadataAllocation(allocator, State.UUID)
    assert (work.reserve, work.holder, work.taken) == (Reserve.BTREE, None, None)
    taken = work.advance()
    assert taken is not None
    assert taken == work.taken
    assert allocator.members[0].table.states[taken[1]] == State.UUID
    work.undo()
    assert work.taken == taken
