# SPDX-License-Identifier: GPL-2.0-only
import numpy as np
import pytest

from bcached.state.buckets import gens

EVERY_GEN = np.arange(256)


@pytest.mark.parametrize(
    ("gen", "base", "steps"), [(5, 5, 0), (6, 5, 1), (5, 6, 255), (3, 250, 9), (0, 128, 128)]
)
def test_a_gen_is_ahead_by_the_steps_that_lead_to_it(gen: int, base: int, steps: int) -> None:
    assert gens.ahead(gen, base) == steps
    for _ in range(steps):
        base = gens.next_gen(base)
    assert base == gen


@pytest.mark.parametrize("base", [0, 1, 127, 128, 200, 255])
def test_every_other_gen_is_either_newer_or_behind(base: int) -> None:
    newer = {gen for gen in range(256) if gens.is_newer(gen, base)}
    older = {gen for gen in range(256) if gens.behind(gen, base)}
    assert newer | older | {base} == set(range(256))
    assert (len(newer), len(older), newer & older) == (127, 128, set())


@pytest.mark.parametrize("base", [0, 1, 127, 128, 200, 255])
def test_columns_give_what_single_gens_give(base: int) -> None:
    bases = np.full(256, base, np.uint8)
    for column in (EVERY_GEN, EVERY_GEN.astype(np.uint8)):
        assert gens.ahead_each(column, bases).tolist() == [gens.ahead(gen, base) for gen in range(256)]
    assert gens.behind_each(EVERY_GEN, bases).tolist() == [gens.behind(gen, base) for gen in range(256)]


def test_the_newest_of_several_pointers_comes_last() -> None:
    present, on_disk = np.array([0, 250, 7], np.uint8), np.array([0, 250, 5], np.uint8)
    buckets, named = np.array([1, 1, 1, 2, 2, 0]), np.array([3, 251, 249, 7, 8, 200])
    raised, newer = gens.newer_pointers(buckets, named, present, on_disk)
    assert list(zip(raised.tolist(), newer.tolist(), strict=True)) == [(1, 251), (2, 8), (1, 3)]
