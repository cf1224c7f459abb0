# SPDX-License-Identifier: GPL-2.0-only
"""A member's cache without a device: opened, driven by hand, its prio writes over as soon as they begin."""

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


def a_cache(geometry: Geometry = GEOMETRY, device: int = 0, **options: object) -> MemberBuckets:
    """A cache as after the first run: journal set apart, a prio chain written, its reserves seeded."""
    cache = MemberBuckets(geometry, device, **options)  # type: ignore[arg-type]
    for bucket in geometry.journal_buckets:
        force_state(cache.table, bucket, State.JOURNAL)
    for _ in range(2):
        cache.initial_fill((Reserve.PRIO, Reserve.BTREE))
        if not cache.prio_chains.current:
            write_prios(cache)
    return cache


def an_allocator(*caches: MemberBuckets) -> SectorAllocator:
    """A sector allocator over caches, with volumes 0 to 3, of which 3 is flash-only."""
    sectors = SectorAllocator(caches or [a_cache()])
    sectors.inodes = {inode: UUID(int=inode) for inode in range(4)}
    sectors.flash_sectors = {3: 1 << 40}
    return sectors


def write_prios(cache: MemberBuckets) -> None:
    """A whole prio write."""
    cache.take_prio_chain()
    run(cache.gens_became_durable(*cache.snapshot_gens()))


def invalidate(cache: MemberBuckets, policy: Replacement = Replacement.FIFO, min_prio: int = 0) -> int:
    """A whole invalidation pass; how many it found."""
    return run(cache.invalidate(policy, run(cache.search(policy, min_prio))))


def push(cache: MemberBuckets) -> int:
    """Everything that is ready to the reserves, as far as there is room; how many."""
    return cache.push(cache.next_batch(cache.ready))


def fill_reserves(cache: MemberBuckets) -> None:
    """Whatever it takes until every reserve is full."""
    while cache.reserves.room():
        if not push(cache):
            assert invalidate(cache), "not enough buckets to fill the reserves"
            write_prios(cache)


def use(cache: MemberBuckets, *buckets: int, sectors: int = 1, dirty: bool = True) -> None:
    """Put live data into empty buckets."""
    for bucket in buckets:
        cache.add_live(bucket, sectors, dirty)


def metadata_of(cache: MemberBuckets) -> dict[State, set[int]]:
    """The metadata that a_cache knows of: the journal."""
    return {State.JOURNAL: set(cache.geometry.journal_buckets), State.UUID: set(), State.BTREE: set()}
