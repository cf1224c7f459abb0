# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's deadlock and its livelock, reproduced; and the toy at work where neither can happen."""

import pytest

from .seed import Reserve, Seed
from .threads import Deadlock, Livelock, Scheduler

COLLECTIONS_CAP = 5_000


def started(seed: Seed) -> Scheduler:
    scheduler = Scheduler()
    scheduler.start("allocator", seed.allocator_thread(), daemon=True)
    scheduler.start("gc", seed.gc_thread(), daemon=True)
    return scheduler


def test_the_toy_turns_a_device_over_many_times() -> None:
    seed = Seed(bucket_count=64, prio_buckets=1, free=2, free_inc=4)
    seed.fill(40)
    seed.seed_reserves()
    scheduler = started(seed)
    for turn in range(200):
        held: list[int] = []
        scheduler.start(f"client {turn}", seed.client(held, 10))
        scheduler.run()
        assert len(set(held)) == 10
        seed.drop(held)
    assert seed.invalidations >= 2_000
    assert seed.prio_writes >= 2_000 / 4 / 2
    assert seed.collections < 200, "no more than a few for each time round, with gens to be set free"


def test_the_prio_write_waits_for_buckets_only_its_own_thread_could_supply() -> None:
    # One batch of free_inc does not fill the prio reserve, which the write before has emptied.
    seed = Seed(bucket_count=64, prio_buckets=4, free=2, free_inc=2)
    seed.seed_reserves()
    scheduler = started(seed)
    held: list[int] = []
    scheduler.start("client", seed.client(held, 10))
    with pytest.raises(Deadlock, match="allocator, client, gc"):
        scheduler.run()
    reclaimable = [bucket for bucket in seed.buckets if seed.can_invalidate(bucket)]
    assert len(reclaimable) > 4, "there was enough to invalidate: nobody was left to do it"
    assert seed.free_inc.is_full, "a whole batch is ready but for its gens on disk"
    assert len(held) < 10


def test_a_batch_as_large_as_the_prio_chain_feeds_nothing_but_the_next_prio_write() -> None:
    seed = Seed(bucket_count=64, prio_buckets=4, free=2, free_inc=4)
    seed.seed_reserves()
    scheduler = started(seed)
    held: list[int] = []
    scheduler.start("client", seed.client(held, 1))
    with pytest.raises(Livelock):
        scheduler.run()
    assert seed.prio_writes > 100
    assert held == []


def test_a_larger_batch_serves_the_client() -> None:
    seed = Seed(bucket_count=64, prio_buckets=4, free=2, free_inc=5)
    seed.seed_reserves()
    scheduler = started(seed)
    held: list[int] = []
    scheduler.start("client", seed.client(held, 10))
    scheduler.run()
    assert len(held) == 10


def test_a_device_full_of_clean_data_locks_up_as_soon_as_it_is_opened() -> None:
    # The initial collection finds no unmarked bucket, so the prio reserve starts empty.
    seed = Seed(bucket_count=64, prio_buckets=1, free=2, free_inc=4)
    seed.fill(64)
    seed.seed_reserves()
    scheduler = started(seed)
    scheduler.start("client", seed.client([], 1))
    with pytest.raises(Deadlock):
        scheduler.run()
    assert (seed.prio_writes, seed.free_inc.is_full) == (0, True)


def test_one_unmarked_bucket_at_opening_averts_it() -> None:
    seed = Seed(bucket_count=64, prio_buckets=1, free=2, free_inc=4)
    seed.fill(63)
    seed.seed_reserves()
    scheduler = started(seed)
    held: list[int] = []
    scheduler.start("client", seed.client(held, 1))
    scheduler.run()
    assert len(held) == 1


def near_exhaustion(seed: Seed, scheduler: Scheduler) -> list[int]:
    """Clients hold all but a handful of buckets, and one waits for the next."""
    held: list[int] = []
    scheduler.start("client", seed.client(held, len(seed.buckets)))
    scheduler.run(until=lambda: seed.collections > 10)
    return held


def test_near_exhaustion_allocator_and_collector_wake_each_other_for_ever() -> None:
    seed = Seed(bucket_count=64, prio_buckets=1, free=2, free_inc=4)
    seed.seed_reserves()
    scheduler = started(seed)
    held = near_exhaustion(seed, scheduler)
    before = (list(held), seed.prio_writes, list(seed.free_inc.items))
    with pytest.raises(Livelock):
        scheduler.run(until=lambda: len(held) > len(before[0]), steps_max=4 * COLLECTIONS_CAP)
    assert seed.collections > COLLECTIONS_CAP
    assert (held, seed.prio_writes, list(seed.free_inc.items)) == before, "all this work changed nothing"
    assert 0 < len(seed.free_inc.items) < seed.free_inc.capacity, "there is a bucket: parked in free_inc"
    assert not seed.free[Reserve.NONE].items
    assert "client" in scheduler.waiting


def test_the_chase_ends_only_when_a_batch_can_be_filled() -> None:
    seed = Seed(bucket_count=64, prio_buckets=1, free=2, free_inc=4)
    seed.seed_reserves()
    scheduler = started(seed)
    held = near_exhaustion(seed, scheduler)
    missing = seed.free_inc.capacity - len(seed.free_inc.items)
    count = len(held)
    released = [held.pop() for _ in range(missing - 1)]
    seed.drop(released)
    with pytest.raises(Livelock):
        scheduler.run(until=lambda: len(held) >= count)
    seed.drop([held.pop()])
    scheduler.run(until=lambda: len(held) >= count - missing + 1)


def test_with_enough_left_nothing_spins() -> None:
    seed = Seed(bucket_count=64, prio_buckets=1, free=2, free_inc=4)
    seed.seed_reserves()
    scheduler = started(seed)
    held: list[int] = []
    scheduler.start("client", seed.client(held, 40))
    scheduler.run()
    assert seed.collections < 5
