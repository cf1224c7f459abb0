# SPDX-License-Identifier: GPL-2.0-only
"""The memory that all connections hold together, and which of them to close when it exceeds the limit.

A connection holds partial requests, waiting requests, and replies that wait or are unread. Most hold nothing
between two reads, and are not listed here. Above the limit those are closed first that held the most for the
longest, so that a request that has just arrived goes through, however large. Connections that hold no more
than a small share (all shares together are half of the limit) are never closed.
"""

import time
from itertools import islice
from typing import Protocol

LOOKED_AT = 4096  # holders compared at a time: those that exceeded their share first
LOW_PART = 7 / 8  # of the limit: memory is freed down to it at once, not at every read
NO_ROLE_WEIGHT = 1000


class Holding(Protocol):
    """The interface of a connection to the account."""

    @property
    def held_bytes(self) -> int:
        """Returns what it holds now."""

    @property
    def holds_since_ns(self) -> int:
        """Returns since when the oldest of it waits, by time.perf_counter_ns()."""

    @property
    def has_no_role(self) -> bool:
        """Whether its peer has no role."""

    def give_way(self, held_bytes: int) -> None:
        """Close at once and release everything."""


class Buffers:
    """The account of all connections."""

    def __init__(self, limit_bytes: int, connections: int) -> None:
        self.held_bytes = 0
        self.peak_bytes = 0  # since it was last reset
        self.gave_way = 0
        self._noted: dict[Holding, int] = {}
        self._large: dict[
            Holding, None
        ] = {}  # connections above their share, in the order in which they exceeded it
        self.set_limits(limit_bytes, connections)

    def set_limits(self, limit_bytes: int, connections: int) -> None:
        """Set the limits."""
        self.limit_bytes = limit_bytes
        self._spared_bytes = limit_bytes // (2 * connections)
        self._large = dict.fromkeys(it for it, held in self._noted.items() if held > self._spared_bytes)
        if self.held_bytes > limit_bytes:
            self._free_memory()

    def note(self, holder: Holding, held_bytes: int) -> None:
        """Note what a connection holds now; it, or another one, may be closed for it."""
        self._note(holder, held_bytes)
        if self.held_bytes > self.limit_bytes:
            self._free_memory()

    def forget(self, holder: Holding) -> None:
        """Remove a closed connection and all that it held."""
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

    def _free_memory(self) -> None:
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
        self._note(holder, held)  # the kernel may have taken some of its replies since
        return held * (now_ns - holder.holds_since_ns) * (NO_ROLE_WEIGHT if holder.has_no_role else 1)
