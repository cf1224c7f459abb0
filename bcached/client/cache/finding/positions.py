# SPDX-License-Identifier: MIT
"""Where objects were found, kept as long as that is certain without a request.

A position holds while its region's change counter has the value that it had before the look-up, or right
after our own commit, and while the gens of its buckets are the same. A miss is remembered in the same way.
"""

from collections.abc import Sequence
from typing import Any

from bcached.client.gens import Instant
from bcached.keys import Key

POSITIONS_MAX = 1 << 16
NAME_BYTES_MAX = 1 << 22  # of all names together, in either generation


class Position:
    """What was in the slot of a name; a KnownObject if it can be read at the least cost."""

    __slots__ = ("keys", "member", "since", "version")

    def __init__(self, version: int, keys: Sequence[Key], since: Instant) -> None:
        self.version = version  # of the change counter
        self.keys = keys  # none for a miss
        self.since = since  # before the keys were known
        self.member: Any = None  # of a KnownObject


class Positions:
    """The positions used last, by name, in two generations. Thread-safe.

    What is used moves to the younger one. When that has half of all, the older one is forgotten. So use costs
    one look into a dict, and at least half of `most` are kept.
    """

    def __init__(self, most: int = POSITIONS_MAX) -> None:
        self._half = max(1, most // 2)
        self.young: dict[bytes, Position] = {}
        self._old: dict[bytes, Position] = {}
        self._name_bytes = 0  # of the younger generation

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def get(self, name: bytes) -> Position | None:
        """Returns the position that is known for a name, and counts it as used."""
        position = self.young.get(name)
        if position is None:
            position = self._old.get(name)
            if position is not None:
                self.put(name, position)
        return position

    def put(self, name: bytes, position: Position) -> None:
        """Remember a position, in place of those used longest ago if there are too many."""
        self._old.pop(name, None)
        if name not in self.young:
            self._name_bytes += len(name)
            if len(self.young) >= self._half or self._name_bytes > NAME_BYTES_MAX:
                self._old, self.young, self._name_bytes = self.young, {}, len(name)
        self.young[name] = position

    def forget(self, name: bytes) -> None:
        """Forget the position of a name."""
        self.young.pop(name, None)
        self._old.pop(name, None)

    def clear(self) -> None:
        """Forget all."""
        self._old, self.young, self._name_bytes = {}, {}, 0
