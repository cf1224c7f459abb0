# SPDX-License-Identifier: GPL-2.0-only
"""Each policy against a step-by-step model of the seed's, which looks at one bucket after the other."""

from collections.abc import Iterator

import numpy as np
import pytest

from bcached.set_state import Replacement
from bcached.state.buckets.bucket_table import BucketTable, State
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX, INITIAL_PRIO, METADATA_PRIO
from bcached.state.buckets.replacement import (
    EXHAUSTIVE,
    SLICE_BUCKETS,
    Candidates,
    Fifo,
    Lru,
    Random,
    make_policies,
)
from instruments.samples.bucket_states import force_state
from instruments.samples.small_member import run

SEEDS = range(12)


def may_invalidate(table: BucketTable, bucket: int) -> bool:
    gen = table.gens[bucket]
    return table.states[bucket] in (State.CLEAN, State.EMPTY) and all(
        (gen - behind[bucket]) % 256 < GEN_DISTANCE_MAX for behind in (table.last_gc, table.gens_on_disk)
    )


def reclaimable(table: BucketTable, bucket: int) -> bool:
    return table.states[bucket] in (State.CLEAN, State.EMPTY)


def weight(table: BucketTable, bucket: int, min_prio: int) -> int:
    """The seed's bucket_prio; but below the smallest prio is the smallest, and live data is never nothing."""
    scaled = max(table.prios[bucket], min_prio) - min_prio + max((INITIAL_PRIO - min_prio) // 8, 1)
    return scaled * table.sectors[bucket]


def random_table(seed: int, buckets: int = 600, guarded: bool = True) -> BucketTable:
    rng = np.random.default_rng(seed)
    table = BucketTable(buckets, 3)
    table.states_array[3:] = rng.choice(list(State)[1:], buckets - 3, p=[0.04] * 11 + [0.4, 0.16])
    table.counts = np.bincount(table.states_array, minlength=len(State)).tolist()
    table.prios_array[:] = rng.integers(0, INITIAL_PRIO + 1, buckets)
    table.sectors_array[:] = np.where(table.states_array == State.EMPTY, 0, rng.integers(1, 1025, buckets))
    table.gens_array[:] = rng.integers(0, 256, buckets)
    distances = rng.choice([0, 5, 95, 96, 130], (2, buckets)) if guarded else np.zeros((2, buckets), int)
    table.last_gc_array[:] = table.gens_array - distances[0].astype(np.uint8)
    table.gens_on_disk_array[:] = table.gens_array - distances[1].astype(np.uint8)
    run(table.recount_distances())
    return table


def lru(table: BucketTable, *, heap_size: int = 40, min_prio: int = 0) -> Candidates:
    return run(Lru(table, heap_size, np.random.default_rng()).search(heap_size, min_prio))


def fifo(table: BucketTable, *, wanted: int = 20, cursor: int = 3) -> tuple[Candidates, int]:
    """What it finds, and its cursor after that."""
    policy = Fifo(table, 40, np.random.default_rng())
    policy.cursor = cursor
    return run(policy.search(wanted, 0)), policy.cursor


def random(table: BucketTable, rng: object, *, wanted: int = 20) -> Candidates:
    return run(Random(table, 40, rng).search(wanted, 0))  # type: ignore[arg-type]


def held_back(table: BucketTable, buckets: Iterator[int] | range) -> int:
    return sum(reclaimable(table, bucket) and not may_invalidate(table, bucket) for bucket in buckets)


# lru


def by_sorting(table: BucketTable, min_prio: int, heap_size: int) -> list[int]:
    may = [bucket for bucket in range(3, table.bucket_count) if may_invalidate(table, bucket)]
    return sorted(may, key=lambda bucket: (weight(table, bucket, min_prio), bucket))[:heap_size]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("min_prio", [0, 1, 1000, INITIAL_PRIO - 1, INITIAL_PRIO])
def test_lru_finds_the_lightest_in_order(seed: int, min_prio: int) -> None:
    table = random_table(seed)
    found = lru(table, min_prio=min_prio)
    assert found.buckets.tolist() == by_sorting(table, min_prio, 40)
    assert found.held_back == held_back(table, range(3, table.bucket_count))


@pytest.mark.parametrize("seed", SEEDS)
def test_lru_with_nothing_aged_weighs_from_zero(seed: int) -> None:
    table = random_table(seed)
    found = lru(table, min_prio=METADATA_PRIO)
    assert found.buckets.tolist() == by_sorting(table, 0, 40)


@pytest.mark.parametrize("heap_size", [8, 100, 5000])
def test_lru_takes_the_first_when_all_weigh_the_same(heap_size: int) -> None:
    table = random_table(1, buckets=2 * SLICE_BUCKETS + 500, guarded=False)
    table.prios_array[:], table.sectors_array[:] = INITIAL_PRIO, 1024
    found = lru(table, heap_size=heap_size)
    first = np.flatnonzero(table.states_array >= State.CLEAN)[:heap_size]
    assert found.buckets.tolist() == first.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_lru_looks_into_every_slice(seed: int) -> None:
    table = random_table(seed, buckets=2 * SLICE_BUCKETS + 500, guarded=bool(seed % 2))
    found = lru(table, heap_size=300, min_prio=500)
    assert found.buckets.tolist() == by_sorting(table, 500, 300)


def test_the_smallest_prio_is_worth_an_eighth_of_a_fresh_one() -> None:
    table = BucketTable(10, 1)
    for bucket, prio, sectors in ((2, 8768, 900), (3, INITIAL_PRIO, 90), (4, 8768, 500)):
        force_state(table, bucket, State.CLEAN)
        table.prios[bucket], table.sectors[bucket] = prio, sectors
    for bucket in (1, 5, 6, 7, 8, 9):
        force_state(table, bucket, State.HELD)
    # 3000 * 500, then 27000 * 90, then 3000 * 900
    assert lru(table, min_prio=8768).buckets.tolist() == [4, 3, 2]


def test_an_empty_bucket_is_lighter_than_any_other() -> None:
    table = BucketTable(10, 1)
    for bucket in range(1, 9):
        force_state(table, bucket, State.CLEAN)
        table.sectors[bucket] = 1
    table.prios[9] = INITIAL_PRIO
    assert lru(table).buckets[0] == 9


@pytest.mark.parametrize("aged", range(10))
def test_no_live_data_is_dropped_for_a_bucket_while_others_are_empty(aged: int) -> None:
    table = BucketTable(100, 3)
    for bucket in range(3, 50):
        table.sectors[bucket] = 8
        force_state(table, bucket, State.CLEAN)
    table.prios_array[3:] = INITIAL_PRIO - aged  # a set so young that nothing is older than the rest
    found = lru(table, heap_size=50, min_prio=INITIAL_PRIO - aged)
    assert found.buckets.tolist() == [*range(50, 100)]


def test_lru_in_an_exhausted_set_finds_nothing() -> None:
    table = BucketTable(100, 1)
    for bucket in range(1, 100):
        force_state(table, bucket, State.HELD)
    found = lru(table)
    assert (found.buckets.tolist(), found.held_back) == ([], 0)


# fifo


def seed_fifo(table: BucketTable, wanted: int, cursor: int) -> tuple[list[int], int]:
    """invalidate_buckets_fifo, with as many looks as there are buckets behind the first."""
    found: list[int] = []
    checked = 0
    while len(found) < wanted:
        if not table.first_bucket <= cursor < table.bucket_count:
            cursor = table.first_bucket
        if may_invalidate(table, cursor):
            found.append(cursor)
        cursor += 1
        checked += 1
        if checked >= table.bucket_count - table.first_bucket:
            break
    return found, cursor


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cursor", [0, 3, 17, 599, 600, 9999])
@pytest.mark.parametrize("wanted", [0, 1, 20, 1000])
def test_fifo_goes_round_once_from_its_cursor(seed: int, cursor: int, wanted: int) -> None:
    table = random_table(seed)
    found, after = fifo(table, wanted=wanted, cursor=cursor)
    assert (found.buckets.tolist(), after) == (seed_fifo(table, wanted, cursor) if wanted else ([], cursor))


def test_fifo_goes_round_over_many_slices() -> None:
    table = random_table(2, buckets=2 * SLICE_BUCKETS + 77, guarded=False)
    table.states_array[3:] = State.HELD
    for bucket in (5, SLICE_BUCKETS, 2 * SLICE_BUCKETS + 76):
        table.states_array[bucket] = State.CLEAN
    found, after = fifo(table, wanted=3, cursor=6)
    assert found.buckets.tolist() == [SLICE_BUCKETS, 2 * SLICE_BUCKETS + 76, 5]
    assert after == 6


@pytest.mark.parametrize("seed", SEEDS)
def test_fifo_tells_what_it_passed_over(seed: int) -> None:
    table = random_table(seed)
    found, after = fifo(table, wanted=20, cursor=3)
    assert found.held_back == held_back(table, range(3, after))


# random


class Drawn:
    """A generator of numbers that keeps what it gave."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.drawn: list[int] = []

    def integers(self, low: int, high: int, count: int) -> np.ndarray:
        numbers = self.rng.integers(low, high, count)
        self.drawn += numbers.tolist()
        return numbers


def seed_random(table: BucketTable, wanted: int, drawn: list[int]) -> list[int]:
    """invalidate_buckets_random on these draws: what it invalidated it does not find again."""
    found: list[int] = []
    for bucket in drawn[: table.bucket_count // 2]:
        if len(found) == wanted:
            break
        if may_invalidate(table, bucket) and bucket not in found:
            found.append(bucket)
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("wanted", [0, 1, 30, 1000])
def test_random_takes_what_it_draws_until_it_has_enough(seed: int, wanted: int) -> None:
    table = random_table(seed)
    drawn = Drawn(seed)
    found = random(table, drawn, wanted=wanted)
    assert found.buckets.tolist() == seed_random(table, wanted, drawn.drawn)
    assert all(3 <= bucket < 600 for bucket in drawn.drawn)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_draws_half_as_often_as_there_are_buckets_and_no_more(seed: int) -> None:
    table = random_table(seed)
    drawn = Drawn(seed)
    random(table, drawn, wanted=1000)
    assert len(drawn.drawn) == 300


def test_random_draws_the_same_from_the_same_seed_and_reaches_every_bucket() -> None:
    table = BucketTable(64, 1)
    one, two = (random(table, np.random.default_rng(7)).buckets.tolist() for _ in range(2))
    assert one == two
    rng = np.random.default_rng(1)
    reached = {bucket for _ in range(100) for bucket in random(table, rng).buckets.tolist()}
    assert reached == set(range(1, 64))


@pytest.mark.parametrize("replacement", list(Replacement))
def test_a_search_changes_nothing_in_the_table(replacement: Replacement) -> None:
    table = random_table(5)
    before = bytes(table.states), bytes(table.gens), bytes(table.prios), list(table.counts)
    found = run(make_policies(table, 40, 1)[replacement].search(20, 0))
    assert isinstance(found, Candidates)
    assert (bytes(table.states), bytes(table.gens), bytes(table.prios), table.counts) == before


@pytest.mark.parametrize("replacement", list(Replacement))
@pytest.mark.parametrize("seed", range(3))
def test_an_exhaustive_search_finds_all_that_may_be_invalidated(replacement: Replacement, seed: int) -> None:
    table = random_table(seed)
    policy = make_policies(table, 600, seed)[replacement]
    found = set(run(policy.search(600, 0)).buckets.tolist())
    missed = {bucket for bucket in range(3, 600) if may_invalidate(table, bucket)} - found
    assert policy.is_exhaustive == (not missed)


def test_what_is_searched_after_a_policy_that_may_miss_buckets_is_exhaustive() -> None:
    assert make_policies(BucketTable(10, 1), 8, 1)[EXHAUSTIVE].is_exhaustive


def test_the_largest_buckets_are_weighed_without_running_over() -> None:
    """Counts of more than 16 bits weigh as much as the largest of 16 bits; weights stay within 32."""
    table = BucketTable(50, 1, bucket_sectors=1 << 20)
    table.counts[State.EMPTY], table.counts[State.CLEAN] = 0, 49
    table.states_array[1:] = State.CLEAN
    table.prios_array[:] = INITIAL_PRIO
    table.sectors_array[:] = 1 << 20
    table.sectors[7], table.sectors[9] = 1 << 15, 1 << 14
    found = lru(table, heap_size=3)
    assert found.buckets.tolist()[:2] == [9, 7]
    light = lru(table, heap_size=49)
    assert len(light.buckets) == 49
