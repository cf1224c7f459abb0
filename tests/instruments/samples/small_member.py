# SPDX-License-Identifier: GPL-2.0-only
"""A member's buckets without a device: opened, driven by hand, its prio writes over as soon as they begin."""

from collections.abc import Generator
from typing import TypeVar
from uuid import UUID

from bcached.set_state import Replacement
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import Geometry
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.sector_allocator import SectorAllocator
from instruments.samples.bucket_states import force_state

T = TypeVar("T")

BUCKETS, BUCKET_SECTORS, BLOCK_SECTORS, JOURNAL_BUCKETS = 520, 16, 8, 4
GEOMETRY = Geometry(BUCKETS, 1, BUCKET_SECTORS, BLOCK_SECTORS, JOURNAL_BUCKETS)


def run(work: Generator[object, None, T]) -> T:
    """Run a generator to its end; what it returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def a_member(geometry: Geometry = GEOMETRY, device: int = 0, **options: object) -> MemberBuckets:
    """A member as after the first run: journal set apart, a prio chain written, its reserves seeded."""
    member = MemberBuckets(geometry, device, **options)  # type: ignore[arg-type]
    for bucket in geometry.journal_buckets:
        force_state(member.table, bucket, State.JOURNAL)
    for _ in range(2):
        member.initial_fill((Reserve.PRIO, Reserve.BTREE))
        if not member.prio_chains.current:
            write_prios(member)
    return member


def an_allocator(*members: MemberBuckets) -> SectorAllocator:
    """A sector allocator over members, with volumes 0 to 3, of which 3 is flash-only."""
    sectors = SectorAllocator(members or [a_member()])
    sectors.inodes = {inode: UUID(int=inode) for inode in range(4)}
    sectors.flash_sectors = {3: 1 << 40}
    return sectors


def write_prios(member: MemberBuckets) -> None:
    """A whole prio write."""
    member.take_prio_chain()
    run(member.gens_became_durable(*member.snapshot_gens()))


def invalidate(member: MemberBuckets, policy: Replacement = Replacement.FIFO, min_prio: int = 0) -> int:
    """A whole invalidation pass; how many it found."""
    return run(member.invalidate(policy, run(member.search(policy, min_prio))))


def push(member: MemberBuckets) -> int:
    """Everything that is ready to the reserves, as far as there is room; how many."""
    return member.push(member.next_batch(member.ready))


def fill_reserves(member: MemberBuckets) -> None:
    """Whatever it takes until every reserve is full."""
    while member.reserves.room():
        if not push(member):
            assert invalidate(member), "not enough buckets to fill the reserves"
            write_prios(member)


def use(member: MemberBuckets, *buckets: int, sectors: int = 1, dirty: bool = True) -> None:
    """Put live data into empty buckets."""
    for bucket in buckets:
        member.add_live(bucket, sectors, dirty)


def metadata_of(member: MemberBuckets) -> dict[State, set[int]]:
    """The metadata that a_member knows of: the journal."""
    return {State.JOURNAL: set(member.geometry.journal_buckets), State.UUID: set(), State.BTREE: set()}
