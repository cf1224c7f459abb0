"""What all connections together hold in memory, and which of them gives way when that is too much.

A connection holds half-sent requests, requests that wait, and replies that wait or are not read. Most hold
nothing between two reads, and are not looked at here. Where the bound is passed, those give way first that
held most for longest: a request that has just come goes through, however large, while others sit on theirs.
Those that hold no more than a small part, all of which together are half of the bound, never have to.
"""

import time
from itertools import islice
from typing import Protocol

LOOKED_AT = 4096  # holders that are weighed at a time: those that began to hold first
LOW_PART = 7 / 8  # room is made in one go, not anew for each read
STRANGER_WEIGHT = 1000


class Holding(Protocol):
    """What is asked of a connection."""

    @property
    def held_bytes(self) -> int:
        """What it holds now."""

    @property
    def holds_since_ns(self) -> int:
        """Since when the oldest of it waits, by time.perf_counter_ns()."""

    @property
    def is_stranger(self) -> bool:
        """Whether its peer may do nothing at all."""

    def give_way(self, held_bytes: int) -> None:
        """End at once, and hold nothing any more."""


class Buffers:
    """The account of all connections."""

    def __init__(self, limit_bytes: int, connections: int) -> None:
        self.held_bytes = 0
        self.peak_bytes = 0  # since it was last set
        self.gave_way = 0
        self._noted: dict[Holding, int] = {}
        self._large: dict[Holding, None] = {}  # those that may have to give way, in the order they came to it
        self.take_limits(limit_bytes, connections)

    def take_limits(self, limit_bytes: int, connections: int) -> None:
        """Go on with these."""
        self.limit_bytes = limit_bytes
        self._spared_bytes = limit_bytes // (2 * connections)
        self._large = dict.fromkeys(it for it, held in self._noted.items() if held > self._spared_bytes)
        if self.held_bytes > limit_bytes:
            self._make_room()

    def note(self, holder: Holding, held_bytes: int) -> None:
        """A connection holds so much now; it, or another one, may have to give way for it."""
        self._note(holder, held_bytes)
        if self.held_bytes > self.limit_bytes:
            self._make_room()

    def forget(self, holder: Holding) -> None:
        """A connection is gone, with all that it held."""
        self._note(holder, 0)

    def _note(self, holder: Holding, held_bytes: int) -> None:
        before = self._noted.get(holder, 0)
        self.held_bytes += held_bytes - before
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        if held_bytes:
            self._noted[holder] = held_bytes
        elif before:
            del self._noted[holder]
        if held_bytes > self._spared_bytes:
            self._large.setdefault(holder)
        elif before > self._spared_bytes:
            self._large.pop(holder, None)

    def _make_room(self) -> None:
        now_ns = time.perf_counter_ns()
        weighed = [(self._weight(holder, now_ns), holder) for holder in list(islice(self._large, LOOKED_AT))]
        weighed.sort(key=lambda it: it[0], reverse=True)
        for _, holder in weighed:
            if self.held_bytes <= self.limit_bytes * LOW_PART:
                break
            if (held := self._noted.get(holder, 0)) > self._spared_bytes:
                self.gave_way += 1
                self.forget(holder)
                holder.give_way(held)

    def _weight(self, holder: Holding, now_ns: int) -> int:
        held = holder.held_bytes
        self._note(holder, held)  # the kernel may have taken some of it since
        return held * (now_ns - holder.holds_since_ns) * (STRANGER_WEIGHT if holder.is_stranger else 1)
