# SPDX-License-Identifier: GPL-2.0-only
"""The seed's heap in C against sorting: a rival that is wrong would be easy to beat."""

from pathlib import Path

import numpy as np
import pytest

from bcached.state.buckets.bucket_table import State
from bench.alloc_heap import AllocHeap, compiler
from bench.invalidation import MIN_PRIO, full_set, weights

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")


@pytest.mark.parametrize("prios", ["random", "equal"])
def test_it_takes_the_lightest_that_may_be_taken(prios: str, tmp_path: Path) -> None:
    buckets = full_set(20_000, prios)
    table, geometry = buckets.table, buckets.geometry
    rng = np.random.default_rng(7)
    table.states_array[rng.integers(1, 20_000, 3000)] = State.HELD
    table.pins_array[rng.integers(1, 20_000, 3000)] = 1
    table.gens_array[rng.integers(1, 20_000, 3000)] = 96
    may = (table.states_array >= State.CLEAN) & (table.pins_array == 0) & (table.gens_array < 96)
    best = weights(table, np.flatnonzero(may))[: geometry.free_inc_capacity]
    before = weights(table, np.arange(20_000)).copy()
    prios_before = table.prios_array.copy()
    taken = AllocHeap(tmp_path).invalidate(table, geometry, MIN_PRIO)
    assert len(set(taken.tolist())) == geometry.free_inc_capacity
    assert may[taken].all()
    table.prios_array[:] = prios_before
    assert np.array_equal(weights(table, taken), best)
    assert np.array_equal(weights(table, np.arange(20_000)), before)
