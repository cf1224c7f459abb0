# SPDX-License-Identifier: GPL-2.0-only
"""The memory that all connections hold together, and which of them to close when it exceeds a limit.

A connection holds partial requests, waiting requests, and replies that wait or are unread. Most hold nothing
between two reads, and are not listed here. Above the limit connections of a user that has more than its part
are closed until it has no more; then those that held the most for the longest, so that a request that has
just arrived goes through, however large. Connections that hold no more than a small share (all shares
together are half of the limit) are never closed. Peers without a role have a limit of their own for all of
them together, and no share.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple, Protocol

from bcached.service.users.access import Role
from bcached.service.users.socket_limits import SocketLimits

LOOKED_AT = 1024  # holders compared at a time, in two milliseconds: those that exceeded their share first
LOW_PART = 7 / 8  # of a limit: memory is freed down to it at once, not at every read
NO_ROLE_WEIGHT = 1000
LIMIT, NO_ROLE_LIMIT = "buffer_bytes", "buffer_bytes_without_role"


class Holding(Protocol):
    """The interface of a connection to the account."""

    @property
    def held_bytes(self) -> int:
        """Returns what it holds now."""

    @property
    def holds_since_ns(self) -> int:
        """Returns since when the oldest of it waits, by time.perf_counter_ns()."""

    @property
    def role(self) -> Role:
        """Returns the role of its peer."""

    @property
    def user_id(self) -> int:
        """Returns the user of its peer."""

    def give_way(self, limit: str, held_bytes: int) -> None:
        """Close at once and release everything."""


class Noted(NamedTuple):
    """What a connection held when it was noted last, under which user and role."""

    held_bytes: int
    user: int
    role: Role


class Buffers:
    """The account of all connections. It keeps sums by user and by role beside the list."""

    def __init__(self, limits: SocketLimits) -> None:
        self.held_bytes = 0
        self.peak_bytes = 0  # since it was last reset
        self.gave_way = 0
        self._of_user: Counter[int] = Counter()
        self._of_role: Counter[Role] = Counter()
        self._noted: dict[Holding, Noted] = {}
        # Connections above their share, in the order in which they exceeded it.
        self._large: dict[Holding, None] = {}
        self.set_limits(limits)

    def set_limits(self, limits: SocketLimits) -> None:
        """Set the limits."""
        self.limit_bytes = limits.buffer_bytes
        self._no_role_bytes = min(limits.buffer_bytes_without_role, limits.buffer_bytes // 2)
        self._user_bytes = limits.buffer_bytes * limits.user_percent // 100
        self._spared_bytes = limits.buffer_bytes // (2 * limits.connections)
        self._large = dict.fromkeys(
            it for it, noted in self._noted.items() if noted.held_bytes > self._spared_bytes
        )
        self._free_memory()

    def by_role(self) -> dict[str, int]:
        """Returns what is held, by the names of roles."""
        return {role.label: held for role, held in self._of_role.items()}

    @property
    def largest_user_bytes(self) -> int:
        """Returns what the user with the most holds."""
        return max(self._of_user.values(), default=0)

    def note(self, holder: Holding, held_bytes: int) -> None:
        """Note what a connection holds now; it, or another one, may be closed for it."""
        self._note(holder, held_bytes)
        self._free_memory()

    def forget(self, holder: Holding) -> None:
        """Remove a closed connection and all that it held."""
        self._note(holder, 0)

    def _note(self, holder: Holding, held_bytes: int) -> None:
        before = self._noted.pop(holder, None)
        if before is not None:
            self._count(before, -before.held_bytes)
        if held_bytes:
            now = self._noted[holder] = Noted(held_bytes, holder.user_id, holder.role)
            self._count(now, held_bytes)
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        if held_bytes > self._spared_bytes:
            self._large.setdefault(holder)
        else:
            self._large.pop(holder, None)

    def _count(self, noted: Noted, held_bytes: int) -> None:
        self.held_bytes += held_bytes
        self._of_role[noted.role] += held_bytes
        self._of_user[noted.user] += held_bytes
        if not self._of_user[noted.user]:
            del self._of_user[noted.user]

    # Closing connections

    def _free_memory(self) -> None:
        """Free memory above a limit.

        1. Of peers without a role. 2. Of a user that has more than its part, if others hold some, too.
        3. Of those that held most for longest.
        """
        if self._of_role[Role.NONE] > self._no_role_bytes:
            strangers = [it for it, noted in self._noted.items() if noted.role == Role.NONE]
            low = self._no_role_bytes * LOW_PART
            self._close(strangers, NO_ROLE_LIMIT, lambda: self._of_role[Role.NONE] <= low, 0)
        if self.held_bytes <= self.limit_bytes:
            return
        low = self.limit_bytes * LOW_PART
        ((greedy, held),) = self._of_user.most_common(1)
        if held > self._user_bytes and len(self._of_user) > 1:
            self._close(
                [it for it in self._large if self._noted[it].user == greedy],
                LIMIT,
                lambda: self._of_user[greedy] <= self._user_bytes or self.held_bytes <= low,
                self._spared_bytes,
            )
        self._close(self._large, LIMIT, lambda: self.held_bytes <= low, self._spared_bytes)

    def _close(
        self, holders: Iterable[Holding], limit: str, is_enough: Callable[[], bool], spared_bytes: int
    ) -> None:
        """Close those of these connections that held most for longest, until that is enough."""
        if is_enough():
            return
        now_ns = time.perf_counter_ns()
        weighed = [(self._weight(holder, now_ns), holder) for holder in list(islice(holders, LOOKED_AT))]
        weighed.sort(key=lambda it: it[0], reverse=True)
        for _, holder in weighed:
            if is_enough():
                break
            if (noted := self._noted.get(holder)) is not None and noted.held_bytes > spared_bytes:
                self.gave_way += 1
                self.forget(holder)
                holder.give_way(limit, noted.held_bytes)

    def _weight(self, holder: Holding, now_ns: int) -> int:
        held = holder.held_bytes
        self._note(holder, held)  # the kernel may have taken some of its replies since
        weight = NO_ROLE_WEIGHT if holder.role == Role.NONE else 1
        return held * (now_ns - holder.holds_since_ns) * weight
