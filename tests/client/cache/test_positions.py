# SPDX-License-Identifier: GPL-2.0-only
"""Positions: the ones used last are kept."""

from bcached.client.cache.positions import Position, Positions
from bcached.client.gens import Instant


def at(version: int) -> Position:
    return Position(version, (), Instant(1, (0,)))


def test_those_used_last_are_kept() -> None:
    positions = Positions(3)
    for number in range(3):
        positions.put(number, at(number))
    assert positions.get(0) == at(0)
    positions.put(3, at(3))
    assert [positions.get(number) for number in range(4)] == [at(0), None, at(2), at(3)]
    positions.put(2, at(9))
    assert (len(positions), positions.get(2)) == (3, at(9))
    positions.forget(2)
    positions.forget(2)
    assert (len(positions), positions.get(2)) == (2, None)
