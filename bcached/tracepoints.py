# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's tracepoints of bcache as events, under its names.

    if trace.listeners:
        trace.emit("bcache_alloc", device=0, sector=128)

The question is all that a tracepoint costs while nothing listens. An event goes to the listeners that want
it; one that does not take its events in time loses the newest, and they are counted.
"""

import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, NamedTuple

# Each event, and its fields in the order in which they are printed. Sectors are those of the device.
EVENTS: dict[str, tuple[str, ...]] = {
    "bcache_alloc": ("device", "sector", "reserve"),
    "bcache_alloc_fail": ("device", "reserve", "free", "free_inc", "blocked"),
    "bcache_invalidate": ("device", "sector", "sectors"),
    "bcache_prio_write": ("device", "sector", "buckets", "microseconds"),  # the kernel has no tracepoint
    "bcache_gc_start": ("trigger",),
    "bcache_gc_end": ("pointers", "stale", "microseconds"),
    "bcache_gc_copy": ("inode", "offset", "sectors", "dirty"),
    "bcache_gc_copy_collision": ("inode", "offset", "sectors", "dirty"),
    "bcache_cache_insert": ("inode", "offset", "sectors", "dirty"),
    "bcache_journal_write": ("device", "sector", "sectors", "words"),
    "bcache_journal_full": (),
    "bcache_journal_entry_full": (),
    "bcache_btree_read": ("device", "bucket"),
    "bcache_btree_write": ("device", "bucket", "block", "blocks"),
    "bcache_btree_node_alloc": ("device", "bucket"),
    "bcache_btree_node_alloc_fail": ("nodes",),
    "bcache_btree_node_free": ("device", "bucket"),
    "bcache_btree_node_split": ("device", "bucket", "nodes"),
    "bcache_btree_node_compact": ("device", "bucket"),
    "bcache_btree_gc_coalesce": ("nodes",),
    "bcache_btree_set_root": ("device", "bucket"),
}
EVENTS_KEPT = 8192  # for a listener that has not taken them yet


class Event(NamedTuple):
    """One event; time_ns is the system's monotonic clock, which perf prints, too."""

    time_ns: int
    name: str
    fields: dict[str, Any]


NO_INODES: frozenset[int] = frozenset()


class Listener:
    """The events that one listener wants and has not taken, without those of inodes hidden from it."""

    def __init__(
        self,
        wanted: Iterable[str],
        limit: int | None,
        hidden: Callable[[], Container[object]] = lambda: NO_INODES,
    ) -> None:
        self.wanted = frozenset(wanted)
        self.hidden = hidden
        self.events: deque[Event] = deque()
        self.dropped = 0  # since they were taken last
        self.left = limit  # how many more events it wants; None: no limit

    def wants(self, name: str, fields: Mapping[str, Any]) -> bool:
        """Whether an event is for it."""
        return name in self.wanted and fields.get("inode") not in self.hidden()

    def add(self, event: Event) -> None:
        """Keep an event, or drop and count it."""
        if self.left == 0:
            return
        if len(self.events) >= EVENTS_KEPT:
            self.dropped += 1
            return
        self.events.append(event)
        if self.left is not None:
            self.left -= 1

    def take(self, most: int) -> tuple[list[Event], int]:
        """Returns the oldest events, and how many were dropped since the last call."""
        taken = [self.events.popleft() for _ in range(min(most, len(self.events)))]
        dropped, self.dropped = self.dropped, 0
        return taken, dropped

    @property
    def is_done(self) -> bool:
        """Whether it has taken all events that it wanted."""
        return self.left == 0 and not self.events


class Tracepoints:
    """The listeners of a set; its parts emit their events here. clock gives nanoseconds."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self.dropped = 0  # since the start, for all listeners
        self._clock = clock

    def listen(
        self,
        wanted: Iterable[str],
        limit: int | None = None,
        hidden: Callable[[], Container[object]] = lambda: NO_INODES,
    ) -> Listener:
        """Returns a new listener for these events; call `stop` at its end."""
        listener = Listener(wanted, limit, hidden)
        self.listeners = (*self.listeners, listener)
        return listener

    def stop(self, listener: Listener) -> None:
        """Remove a listener."""
        self.listeners = tuple(one for one in self.listeners if one is not listener)

    def emit(self, name: str, **fields: Any) -> None:
        """Pass an event to its listeners."""
        event = Event(self._clock(), name, fields)
        for listener in self.listeners:
            if listener.wants(name, fields):
                before = listener.dropped
                listener.add(event)
                self.dropped += listener.dropped - before


OFF = Tracepoints()  # for parts that belong to no running set; nothing listens to it
