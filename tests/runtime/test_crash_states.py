# SPDX-License-Identifier: GPL-2.0-only
"""The power fails at every moment of many short lives of sets with keys: what clients were told must be true.

`make torture` goes on from here for as long as one likes. A failure names the case, to be told again by it.
"""

from collections.abc import Callable

import pytest

from instruments.crash.exploration import Tally, all_workloads, base_of, explore, explore_workload
from instruments.crash.state_share import property_of
from instruments.stories.workloads import evacuate, fill, overwrite, replace

PARTS = 16
STATES_OF_A_WORKLOAD = 8
CHECK_EVERY = 4
STORIES = {0: 120, 1: 120, 2: 40, 4: 40, 7: 24, 8: 40, 9: 120, 11: 120}  # seed, states at a moment
LATER_LIVES = (21, 22)
COUNTED = PARTS + len(STORIES) + len(LATER_LIVES)
Record = Callable[[str, object], None]


@pytest.mark.parametrize("part", range(PARTS))
def test_every_workload_of_up_to_three_operations_survives_a_cut_at_any_moment(
    part: int, record_property: Record
) -> None:
    base, tally = base_of(part % 2, 530), Tally(check_every=CHECK_EVERY)
    for workload in all_workloads(3)[part::PARTS]:
        explore_workload(workload, base, part, states=STATES_OF_A_WORKLOAD, tally=tally)
    assert tally.told() == ""
    assert tally.distinct > 30
    record_property(*property_of(tally.distinct, COUNTED))


@pytest.mark.parametrize(("seed", "states"), STORIES.items())
def test_stories_by_chance_survive_a_cut_at_any_moment(
    seed: int, states: int, record_property: Record
) -> None:
    tally = explore(seed, states=states, check_every=CHECK_EVERY)
    assert tally.told() == ""
    assert tally.moments > 5
    record_property(*property_of(tally.distinct, COUNTED))


@pytest.mark.parametrize("seed", LATER_LIVES)
def test_lives_after_cuts_and_after_kills_survive_a_cut_at_any_moment(
    seed: int, record_property: Record
) -> None:
    tally = explore(seed, states=8, again=3, check_every=CHECK_EVERY)
    assert tally.told() == ""
    assert tally.stories == 7
    record_property(*property_of(tally.distinct, COUNTED))


def test_stories_with_little_memory_read_leaves_again_and_survive_a_cut_at_any_moment() -> None:
    tally = explore(14, states=8, check_every=CHECK_EVERY)
    assert tally.told() == ""
    assert tally.trees.read_again > 5


@pytest.mark.parametrize("seed", [13, 61])
def test_stories_of_a_tree_of_three_levels_survive_a_cut_at_any_moment(seed: int) -> None:
    tally = explore(seed, states=8, check_every=CHECK_EVERY)
    assert tally.told() == ""
    assert tally.trees.levels == 3
    assert tally.trees.interiors_coalesced


def test_stories_of_dirty_data_that_is_moved_together_survive_a_cut_at_any_moment() -> None:
    tally = explore(1, states=8, again=1, check_every=CHECK_EVERY, only=(evacuate,))
    assert tally.told() == ""
    assert tally.evacuated


@pytest.mark.parametrize("seed", [1, 2])
def test_stories_of_values_that_are_replaced_survive_a_cut_at_any_moment(seed: int) -> None:
    tally = explore(
        seed, states=16, again=1, check_every=CHECK_EVERY, only=(overwrite, fill, replace, replace)
    )
    assert tally.told() == ""
    assert tally.moments > 5


def test_a_case_is_the_same_every_time() -> None:
    one, other = (explore(2, states=4) for _ in range(2))
    assert (one.states, one.distinct, one.openings) == (other.states, other.distinct, other.openings)
