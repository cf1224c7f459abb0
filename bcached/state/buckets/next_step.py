"""What a member's allocator does next: one pure function of how things stand.

The seed's thread does its work in a fixed order and sleeps in the middle of it, which is how it comes to
wait for itself, or to chase the garbage collector for ever with the last buckets parked on a half-full
free_inc. Asking anew after every change has neither fault: each step below either moves a bucket, or
asks for something that has not been tried since things last changed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from bcached.state.buckets.geometry import GEN_DISTANCE_MAX
from bcached.state.buckets.member_buckets import Cache
from bcached.state.buckets.reserves import Reserve

# Before a bucket has to be held back for its gen, prios are written, and garbage is collected.
WRITE_DISTANCE = GEN_DISTANCE_MAX // 2
COLLECT_DISTANCE = GEN_DISTANCE_MAX * 2 // 3


class Step(Enum):
    """One piece of an allocator's work."""

    PUSH = "move ready buckets to the reserves"
    INVALIDATE = "look for buckets to invalidate"
    WRITE_PRIOS = "make gens durable"
    CLOSE = "close open buckets whose writers are gone or idle"
    SHARE = "let those who wait have sectors of any open bucket"
    EVACUATE = "have dirty data moved together, so that clean data can go"
    COLLECT = "let the garbage collector find more, or older gens go"
    WAIT = "nothing to do until something changes"


@dataclass(slots=True)
class Tried:
    """What was tried, and how things looked then; nothing is repeated until they look different."""

    invalidated_at: tuple[int, int] | None = None  # (reclaims, collections) at the last pass
    looked_at_all: bool = True  # that pass; a random one draws only so often
    collected_at: tuple[int, int] | None = None  # (reclaims, prio writes) at the last collection asked for

    def pass_begins(self, cache: Cache, collections: int, *, looks_at_all: bool) -> None:
        """Note an invalidation pass."""
        self.invalidated_at = (cache.reclaims, collections)
        self.looked_at_all = looks_at_all

    def collection_is_asked_for(self, cache: Cache) -> None:
        """Note that a collection is asked for."""
        self.collected_at = _collection_finds(cache)


def next_step(
    cache: Cache,
    tried: Tried,
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
    """The next step for a member; waiting names the reserves that somebody waits for a bucket of.

    prios_asked: a prio write is under way or asked for, so that there is no need to ask again. nodes_wait:
    a node of the index cannot be written before there is a bucket for it, nor may a collection end before.
    may_evacuate: dirty data may be moved; evacuating: it is being moved, or that is asked for. last_resort
    says what open buckets could give (closing.py), those with dirty data among them if it is told so.
    """
    may_write = synchronous and not prios_asked
    if cache.reserves.room() and cache.ready:
        return Step.PUSH
    if may_write and cache.awaiting_prios and not cache.free_inc_room:
        return Step.WRITE_PRIOS
    if not cache.ready and cache.free_inc_room and _pass_may_find(cache, tried, collections, waiting):
        return Step.INVALIDATE
    if cache.dry and not cache.ready and cache.reserves.room():
        step = _when_short(
            cache,
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
    return _guard(cache, tried, may_write, collecting)


def _when_short(
    cache: Cache,
    tried: Tried,
    may_write: bool,
    collecting: bool,
    waiting: frozenset[Reserve],
    *,
    nodes_wait: bool,
    may_evacuate: bool,
    evacuating: bool,
    last_resort: Callable[[bool], Step | None],
) -> Step | None:
    """Too few buckets were found: first see whether a collection helps, then make do with those.

    One that may itself have to wait for a bucket is not waited for. Moving data helps more than a collection
    does, as long as there is any to move and no gen holds a bucket back. Before all that comes what open
    buckets give: it costs nothing.
    """
    reaches = _reaches_a_waiter(cache, waiting)
    if waiting and not reaches and (step := last_resort(False)) is not None:
        return step
    if collecting and not nodes_wait:
        return Step.WAIT
    evacuable = may_evacuate and bool(waiting) and cache.may_be_evacuated
    moving = evacuating or (evacuable and not cache.held_back)
    if not (collecting or moving) and (waiting or cache.held_back) and _collection_may_help(cache, tried):
        return Step.COLLECT
    if reaches:
        return Step.WRITE_PRIOS if may_write else None
    if evacuable or evacuating:
        return None if evacuating else Step.EVACUATE
    return last_resort(True) if waiting and may_evacuate else None


def _pass_may_find(cache: Cache, tried: Tried, collections: int, waiting: frozenset[Reserve]) -> bool:
    """Whether an invalidation pass could find something it did not find before."""
    if not cache.dry:
        return True
    if tried.invalidated_at == (cache.reclaims, collections) and (tried.looked_at_all or not waiting):
        return False
    reclaimable = cache.table.reclaimable_count
    return reclaimable >= cache.free_inc_room or bool(waiting and reclaimable)


def _collection_may_help(cache: Cache, tried: Tried) -> bool:
    """Seed: the collector is woken whenever a pass comes up short, also when it just ran for nothing."""
    return tried.collected_at != _collection_finds(cache)


def _collection_finds(cache: Cache) -> tuple[int, int]:
    """What a collection depends on: what was given back, and with buckets held back, prios written."""
    return cache.reclaims, cache.prio_writes if cache.held_back else -1


def _reaches_a_waiter(cache: Cache, waiting: frozenset[Reserve]) -> bool:
    """Whether what a prio write readies, pushed in order, leaves a bucket for a reserve someone waits on.

    That is a partly filled free_inc, and unused buckets that only data may use until then. Otherwise such
    prio writes would only feed the prio writer's own reserve, for ever.
    """
    if cache.reserves.for_data and Reserve.BTREE in waiting:
        return True
    buckets = cache.awaiting_prios + cache.for_data_waiting
    for reserve, room in cache.reserves.lacking():
        if reserve in waiting and room > 0 and buckets > 0:
            return True
        buckets -= room
    return False


def _guard(cache: Cache, tried: Tried, may_write: bool, collecting: bool) -> Step:
    """Keep gens from running away from the disk's or from the index's oldest ahead of time."""
    table = cache.table
    if may_write and table.distance_disk >= WRITE_DISTANCE:
        return Step.WRITE_PRIOS
    far = table.distance_index >= COLLECT_DISTANCE
    if far and not collecting and _collection_may_help(cache, tried):
        return Step.COLLECT
    return Step.WAIT
