# SPDX-License-Identifier: GPL-2.0-only
"""The oldest entry that is needed, whatever the order in which entries cease to be."""

from random import Random

import pytest

from bcached.state.index.journal_pins import SeqPins


def test_the_oldest_is_the_smallest_that_is_pinned() -> None:
    rng, pins, held = Random(1), SeqPins(), []
    assert pins.oldest is None
    for seq in range(1, 500):
        for _ in range(rng.randint(1, 3)):
            pins.pin(seq)
            held.append(seq)
        for _ in range(rng.randint(0, 4)):
            if held:
                pins.unpin(held.pop(rng.randrange(len(held))))
            assert pins.oldest == min(held, default=None)
    while held:
        pins.unpin(held.pop())
        assert pins.oldest == min(held, default=None)


def test_an_entry_that_was_let_go_cannot_be_needed_again() -> None:
    pins = SeqPins()
    pins.pin(3)
    pins.pin(5)
    pins.unpin(3)
    with pytest.raises(AssertionError):
        pins.pin(3)
    pins.pin(5)
    assert pins.oldest == 5
