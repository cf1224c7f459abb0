# SPDX-License-Identifier: GPL-2.0-only
"""The age of what is evicted, from its prio and the times of the steps of aging."""

import numpy as np
import pytest

from bcached.state import eviction_ages
from bcached.state.buckets.geometry import INITIAL_PRIO
from bcached.state.eviction_ages import AGE_BOUNDS_S, EvictionAges


class Watch:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def ages_of(ages: EvictionAges, *prios: int) -> float:
    """The sum of the ages that were counted for these prios."""
    before = ages.ages.sum_s
    ages.evicted(np.array(prios, np.uint16))
    return ages.ages.sum_s - before


def test_an_age_is_the_time_since_the_bucket_was_used_last() -> None:
    watch = Watch()
    ages = EvictionAges(watch)
    for now, steps in ((200.0, 1), (300.0, 1), (400.0, 3)):
        watch.now = now
        ages.aged(steps)
    watch.now = 450.0
    assert ages_of(ages, INITIAL_PRIO) == 50, "used after the last step"
    assert ages_of(ages, INITIAL_PRIO - 3) == 150, "used between the second and the third"
    assert ages_of(ages, INITIAL_PRIO - 4) == 250
    assert ages_of(ages, INITIAL_PRIO - 5) == 350
    assert ages_of(ages, INITIAL_PRIO - 5, INITIAL_PRIO - 5) == 700


def test_what_was_used_before_the_start_counts_from_the_start() -> None:
    watch = Watch()
    ages = EvictionAges(watch)
    ages.aged(7)
    watch.now = 1100.0
    assert ages_of(ages, 0) == ages_of(ages, INITIAL_PRIO - 8) == 1000


def test_buckets_are_counted_by_their_age() -> None:
    watch = Watch()
    ages = EvictionAges(watch)
    watch.now += 7200
    ages.evicted(np.zeros(0, np.uint16))
    ages.evicted(np.zeros(3, np.uint16))
    assert ages.ages.counts[AGE_BOUNDS_S.index(3 * 3600.0)] == 3
    assert sum(ages.ages.counts) == 3


def test_times_are_bounded_and_stay_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction_ages, "TIMES_MAX", 8)
    watch = Watch()
    ages = EvictionAges(watch)
    for step in range(100):
        watch.now = 200.0 + step
        ages.aged(1)
    assert len(ages._times) <= 8
    assert ages._times == sorted(ages._times)
    assert (ages._times[0], ages._times[-1]) == (100.0, 299.0)
    for missing in range(100):
        used = 299.0 - missing
        assert ages_of(ages, INITIAL_PRIO - missing) >= 299.0 - used, "never younger than it is"
