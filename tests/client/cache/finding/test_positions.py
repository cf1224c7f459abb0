# SPDX-License-Identifier: GPL-2.0-only
"""Positions: the ones used last are kept."""

from bcached.client.cache.finding.positions import NAME_BYTES_MAX, Position, Positions
from bcached.client.gens import Instant


def position() -> Position:
    return Position(1, (), Instant(1, (0,)))


def test_those_used_last_are_kept() -> None:
    positions, kept = Positions(4), position()
    positions.put(b"kept", kept)
    for number in range(20):
        positions.put(b"%d" % number, position())
        assert positions.get(b"kept") is kept
        assert positions.get(b"%d" % number) is not None
        assert len(positions) <= 4
    assert positions.get(b"0") is None
    positions.put(b"kept", newer := position())
    assert positions.get(b"kept") is newer
    positions.forget(b"kept")
    positions.forget(b"kept")
    assert positions.get(b"kept") is None
    positions.clear()
    assert len(positions) == 0


def test_long_names_are_fewer() -> None:
    positions, name = Positions(), b"n" * (NAME_BYTES_MAX // 4)
    for number in range(40):
        positions.put(name + b"%d" % number, position())
    assert len(positions) < 8
    assert positions.get(name + b"39") is not None


def test_what_is_forgotten_is_in_neither_generation() -> None:
    positions = Positions(2)
    positions.put(b"a", position())
    positions.put(b"b", position())
    positions.forget(b"a")
    assert positions.get(b"a") is None
    assert positions.get(b"b") is not None
