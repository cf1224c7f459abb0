# SPDX-License-Identifier: GPL-2.0-only
"""Of the buckets for data no user keeps more than its part, half, reserved or pinned while another one waits.

Reservations and pins cannot be taken back one by one: a client may be writing, or reading. So the connections
with the most of them are closed, and they end as those of any closed connection do.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection

from bcached.runtime.coordination.wait_queue import Guard, WaitQueue
from bcached.state.sectors.reservations import Holder

PATIENCE_S = 1.0  # most waits are shorter


class HeldShares:
    """Looks once a second at who holds what, while requests for data wait and there are several users."""

    def __init__(
        self,
        holders: Collection[Holder],
        queue: WaitQueue,
        user_limit: Callable[[], float],
        guard: Guard,
    ) -> None:
        self._holders = holders
        self._queue = queue
        self._user_limit = user_limit  # in buckets
        self._look_guarded = guard(self._look)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._connections: Counter[int | None] = Counter()  # of each user

    def add(self, holder: Holder) -> None:
        """Count the connection of a new holder."""
        self._connections[holder.user] += 1

    def remove(self, holder: Holder) -> None:
        """The connection of a holder is closed."""
        self._connections[holder.user] -= 1
        if not self._connections[holder.user]:
            del self._connections[holder.user]

    def watch(self) -> None:
        """A request waits: look in a while, and again until none does."""
        if self._timer is None and len(self._connections) > 1:
            self._timer = self._loop.call_later(PATIENCE_S, self._look_guarded)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if not self._queue.users_waiting(0):
            return
        waiting = self._queue.users_waiting(PATIENCE_S)
        if waiting and (greedy := self._greedy_user(waiting)) is not None:
            self._take_back(greedy)
        self.watch()

    def _take_back(self, user: int | None) -> None:
        """Close the user's connections with the most until the others have no more than its part."""
        holders = sorted(
            (it for it in self._holders if it.user == user), key=lambda it: it.buckets, reverse=True
        )
        left, limit = sum(it.buckets for it in holders), self._user_limit()
        for holder in holders:
            if left <= limit:
                break
            left -= holder.buckets
            if holder.give_way is not None:
                holder.give_way(holder.buckets)

    def _greedy_user(self, waiting: set[int | None]) -> int | None:
        """Returns the user with more than its part of all data buckets, if another one waits."""
        limit = self._user_limit()
        for user, bound in self._bounds().most_common():
            if bound <= limit:
                break
            if self._held_by(user) > limit:
                return user if waiting - {user} else None
        return None

    def _bounds(self) -> Counter[int | None]:
        """Returns at most how many buckets each user holds: what is both reserved and pinned counts twice."""
        bounds: Counter[int | None] = Counter()
        for holder in self._holders:
            bounds[holder.user] += len(holder.pieces) + len(holder.reads)
        return bounds

    @property
    def most_of_a_user(self) -> int:
        """Returns about how many buckets the user holds that holds the most."""
        return max((count for user, count in self._bounds().items() if user is not None), default=0)

    def _held_by(self, user: int | None) -> int:
        return sum(holder.buckets for holder in self._holders if holder.user == user)
