# SPDX-License-Identifier: MIT
"""Where objects were found, kept as long as that is certain without a request.

A position holds while its region's change counter has the value that it had before the look-up, or right
after our own commit, and while the gens of its buckets are the same. A miss is remembered in the same way.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from bcached.client.gens import Instant
from bcached.keys import Key

POSITIONS_MAX = 1 << 16


class Position(NamedTuple):
    """What was in a slot."""

    version: int  # of the change counter
    keys: Sequence[Key]  # none for a miss
    since: Instant  # before the keys were known


class Positions:
    """The positions used last, by the slot's offset. Thread-safe."""

    def __init__(self, most: int = POSITIONS_MAX) -> None:
        self._most = most
        self._known: OrderedDict[int, Position] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, offset: int) -> Position | None:
        """Returns the position that is known for a slot, and counts it as used."""
        position = self._known.get(offset)
        if position is not None:
            with contextlib.suppress(KeyError):  # another thread forgot it
                self._known.move_to_end(offset)
        return position

    def put(self, offset: int, position: Position) -> None:
        """Remember a position, in place of the one used longest ago if there are too many."""
        self._known[offset] = position
        if len(self._known) > self._most:
            with contextlib.suppress(KeyError):
                self._known.popitem(last=False)

    def forget(self, offset: int) -> None:
        """Forget the position of a slot."""
        self._known.pop(offset, None)
