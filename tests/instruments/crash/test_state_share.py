# SPDX-License-Identifier: GPL-2.0-only
"""The share of crash states: told when some were judged, and too few of them fail a whole run only."""

from types import SimpleNamespace

import pytest

from instruments.crash.state_share import SHARE, property_of, share_of


def reports(*distinct: int, tests: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(user_properties=[("other", 1), property_of(count, tests)]) for count in distinct]


def test_a_whole_run_with_enough_states_says_how_many() -> None:
    line, suffices = share_of(reports(SHARE - 1, 1, tests=2))
    assert suffices
    assert line == "100000 distinct crash states in 2 of 2 tests"


def test_a_whole_run_with_too_few_states_fails() -> None:
    line, suffices = share_of(reports(SHARE - 2, 1, tests=2))
    assert not suffices
    assert line.endswith("fewer than 100000")


@pytest.mark.parametrize("some", [[], reports(7, tests=2)], ids=["none", "one of two"])
def test_a_run_of_some_tests_need_not_reach_the_share(some: list[SimpleNamespace]) -> None:
    line, suffices = share_of(some)
    assert suffices
    assert bool(line) == bool(some)
