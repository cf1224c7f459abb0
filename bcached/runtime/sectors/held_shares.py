# SPDX-License-Identifier: GPL-2.0-only
"""Of the buckets for data no user keeps more than half reserved or pinned while another one waits.

Reservations and pins cannot be taken back one by one: a client may be writing, or reading. So the connection
with the most of them is closed, and they end as those of any closed connection do.
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
        data_buckets: Callable[[], int],
        guard: Guard,
    ) -> None:
        self._holders = holders
        self._queue = queue
        self._data_buckets = data_buckets
        self._look_guarded = guard(self._look)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """A request waits: look in a while, and again until none does."""
        if self._timer is None and len({holder.user for holder in self._holders}) > 1:
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
            holder = max((it for it in self._holders if it.user == greedy), key=lambda it: it.buckets)
            if holder.give_way is not None:
                holder.give_way(holder.buckets)
        self.watch()

    def _greedy_user(self, waiting: set[int | None]) -> int | None:
        """Returns the user with more than half of all data buckets, if another one waits."""
        held: Counter[int | None] = Counter()
        for holder in self._holders:
            held[holder.user] += holder.buckets
        ((user, buckets),) = held.most_common(1) or [(None, 0)]
        return user if 2 * buckets > self._data_buckets() and waiting - {user} else None
