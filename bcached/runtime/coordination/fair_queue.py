# SPDX-License-Identifier: GPL-2.0-only
"""The order of one reserve's waiters: users take turns, and those of one user are served in order of arrival.

Each waiter belongs to a round, a user's next one to the next round; so one user's thousands of waiters delay
another's first by one of them.
"""

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Queued(Protocol):
    """What is queued; user None is the set itself. The queue sets round."""

    user: int | None
    round: int


T = TypeVar("T", bound=Queued)

FIRST = -1


class FairQueue(Generic[T]):
    """Waiters by round; those put first are in round FIRST."""

    def __init__(self) -> None:
        self._waiters: list[T] = []
        self._last: dict[int | None, T] = {}  # the last waiter of each user

    def __len__(self) -> int:
        """Returns how many wait."""
        return len(self._waiters)

    def __iter__(self) -> Iterator[T]:
        """Yields the waiters in the order in which they are to be served."""
        return iter(self._waiters)

    def __getitem__(self, index: int) -> T:
        """Returns one of them."""
        return self._waiters[index]

    def append(self, waiter: T) -> None:
        """Add a waiter to its user's next round, behind all others of that round."""
        now = next((it.round for it in self._waiters if it.round != FIRST), 0)
        last = self._last.get(waiter.user)
        waiter.round = now if last is None else max(now, last.round + 1)
        at = len(self._waiters)
        while at and self._waiters[at - 1].round > waiter.round:
            at -= 1
        self._waiters.insert(at, waiter)
        self._last[waiter.user] = waiter

    def put_first(self, waiter: T) -> None:
        """Add a waiter ahead of all others."""
        waiter.round = FIRST
        self._waiters.insert(0, waiter)

    def remove(self, waiter: T) -> None:
        """Remove a waiter, wherever it is."""
        self._waiters.remove(waiter)
        if self._last.get(waiter.user) is waiter:
            before = next((it for it in reversed(self._waiters) if self._is_of(it, waiter.user)), None)
            if before is None:
                del self._last[waiter.user]
            else:
                self._last[waiter.user] = before

    def last_of(self, user: int | None) -> T | None:
        """Returns the last waiter of a user."""
        return self._last.get(user)

    def _is_of(self, waiter: T, user: int | None) -> bool:
        return waiter.user == user and waiter.round != FIRST
