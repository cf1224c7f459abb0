# SPDX-License-Identifier: GPL-2.0-only
"""Arithmetic of gens: eight bits that wrap, so of two gens each is ahead of the other by some distance.

The smaller distance counts. A gen that is exactly half a turn away counts as behind, as in the kernel
(gen_after, of pointers into a bucket). A function for each scalar has one for columns beside it, `..._each`.
"""

import numpy as np
from numpy.typing import NDArray

from bcached.format.bits import NumberColumn

Gens = NDArray[np.uint8]


GEN_MASK = 255
GEN_HALF = 128


def next_gen(gen: int) -> int:
    """Returns the gen after this one."""
    return (gen + 1) & GEN_MASK


def ahead(gen: int, base: int) -> int:
    """Returns how many steps lead from base to gen, 0 to 255."""
    return (gen - base) & GEN_MASK


def ahead_each(gens: Gens | NumberColumn, bases: Gens) -> Gens:
    """Returns how many steps lead from each base to its gen, 0 to 255."""
    return (gens - bases).astype(np.uint8, copy=False)


def behind(gen: int, base: int) -> int:
    """Returns how many steps a gen is behind base, 1 to 128; 0 if it is equal or newer."""
    steps = (base - gen) & GEN_MASK
    return steps if steps <= GEN_HALF else 0


def behind_each(gens: NumberColumn, bases: Gens) -> Gens:
    """Returns how many steps each gen is behind its base, 1 to 128; 0 if it is equal or newer."""
    steps = (bases - gens).astype(np.uint8)
    steps[steps > GEN_HALF] = 0
    return steps


def is_newer(gen: int, base: int) -> bool:
    """Whether a gen is ahead of base, by less than half a turn."""
    return 0 < (gen - base) & GEN_MASK < GEN_HALF


def newer_pointers(
    buckets: NumberColumn, gens: NumberColumn, present: Gens, on_disk: Gens
) -> tuple[NumberColumn, Gens]:
    """Returns the buckets and gens of the pointers that are newer than their buckets, oldest first.

    present and on_disk are columns of all buckets. A bucket may be named several times: its last gen in the
    result is the newest. The order of the pointers does not matter, since gens are compared by their distance
    from the one on disk.
    """
    bases = on_disk[buckets]
    steps = ahead_each(gens, bases)
    newer = (steps < GEN_HALF) & (steps > ahead_each(present[buckets], bases))
    order = np.argsort(steps[newer], kind="stable")
    return buckets[newer][order], gens[newer][order].astype(np.uint8)
