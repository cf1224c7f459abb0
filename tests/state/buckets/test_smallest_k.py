# SPDX-License-Identifier: GPL-2.0-only
from collections.abc import Callable, Generator

import numpy as np
import pytest

from bcached.state.buckets.smallest_k import PIECE_WORDS, SmallestK

SLICE = 4096


def run_to_the_end(steps: Generator[None, None, object]) -> object:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def lightest_of(weights: np.ndarray, light: np.ndarray, keep: int) -> np.ndarray:
    gathered = SmallestK(keep, SLICE)
    for start in range(0, len(weights), SLICE):
        slice_weights = weights[start : start + SLICE]
        may = light[start : start + SLICE] & (slice_weights < gathered.limit)
        run_to_the_end(gathered.add(start, slice_weights, np.flatnonzero(may)))
    found = run_to_the_end(gathered.in_order())
    assert isinstance(found, np.ndarray)
    return found


def by_sorting(weights: np.ndarray, light: np.ndarray, keep: int) -> np.ndarray:
    buckets = np.flatnonzero(light)
    return buckets[np.argsort(weights[buckets], kind="stable")][:keep]


ORDERS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "at random": lambda rng, count: rng.integers(0, 2**32, count),
    "few different ones": lambda rng, count: rng.integers(0, 3, count),
    "all the same": lambda rng, count: np.full(count, 7),
    "all nothing": lambda rng, count: np.zeros(count),
    "ever lighter": lambda rng, count: np.arange(count)[::-1],
    "ever heavier": lambda rng, count: np.arange(count),
    "light where no sample is taken": lambda rng, count: np.where(np.arange(count) % 16, 1, 2**31),
    "light where samples are taken": lambda rng, count: np.where(np.arange(count) % 16, 2**31, 1),
    "light where every seventeenth is": lambda rng, count: np.where(np.arange(count) % 17, 2**31, 1),
    "light where no seventeenth is": lambda rng, count: np.where(np.arange(count) % 17, 1, 2**31),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("keep", [8, 1000, 3 * PIECE_WORDS])
@pytest.mark.parametrize("count", [1, 5000, 150_001])
@pytest.mark.parametrize("share", [0.8, 1.0])
def test_it_finds_what_sorting_would_find_in_the_same_order(
    order: str, keep: int, count: int, share: float
) -> None:
    rng = np.random.default_rng(count + keep)
    weights = ORDERS[order](rng, count).astype(np.uint32)
    light = rng.random(count) < share
    assert np.array_equal(lightest_of(weights, light, keep), by_sorting(weights, light, keep))


def test_what_is_not_light_is_never_found_however_little_it_weighs() -> None:
    weights = np.zeros(50_000, np.uint32)
    light = np.zeros(50_000, np.bool_)
    light[40_000:40_010] = True
    weights[40_000:40_010] = 2**32 - 1
    assert lightest_of(weights, light, 100).tolist() == list(range(40_000, 40_010))


def test_nothing_at_all_is_no_error() -> None:
    assert len(lightest_of(np.zeros(0, np.uint32), np.zeros(0, np.bool_), 8)) == 0


def test_the_limit_falls_once_more_than_enough_was_added() -> None:
    gathered = SmallestK(8, SLICE)
    weights = np.arange(1000, 0, -1).astype(np.uint32)
    assert gathered.limit == 2**32
    run_to_the_end(gathered.add(0, weights, np.arange(1000)))
    assert 8 <= gathered.limit < 100
