"""The power fails at every moment of many short lives of sets with keys: what clients were told must be true.

`make torture` goes on from here for as long as one likes. A failure names the case, to be told again by it.
"""

import pytest

from instruments.exploration import Tally, all_workloads, base_of, explore, explore_workload

PARTS = 16
STATES_OF_A_WORKLOAD = 8
STATES_OF_A_STORY = 40
CHECK_EVERY = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_every_workload_of_up_to_three_operations_survives_a_cut_at_any_moment(part: int) -> None:
    base, tally = base_of(part % 2, 530), Tally()
    for workload in all_workloads(3)[part::PARTS]:
        tally.add(
            explore_workload(workload, base, part, states=STATES_OF_A_WORKLOAD, check_every=CHECK_EVERY)
        )
    assert tally.told() == ""
    assert tally.distinct > 40


@pytest.mark.parametrize("seed", [0, 2, 4, 7, 8, 9, 11])
def test_stories_by_chance_survive_a_cut_at_any_moment(seed: int) -> None:
    tally = explore(seed, states=STATES_OF_A_STORY, check_every=CHECK_EVERY)
    assert tally.told() == ""
    assert tally.moments > 5


@pytest.mark.parametrize("seed", [21, 22])
def test_lives_after_cuts_and_after_kills_survive_a_cut_at_any_moment(seed: int) -> None:
    tally = explore(seed, states=8, again=3, check_every=CHECK_EVERY)
    assert tally.told() == ""
    assert tally.stories == 7


def test_a_case_is_the_same_every_time() -> None:
    one, other = (explore(2, states=4) for _ in range(2))
    assert (one.states, one.distinct, one.openings) == (other.states, other.distinct, other.openings)
