# SPDX-License-Identifier: GPL-2.0-only
"""What a member's allocator task does next: one pure function of the state.

Kernel: the allocator thread works in a fixed order and sleeps in the middle of it, so it can wait for itself,
or wake the garbage collector for ever while the last buckets are on a half-full free_inc. Deciding again
after every change has neither fault: each step below either moves a bucket, or requests something that was
not tried since the state last changed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from bcached.state.buckets.geometry import GEN_DISTANCE_MAX
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve

# Gen distances at which prios are written and garbage is collected, before any bucket is held back.
WRITE_DISTANCE = GEN_DISTANCE_MAX // 2
COLLECT_DISTANCE = GEN_DISTANCE_MAX * 2 // 3


class Step(Enum):
    """One step of an allocator task."""

    PUSH = "move ready buckets to the reserves"
    INVALIDATE = "look for buckets to invalidate"
    WRITE_PRIOS = "make gens durable"
    CLOSE = "close open buckets of closed connections or idle writers"
    SHARE = "let waiting requests have sectors of any open bucket"
    EVACUATE = "have dirty data moved together, so that clean data can be dropped"
    COLLECT = "have the garbage collector find more buckets, or drop the oldest gens"
    WAIT = "nothing to do until something changes"


@dataclass(slots=True)
class Attempts:
    """What was tried, and the counters at that time; nothing is repeated until they change."""

    invalidated_at: tuple[int, int] | None = None  # (reclaims, collections) at the last pass
    was_exhaustive: bool = True  # whether that pass checked every bucket
    collected_at: tuple[int, int] | None = None  # (reclaims, prio writes) at the last request to collect

    def pass_begins(self, member: MemberBuckets, collections: int, *, is_exhaustive: bool) -> None:
        """Record the start of an invalidation pass."""
        self.invalidated_at = (member.reclaims, collections)
        self.was_exhaustive = is_exhaustive

    def collection_requested(self, member: MemberBuckets) -> None:
        """Record that a collection is requested."""
        self.collected_at = _collection_finds(member)


def next_step(
    member: MemberBuckets,
    tried: Attempts,
    *,
    synchronous: bool,
    collections: int,
    collecting: bool,
    waiting: frozenset[Reserve],
    prios_asked: bool = False,
    nodes_wait: bool = False,
    may_evacuate: bool = False,
    evacuating: bool = False,
    last_resort: Callable[[bool], Step | None] = lambda _: None,
) -> Step:
    """Returns the next step for a member; waiting has the reserves that requests wait for.

    prios_asked: a prio write is running or requested. nodes_wait: a node of the index waits for a bucket to
    be written to, and a collection may not end before. may_evacuate: dirty data may be moved; evacuating:
    that is running or requested. last_resort returns the step that open buckets offer (last_resort.py), with
    its argument true also of those with dirty data.

    1. Ready buckets go to the reserves. 2. A full free_inc needs a prio write. 3. free_inc has space: a pass.
    4. The last pass found too few: see _when_short. 5. Gens must not run too far ahead: see _guard.
    """
    may_write = synchronous and not prios_asked
    if member.reserves.room() and member.ready:
        return Step.PUSH
    if may_write and member.free_inc.awaiting_prios and not member.free_inc.space:
        return Step.WRITE_PRIOS
    if not member.ready and member.free_inc.space and _pass_may_find(member, tried, collections, waiting):
        return Step.INVALIDATE
    if member.invalidate_needs_gc and not member.ready and member.reserves.room():
        step = _when_short(
            member,
            tried,
            may_write,
            collecting,
            waiting,
            nodes_wait=nodes_wait,
            may_evacuate=may_evacuate,
            evacuating=evacuating,
            last_resort=last_resort,
        )
        if step is not None:
            return step
    return _guard(member, tried, may_write, collecting)


def _when_short(
    member: MemberBuckets,
    tried: Attempts,
    may_write: bool,
    collecting: bool,
    waiting: frozenset[Reserve],
    *,
    nodes_wait: bool,
    may_evacuate: bool,
    evacuating: bool,
    last_resort: Callable[[bool], Step | None],
) -> Step | None:
    """The step after a pass that found too few buckets; None if there is none.

    1. Open buckets, which cost nothing. 2. A running collection, unless it waits for a bucket itself. 3. A
    new collection, if it may help; but moving data helps more, if there is any to move and no gen holds a
    bucket back. 4. A prio write for a partly filled free_inc. 5. An evacuation. 6. Open buckets with dirty
    data.
    """
    reaches = _reaches_a_waiter(member, waiting)
    if waiting and not reaches and (step := last_resort(False)) is not None:
        return step
    if collecting and not nodes_wait:
        return Step.WAIT
    evacuable = may_evacuate and bool(waiting) and member.may_be_evacuated
    moving = evacuating or (evacuable and not member.held_back)
    if not (collecting or moving) and (waiting or member.held_back) and _collection_may_help(member, tried):
        return Step.COLLECT
    if reaches:
        return Step.WRITE_PRIOS if may_write else None
    if evacuable or evacuating:
        return None if evacuating else Step.EVACUATE
    return last_resort(True) if waiting and may_evacuate else None


def _pass_may_find(
    member: MemberBuckets, tried: Attempts, collections: int, waiting: frozenset[Reserve]
) -> bool:
    """Whether an invalidation pass could find something it did not find before."""
    if not member.invalidate_needs_gc:
        return True
    if tried.invalidated_at == (member.reclaims, collections) and (tried.was_exhaustive or not waiting):
        return False
    reclaimable = member.table.reclaimable_count
    return reclaimable >= member.free_inc.space or bool(waiting and reclaimable)


def _collection_may_help(member: MemberBuckets, tried: Attempts) -> bool:
    """Whether a collection could find something the last one did not.

    Kernel: wakes the collector after every pass that finds too few, even if it just ran without result.
    """
    return tried.collected_at != _collection_finds(member)


def _collection_finds(member: MemberBuckets) -> tuple[int, int]:
    """The counters a collection depends on: reclaims, and if buckets are held back, prio writes."""
    return member.reclaims, member.prio_chains.writes if member.held_back else -1


def _reaches_a_waiter(member: MemberBuckets, waiting: frozenset[Reserve]) -> bool:
    """Whether the buckets that a prio write makes ready, pushed in order, reach a reserve that is waited for.

    These are a partly filled free_inc, and unused buckets that only data may use until then. Otherwise such
    prio writes would only fill the prio writer's own reserve, for ever.
    """
    if member.reserves.for_data and Reserve.BTREE in waiting:
        return True
    buckets = member.free_inc.awaiting_prios + member.unused.only_for_data
    for reserve, room in member.reserves.lacking():
        if reserve in waiting and room > 0 and buckets > 0:
            return True
        buckets -= room
    return False


def _guard(member: MemberBuckets, tried: Attempts, may_write: bool, collecting: bool) -> Step:
    """The step that keeps gens close enough to those on disk and to the oldest in the index."""
    table = member.table
    if may_write and table.distance_disk >= WRITE_DISTANCE:
        return Step.WRITE_PRIOS
    far = table.distance_index >= COLLECT_DISTANCE
    if far and not collecting and _collection_may_help(member, tried):
        return Step.COLLECT
    return Step.WAIT
