# SPDX-License-Identifier: GPL-2.0-only
import numpy as np

from bcached.state.accounting.gc_marks import RETIRED_BUCKETS, GcMarks
from bcached.state.buckets.bucket_table import COUNT_BUCKETS, State
from bcached.state.buckets.geometry import GEN_DISTANCE_MAX, Geometry
from instruments.samples.bucket_states import force_state
from instruments.samples.small_member import a_member, run

LARGE = Geometry(COUNT_BUCKETS + 100, 1, 16, 8, 4)


def begun(member: object) -> GcMarks:
    marking = GcMarks(member)  # type: ignore[arg-type]
    run(marking.begin())
    return marking


def test_without_pointers_every_bucket_is_as_old_as_its_gen() -> None:
    member = a_member(LARGE)
    for bucket, gen in ((100, 40), (COUNT_BUCKETS + 50, 200)):
        member.table.gens[bucket] = gen
    run(begun(member).finish())
    assert member.table.last_gc[100] == 40
    assert member.table.last_gc[COUNT_BUCKETS + 50] == 200
    assert bytes(member.table.last_gc) == bytes(member.table.gens)
    assert member.table.distance_index == 0


def test_the_oldest_pointer_counts() -> None:
    member = a_member()
    member.table.gens[100] = 5
    marking = begun(member)
    for gen in (4, 250, 2, 5):
        marking.mark_pointer(100, gen)
    run(marking.finish())
    assert member.table.last_gc[100] == 250
    assert member.table.distance_index == 11


def test_a_pointer_that_is_ahead_or_half_way_round_says_nothing() -> None:
    member = a_member()
    member.table.gens[100] = 5
    marking = begun(member)
    marking.mark_pointer(100, 6)
    marking.mark_pointer(100, 5 + 127)  # 129 behind is ahead
    run(marking.finish())
    assert member.table.last_gc[100] == 5


def test_a_pointer_just_half_way_round_is_the_oldest_there_can_be() -> None:
    member = a_member()
    member.table.gens[100] = 5
    marking = begun(member)
    marking.mark_pointer(100, 5 + 128)
    run(marking.finish())
    assert member.table.last_gc[100] == 133


def test_a_collection_that_is_broken_off_changes_nothing() -> None:
    member = a_member()
    member.table.gens[100] = 5
    before = bytes(member.table.last_gc)
    marking = begun(member)
    marking.mark_pointer(100, 3)
    marking.finish().close()
    assert bytes(member.table.last_gc) == before


def test_a_gen_that_rises_during_a_collection_is_noted_as_it_was() -> None:
    member = a_member()
    marking = begun(member)
    member.retire(100)
    run(marking.finish())
    assert (member.table.gens[100], member.table.last_gc[100]) == (1, 0)
    assert member.table.distance_index == 1


def test_empty_buckets_that_their_gens_held_back_retire() -> None:
    member = a_member()
    for bucket, state in ((100, State.EMPTY), (101, State.CLEAN), (102, State.EMPTY)):
        force_state(member.table, bucket, state)
        member.table.gens[bucket] = member.table.gens_on_disk[bucket] = GEN_DISTANCE_MAX
    member.table.last_gc[102] = 1  # one short of the guard
    assert not member.retire(100)
    run(begun(member).finish())
    assert list(member.unused.buckets)[-1:] == [100]
    assert member.table.states[101] == State.CLEAN
    assert member.table.states[102] == State.EMPTY


def test_a_bucket_that_something_old_still_names_does_not_retire() -> None:
    member = a_member()
    member.table.gens[100] = member.table.gens_on_disk[100] = GEN_DISTANCE_MAX
    marking = begun(member)
    marking.mark_pointer(100, 0)
    run(marking.finish())
    assert member.table.states[100] == State.EMPTY


def test_no_step_retires_more_than_a_millisecond_takes() -> None:
    member = a_member(LARGE)
    member.table.gens_array[1000:] = GEN_DISTANCE_MAX
    member.table.gens_on_disk_array[1000:] = GEN_DISTANCE_MAX
    before = len(member.unused.buckets)
    sizes = [len(member.unused.buckets) for _ in begun(member).finish()]
    steps = [after - first for first, after in zip([before, *sizes], sizes, strict=False)]
    assert 0 < max(steps) <= RETIRED_BUCKETS


def test_many_pointers_at_once_say_what_they_say_one_by_one() -> None:
    rng = np.random.default_rng(1)
    members = [a_member(), a_member()]
    gens = rng.integers(0, 256, len(members[0].table.gens), dtype=np.uint8)
    for member in members:
        member.table.gens_array[:] = gens
    one_by_one, at_once = map(begun, members)
    buckets = rng.integers(0, 100, 1000)
    named = (gens[buckets] - rng.integers(0, 100, 1000)) & 255
    named[:20] = (gens[buckets[:20]] + 5) & 255  # ahead
    for bucket, gen in zip(buckets.tolist(), named.tolist(), strict=True):
        one_by_one.mark_pointer(bucket, gen)
    for part in np.array_split(np.arange(1000), 7):
        at_once.mark_pointers(buckets[part], named[part])
    at_once.mark_pointers(buckets[:0], named[:0])
    for marking in (one_by_one, at_once):
        run(marking.finish())
    assert bytes(members[0].table.last_gc) == bytes(members[1].table.last_gc) != bytes(members[0].table.gens)


def test_many_pointers_half_way_round_are_told_as_one_is() -> None:
    member = a_member()
    member.table.gens[100] = member.table.gens[101] = 5
    marking = begun(member)
    marking.mark_pointers(np.array([100, 101]), np.array([5 + 128, 5 + 127]))
    run(marking.finish())
    assert (member.table.last_gc[100], member.table.last_gc[101]) == (133, 5)
