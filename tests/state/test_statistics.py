# SPDX-License-Identifier: GPL-2.0-only
import pytest

from bcached.set_state import BUCKET_STATES, RESERVES
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.reserves import Reserve
from bcached.state.statistics import Histogram


def test_states_and_reserves_are_those_of_the_tables() -> None:
    assert set(BUCKET_STATES) == {state.name.lower() for state in State}
    assert set(RESERVES) == {reserve.name.lower() for reserve in Reserve}


def test_an_observation_counts_up_to_its_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.0, 0.1, 0.100001, 1.0, 1.5, 99.0):
        histogram.observe(seconds)
    assert histogram.counts == [2, 2, 2]
    assert histogram.sum_s == pytest.approx(101.700001)


def test_a_copy_stays_as_it_is() -> None:
    histogram = Histogram((0.1, 1.0))
    histogram.observe(0.05)
    copy = histogram.copy()
    histogram.observe(0.05)
    assert (copy.counts, copy.sum_s) == ([1, 0, 0], 0.05)
    assert histogram.counts == [2, 0, 0]
