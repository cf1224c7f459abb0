# SPDX-License-Identifier: GPL-2.0-only
"""Numbers drawn by Zipf: few of them often."""

from collections.abc import Sequence
from random import Random

EXPONENT = 0.99  # as YCSB has it


def drawn(count: int, among: int, random: Random) -> Sequence[int]:
    """Returns so many numbers below `among`; the smaller, the more often."""
    weights = [1 / (number + 1) ** EXPONENT for number in range(among)]
    return random.choices(range(among), weights, k=count)
