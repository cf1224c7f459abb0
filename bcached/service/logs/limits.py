# SPDX-License-Identifier: GPL-2.0-only
"""Rate limits of log messages: the first few of a kind in each window, then how many more there were.

A peer can cause the same message ten thousand times a second. A kind is a location in the code that logs, so
the number of kinds is bounded, whatever the messages contain.
"""

import logging
from dataclasses import dataclass

BURST = 20
WINDOW_S = 10.0

MessageKind = tuple[str, int, str, int]


@dataclass(slots=True)
class Window:
    """The messages of one kind since the window began; of those held back, the last."""

    began_s: float
    admitted: int = 0
    held_back: int = 0
    last: logging.LogRecord | None = None


class LogLimits:
    """Decides for each message whether it is written."""

    def __init__(self) -> None:
        self.held_back = 0
        self._windows: dict[MessageKind, Window] = {}

    def admits(self, record: logging.LogRecord, now_s: float) -> bool:
        """Whether the message may be written; critical ones always are."""
        if record.levelno >= logging.CRITICAL:
            return True
        kind = (record.name, record.levelno, record.pathname, record.lineno)
        window = self._windows.setdefault(kind, Window(now_s))
        if not window.held_back and now_s - window.began_s >= WINDOW_S:
            window.began_s, window.admitted = now_s, 0
        if window.admitted < BURST:
            window.admitted += 1
            return True
        window.held_back += 1
        window.last = record
        self.held_back += 1
        return False

    def ended(self, now_s: float, at_once: bool = False) -> list[tuple[logging.LogRecord, int, float]]:
        """Returns for each kind whose window is over (at_once: all) its last message, count and seconds."""
        summaries = []
        for window in self._windows.values():
            age_s = now_s - window.began_s
            if window.last is not None and (at_once or age_s >= WINDOW_S):
                summaries.append((window.last, window.held_back, age_s))
                window.began_s, window.admitted, window.held_back, window.last = now_s, 0, 0, None
        return summaries
