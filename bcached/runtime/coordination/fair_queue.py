# SPDX-License-Identifier: GPL-2.0-only
"""The order of one reserve's waiters: users take turns, and those of one user are served in order of arrival.

Each waiter belongs to a round, a user's next one to the next round; so one user's thousands of waiters delay
another's first by one of them. Every step takes the same time, however many wait.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar


class Queued(Protocol):
    """What is queued; user None is the set itself. The queue sets in_round, None of those put first."""

    in_round: "Round[Any] | None"

    @property
    def user(self) -> int | None:
        """Returns whose turns it takes."""


T = TypeVar("T", bound=Queued)

# Not a dict: the more of its entries were deleted, the longer that takes to find the first or last one.
Waiters = OrderedDict[T, None]


class Round(Generic[T]):
    """One waiter of each user at most, in order of arrival; rounds are linked in the order of their turns."""

    __slots__ = ("before", "behind", "waiters")

    def __init__(self) -> None:
        self.waiters: Waiters[T] = OrderedDict()
        self.before = self.behind = self


class FairQueue(Generic[T]):
    """Those put first, then the others by round."""

    def __init__(self) -> None:
        self._count = 0
        self._first: Waiters[T] = OrderedDict()
        self._ends: Round[T] = Round()  # before the first round, and behind the last one; always empty
        self._of_user: dict[int | None, Waiters[T]] = {}  # without those put first

    def __len__(self) -> int:
        """Returns how many wait."""
        return self._count

    def __iter__(self) -> Iterator[T]:
        """Yields the waiters in the order in which they are to be served."""
        yield from self._first
        a_round = self._ends.behind
        while a_round is not self._ends:
            yield from a_round.waiters
            a_round = a_round.behind

    @property
    def head(self) -> T:
        """Returns the waiter to be served next."""
        return next(iter(self))

    @property
    def first(self) -> list[T]:
        """Returns those put first."""
        return list(self._first)

    def append(self, waiter: T) -> None:
        """Add a waiter to the round after that of its user's last one, or to the present round."""
        own: Waiters[T] = self._of_user.setdefault(waiter.user, OrderedDict())
        last = next(reversed(own)).in_round if own else self._ends
        assert last is not None, "those put first are of no round"
        waiter.in_round = self._after(last)
        waiter.in_round.waiters[waiter] = own[waiter] = None
        self._count += 1

    def put_first(self, waiter: T) -> None:
        """Add a waiter ahead of all others."""
        waiter.in_round = None
        self._first[waiter] = None
        self._first.move_to_end(waiter, last=False)
        self._count += 1

    def remove(self, waiter: T) -> None:
        """Remove a waiter, wherever it is."""
        self._count -= 1
        a_round = waiter.in_round
        if a_round is None:
            del self._first[waiter]
            return
        del a_round.waiters[waiter]
        if not a_round.waiters:
            a_round.before.behind, a_round.behind.before = a_round.behind, a_round.before
        own = self._of_user[waiter.user]
        del own[waiter]
        if not own:
            del self._of_user[waiter.user]

    def last_of(self, user: int | None) -> T | None:
        """Returns the last waiter of a user."""
        own = self._of_user.get(user)
        return None if own is None else next(reversed(own))

    def oldest(self) -> Iterator[T]:
        """Yields the first waiter of each user, in any order; but those put first, none has waited longer."""
        return (next(iter(own)) for own in self._of_user.values())

    def _after(self, a_round: Round[T]) -> Round[T]:
        """Returns the round behind another one; a new one behind the last."""
        if a_round.behind is self._ends:
            new: Round[T] = Round()
            new.before, new.behind = a_round, self._ends
            a_round.behind = self._ends.before = new
        return a_round.behind
