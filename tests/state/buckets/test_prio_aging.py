# SPDX-License-Identifier: GPL-2.0-only
import numpy as np
import pytest

from bcached.state.buckets.bucket_table import BucketTable, State
from bcached.state.buckets.geometry import INITIAL_PRIO, METADATA_PRIO
from bcached.state.buckets.prio_aging import Aging, age
from bcached.state.buckets.replacement import SLICE_BUCKETS
from instruments.samples.small_member import run

every_state = pytest.mark.parametrize("state", list(State), ids=lambda state: state.name)


def a_table(buckets: int = 40) -> BucketTable:
    table = BucketTable(buckets, 1)
    table.states_array[1:] = State.HELD
    return table


def put(table: BucketTable, bucket: int, prio: int, state: State = State.CLEAN, pins: int = 0) -> None:
    table.states[bucket], table.prios[bucket], table.pins[bucket] = state, prio, pins


# When


def test_the_first_request_owes_a_step() -> None:
    aging = Aging(1024 * 100)
    assert aging.traffic(1)
    assert aging.steps_due == 1


def test_every_1024th_of_the_volume_makes_a_step_due() -> None:
    aging = Aging(1024 * 100)
    aging.traffic(1)
    assert not aging.traffic(99)
    assert aging.traffic(1)
    assert aging.steps_due == 2


def test_steps_add_up_however_traffic_comes() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 1000, 500).tolist()
    pieces, whole = Aging(1024 * 100), Aging(1024 * 100)
    for size in sizes:
        pieces.traffic(size)
    whole.traffic(sum(sizes))
    assert pieces.steps_due == whole.steps_due == -(-sum(sizes) // 100)


def test_a_tiny_set_ages_by_the_sector() -> None:
    aging = Aging(5)
    aging.traffic(7)
    assert aging.steps_due == 7


# How


def test_what_ages_loses_the_steps_and_stops_at_zero() -> None:
    table = a_table()
    for bucket, prio in ((2, 10), (3, 3), (4, 1), (5, INITIAL_PRIO)):
        put(table, bucket, prio)
    assert run(age([table], 3)) == 0
    assert [table.prios[bucket] for bucket in (2, 3, 4, 5)] == [7, 0, 0, INITIAL_PRIO - 3]


def test_zero_stays_zero_and_is_not_the_smallest() -> None:
    table = a_table()
    put(table, 2, 0)
    put(table, 3, 500)
    assert run(age([table], 1)) == 499
    assert table.prios[2] == 0


@every_state
def test_only_what_may_hold_data_ages(state: State) -> None:
    table = a_table()
    put(table, 2, 100, state)
    ages = state in (State.DIRTY, State.CLEAN, State.EMPTY)
    assert run(age([table], 1)) == (99 if ages else METADATA_PRIO)
    assert table.prios[2] == (99 if ages else 100)


def test_what_is_pinned_keeps_its_prio() -> None:
    table = a_table()
    put(table, 2, 100, State.DIRTY, pins=1)
    assert run(age([table], 1)) == METADATA_PRIO
    assert table.prios[2] == 100


def test_freed_metadata_keeps_its_prio() -> None:
    table = a_table()
    put(table, 2, METADATA_PRIO, State.EMPTY)
    assert run(age([table], 1)) == METADATA_PRIO
    assert table.prios[2] == METADATA_PRIO


@pytest.mark.parametrize("steps", [INITIAL_PRIO, METADATA_PRIO, METADATA_PRIO + 1, 10**12])
def test_any_number_of_steps_can_be_due(steps: int) -> None:
    table = a_table()
    put(table, 2, INITIAL_PRIO)
    assert run(age([table], steps)) == 0
    assert table.prios[2] == 0


def test_the_smallest_is_that_of_all_members_and_slices() -> None:
    tables = [a_table(SLICE_BUCKETS + 10), a_table()]
    put(tables[0], SLICE_BUCKETS + 5, 300)
    put(tables[1], 7, 200)
    assert run(age(tables, 1)) == 199
    assert tables[0].prios[SLICE_BUCKETS + 5] == 299


@pytest.mark.parametrize("seed", range(5))
def test_aging_is_what_the_seed_does_bucket_by_bucket(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = a_table(2000)
    table.states_array[1:] = rng.choice([State.DIRTY, State.CLEAN, State.EMPTY], 1999)
    table.prios_array[:] = rng.choice([0, 1, 2, 500, INITIAL_PRIO, METADATA_PRIO], 2000)
    table.pins_array[:] = rng.random(2000) < 0.2
    expected, smallest = list(table.prios), METADATA_PRIO
    for bucket in range(1, 2000):
        if expected[bucket] not in (0, METADATA_PRIO) and not table.pins[bucket]:
            expected[bucket] -= 1
            smallest = min(smallest, expected[bucket])
    assert run(age([table], 1)) == smallest
    assert list(table.prios) == expected
