# SPDX-License-Identifier: GPL-2.0-only
import numpy as np
import pytest

from bcached.state.buckets.bucket_table import COUNT_BUCKETS, LEGAL_MOVES, BucketTable, Mark, State
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX, INITIAL_PRIO, METADATA_PRIO
from instruments.samples.bucket_states import force_state
from instruments.samples.small_member import run

every_state = pytest.mark.parametrize("state", list(State), ids=lambda state: state.name)


def a_table(buckets: int = 40, first: int = 2) -> BucketTable:
    return BucketTable(buckets, first)


def counted(table: BucketTable) -> list[int]:
    counts: list[int] = np.bincount(table.states_array, minlength=len(State)).tolist()
    return counts


def columns(table: BucketTable) -> list[bytes]:
    names = (
        "states",
        "gens",
        "gens_on_disk",
        "last_gc",
        "prios",
        "sectors",
        "dirty_sectors",
        "tainted",
        "pins",
    )
    return [bytes(getattr(table, name)) for name in names]


def put(table: BucketTable, bucket: int, state: State, **fields: int) -> None:
    force_state(table, bucket, state)
    for name, value in fields.items():
        getattr(table, name)[bucket] = value


def test_a_fresh_table_is_empty_behind_the_first_bucket() -> None:
    table = a_table()
    assert list(table.states[:3]) == [State.RESERVED, State.RESERVED, State.EMPTY]
    assert table.counts == counted(table)
    assert table.reclaimable_count == 38


def test_a_bucket_takes_fifteen_bytes() -> None:
    assert sum(map(len, columns(BucketTable(1000, 1)))) == 15_000


@pytest.mark.parametrize(("bucket_sectors", "most"), [(1 << 14, (1 << 16) - 1), (1 << 16, (1 << 32) - 1)])
def test_a_bucket_of_any_size_has_its_sectors_counted(bucket_sectors: int, most: int) -> None:
    """Twice over: what is new may be counted before what it takes the place of."""
    table = BucketTable(40, 2, bucket_sectors=bucket_sectors)
    assert 2 * bucket_sectors <= most
    for column, array in (
        (table.sectors, table.sectors_array),
        (table.dirty_sectors, table.dirty_sectors_array),
    ):
        column[5] = most
        assert array[5] == most
        with pytest.raises(ValueError, match="invalid value"):
            column[5] = most + 1


def test_gens_live_where_they_were_given_a_place() -> None:
    mapped = memoryview(bytearray(40))
    table = BucketTable(40, 1, mapped)
    table.bump(7)
    assert mapped[7] == 1
    with pytest.raises(AssertionError):
        BucketTable(41, 1, mapped)


def test_both_faces_of_a_column_show_the_same() -> None:
    table = a_table()
    table.prios[5], table.pins_array[6] = 77, 4_000_000_000
    assert (table.prios_array[5], table.pins[6]) == (77, 4_000_000_000)


def test_counts_follow_any_legal_moves() -> None:
    table = a_table()
    rng = np.random.default_rng(1)
    for bucket in rng.integers(2, 40, 500).tolist():
        moves = sorted(LEGAL_MOVES[State(table.states[bucket])])
        if moves:
            table.move(bucket, moves[rng.integers(len(moves))])
        assert table.counts == counted(table)


@pytest.mark.parametrize("before", list(State))
@pytest.mark.parametrize("after", list(State))
def test_a_bucket_moves_only_as_the_table_of_moves_says(before: State, after: State) -> None:
    table = a_table()
    force_state(table, 5, before)
    if after in LEGAL_MOVES[before]:
        table.move(5, after)
        assert table.states[5] == after
    else:
        told = f"bucket 5 cannot be .*{after.name}.* after .*{before.name}"
        with pytest.raises(AssertionError, match=told):
            table.move(5, after)
        assert (table.states[5], table.counts) == (before, counted(table))


def test_exactly_what_may_be_invalidated_may_move_to_free_inc() -> None:
    table = a_table()
    for state in State:
        force_state(table, 5, state)
        assert bool(table.is_reclaimable(np.array([5]))[0]) == (State.FREE_INC in LEGAL_MOVES[state])


@pytest.mark.parametrize("behind", ["last_gc", "gens_on_disk"])
@pytest.mark.parametrize("gen", [0, 40, 255])
def test_a_gen_goes_up_until_it_is_too_far_from_the_index_or_the_disk(behind: str, gen: int) -> None:
    table = a_table()
    for name in ("gens", "last_gc", "gens_on_disk"):
        getattr(table, name)[5] = gen
    for step in range(1, GEN_DISTANCE_MAX + 1):
        assert table.may_bump(5)
        assert table.bump(5) == (gen + step) & 255
        table.last_gc[5] = table.gens_on_disk[5] = table.gens[5]
        getattr(table, behind)[5] = gen
    before = columns(table)
    assert not table.may_bump(5)
    with pytest.raises(AssertionError, match="too far ahead"):
        table.bump(5)
    assert columns(table) == before


def test_a_bump_keeps_the_largest_distances() -> None:
    table = a_table()
    table.gens[5], table.last_gc[5], table.gens_on_disk[5] = 10, 3, 8
    table.bump(5)
    assert (table.distance_index, table.distance_disk) == (8, 3)
    table.bump(6)
    assert (table.distance_index, table.distance_disk) == (8, 3)


@pytest.mark.parametrize(
    ("gen", "pointer", "raised"),
    [(10, 11, True), (10, 106, True), (250, 3, True), (10, 10, False), (10, 9, False), (3, 250, False)],
)
def test_a_gen_follows_a_pointer_that_is_ahead_and_no_other(gen: int, pointer: int, raised: bool) -> None:
    table = a_table()
    table.gens[5] = table.last_gc[5] = table.gens_on_disk[5] = gen
    assert table.raise_gen(5, pointer) is raised
    assert table.gens[5] == (pointer if raised else gen)
    ahead = (pointer - gen) & 255 if raised else 0
    assert (table.distance_index, table.distance_disk) == (ahead, ahead)


def test_metadata_begins_with_the_prio_of_metadata() -> None:
    table = a_table()
    table.become_metadata(5, State.BTREE)
    assert (table.states[5], table.prios[5]) == (State.BTREE, METADATA_PRIO)
    with pytest.raises(AssertionError):
        table.become_metadata(6, State.OPEN)
    assert table.states[6] == State.EMPTY


def test_data_begins_fresh_and_pinned_once() -> None:
    table = a_table()
    force_state(table, 5, State.FREE)
    table.become_open(5)
    assert (table.states[5], table.prios[5], table.pins[5]) == (State.OPEN, INITIAL_PRIO, 1)


def test_a_pinned_bucket_cannot_be_opened() -> None:
    table = a_table()
    table.pins[5] = 1
    before = columns(table)
    with pytest.raises(AssertionError, match="has 1 pins"):
        table.become_open(5)
    assert columns(table) == before


@pytest.mark.parametrize(
    ("pins", "sectors", "state"),
    [(0, 0, State.EMPTY), (0, 5, State.CLEAN), (1, 0, State.HELD), (3, 5, State.HELD)],
)
def test_a_bucket_settles_where_pins_and_sectors_say(pins: int, sectors: int, state: State) -> None:
    table = a_table()
    put(table, 5, State.OPEN, pins=pins, sectors=sectors)
    assert table.settle(5) == state == table.states[5]
    assert table.counts == counted(table)


@every_state
def test_only_clean_and_empty_buckets_may_be_invalidated(state: State) -> None:
    table = a_table()
    force_state(table, 5, state)
    assert table.may_invalidate(slice(5, 6)).tolist() == [state in (State.CLEAN, State.EMPTY)]
    assert table.may_invalidate(np.array([5])).tolist() == [state in (State.CLEAN, State.EMPTY)]


@pytest.mark.parametrize(("last_gc", "on_disk"), [(95, 0), (0, 95), (95, 95)])
def test_a_bucket_just_short_of_the_guard_may_still_be_invalidated(last_gc: int, on_disk: int) -> None:
    table = a_table()
    table.gens[5], table.last_gc[5], table.gens_on_disk[5] = 50, 50 - last_gc & 255, 50 - on_disk & 255
    assert table.may_invalidate(slice(5, 6)).all()
    assert table.may_bump(5)


@pytest.mark.parametrize(("last_gc", "on_disk"), [(96, 0), (0, 96), (128, 3), (255, 255)])
def test_a_bucket_whose_gen_ran_ahead_may_not_be_invalidated(last_gc: int, on_disk: int) -> None:
    table = a_table()
    table.gens[5], table.last_gc[5], table.gens_on_disk[5] = 50, 50 - last_gc & 255, 50 - on_disk & 255
    assert not table.may_invalidate(slice(5, 6)).any()
    assert not table.may_bump(5)


def test_an_invalidation_makes_stale_and_empties() -> None:
    table = a_table()
    put(table, 5, State.CLEAN, sectors=7, prios=100, gens=255, last_gc=250, gens_on_disk=253)
    table.invalidate(np.array([5, 9]))
    assert [table.states[bucket] for bucket in (5, 9)] == [State.FREE_INC] * 2
    assert [table.gens[bucket] for bucket in (5, 9)] == [0, 1]
    assert [table.prios[bucket] for bucket in (5, 9)] == [INITIAL_PRIO] * 2
    assert table.sectors[5] == 0
    assert table.counts == counted(table)
    assert (table.distance_index, table.distance_disk) == (6, 3)


@every_state
def test_nothing_is_invalidated_with_one_that_may_not_be(state: State) -> None:
    if state in (State.CLEAN, State.EMPTY):
        return
    table = a_table()
    force_state(table, 5, state)
    before = columns(table), list(table.counts)
    with pytest.raises(AssertionError, match="cannot be on free_inc"):
        table.invalidate(np.array([4, 5, 6]))
    assert (columns(table), table.counts) == before


def test_invalidating_nothing_changes_nothing() -> None:
    table = a_table()
    before = columns(table)
    table.invalidate(np.empty(0, np.int64))
    assert columns(table) == before


@pytest.mark.parametrize(
    ("state", "sectors", "mark"),
    [
        (State.JOURNAL, 0, Mark.METADATA),
        (State.UUID, 0, Mark.METADATA),
        (State.DIRTY, 5, Mark.DIRTY),
        (State.CLEAN, 5, Mark.RECLAIMABLE),
        (State.EMPTY, 0, Mark.NONE),
        (State.FREE, 0, Mark.NONE),
    ],
)
def test_the_kernels_mark_follows_from_the_state(state: State, sectors: int, mark: Mark) -> None:
    table = a_table()
    put(table, 5, state, sectors=sectors, dirty_sectors=sectors if mark is Mark.DIRTY else 0)
    assert table.mark(5) == mark


def test_buckets_of_a_state_are_found_in_every_slice() -> None:
    table = BucketTable(COUNT_BUCKETS + 10, 1)
    for bucket in (3, COUNT_BUCKETS - 1, COUNT_BUCKETS, COUNT_BUCKETS + 9):
        force_state(table, bucket, State.UUID)
    found = list(table.in_state(State.UUID))
    assert found == [3, COUNT_BUCKETS - 1, COUNT_BUCKETS, COUNT_BUCKETS + 9]
    assert all(isinstance(bucket, int) for bucket in found)


def test_what_a_snapshot_replaces_comes_back() -> None:
    table = a_table()
    snapshot = bytearray(range(40))
    before = table.gens_on_disk.obj
    assert table.replace_gens_on_disk(snapshot) is before
    assert table.gens_on_disk[7] == table.gens_on_disk_array[7] == 7
    with pytest.raises(AssertionError):
        table.replace_gens_on_disk(bytearray(39))
    assert table.gens_on_disk.obj is snapshot


def test_distances_are_counted_anew() -> None:
    table = BucketTable(COUNT_BUCKETS + 10, 1)
    table.distance_index = table.distance_disk = 90
    table.gens[COUNT_BUCKETS + 5], table.last_gc[COUNT_BUCKETS + 5] = 9, 2
    table.gens_on_disk[COUNT_BUCKETS + 5] = 255
    run(table.recount_distances())
    assert (table.distance_index, table.distance_disk) == (7, 10)


def test_gens_that_rise_during_a_count_are_counted() -> None:
    table = BucketTable(COUNT_BUCKETS * 2, 1)
    count = table.recount_distances()
    next(count)
    for _ in range(20):
        table.bump(5)  # the count is past it
    run(count)
    assert (table.distance_index, table.distance_disk) == (20, 20)


def test_two_counts_at_once_miss_nothing() -> None:
    table = BucketTable(COUNT_BUCKETS * 2, 1)
    table.gens[5] = 30
    first = table.recount_distances()
    next(first)
    second = table.recount_distances()
    next(second)
    run(first)
    run(second)
    assert (table.distance_index, table.distance_disk) == (30, 30)
