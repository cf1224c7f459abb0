# SPDX-License-Identifier: GPL-2.0-only
"""The record of one call: what was called, when it began and ended, and what it returned.

A worker writes its records to a file that it maps, so those of a killed worker are there, too: a call that it
did not finish has a beginning, and no outcome. Times are those of the clock that all processes read.
"""

import mmap
import struct
import time
from enum import IntEnum, IntFlag
from pathlib import Path

RECORD = struct.Struct("<qqQIBBH")  # began, ended, token, name, kind, outcome, flags
ENDED_AT, TOKEN_AT, OUTCOME_AT = 8, 16, 29
ENDED = struct.Struct("<q")
TOKEN = struct.Struct("<Q")
NUMBER_BITS = 40  # of a token: the number of the call; above it the number of the worker
ALL_NAMES = (1 << 32) - 1


class Kind(IntEnum):
    """A call."""

    GET = 1
    SET = 2
    ADD = 3
    DELETE = 4  # with the name ALL_NAMES also clear, and the deletion of the volume
    TOUCH = 5
    FLUSH = 6


class Outcome(IntEnum):
    """How it ended. UNKNOWN: not at all, or by an error, so that it may still have an effect."""

    UNKNOWN = 0
    DONE = 1
    NOT = 2  # without effect: a miss, an add that found an object


class Flag(IntFlag):
    """What else is known of a call."""

    WAITED = 1  # visible to all processes when it ended
    DURABLE = 2
    WRONG = 4  # it returned what was never stored under this name


class Log:
    """The records of one worker, which alone writes them."""

    def __init__(self, path: Path, capacity: int) -> None:
        with path.open("w+b") as file:
            file.truncate(capacity * RECORD.size)
            self._map = mmap.mmap(file.fileno(), capacity * RECORD.size)
        self._end = 0

    @property
    def count(self) -> int:
        """Returns how many calls have begun."""
        return self._end // RECORD.size

    def begin(self, kind: Kind, name: int, token: int = 0, flags: int = 0) -> int:
        """Record that a call begins; returns where, for `end`."""
        at = self._end
        self._end = at + RECORD.size
        RECORD.pack_into(self._map, at, time.monotonic_ns(), 0, token, name, kind, Outcome.UNKNOWN, flags)
        return at

    def end(self, at: int, outcome: Outcome) -> None:
        """Record that the call has returned."""
        ENDED.pack_into(self._map, at + ENDED_AT, time.monotonic_ns())
        self._map[at + OUTCOME_AT] = outcome

    def end_read(self, at: int, token: int | None) -> None:
        """Record what was read: the token of a value, 0 for a miss, None for a value that is wrong."""
        TOKEN.pack_into(self._map, at + TOKEN_AT, token or 0)
        if token is None:
            self._map[at + OUTCOME_AT + 1] |= Flag.WRONG
        self.end(at, Outcome.NOT if token == 0 else Outcome.DONE)
