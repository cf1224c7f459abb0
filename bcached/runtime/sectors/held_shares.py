# SPDX-License-Identifier: GPL-2.0-only
"""Of the buckets for data no user keeps more than its part, half, reserved or pinned while another one waits.

Reservations and pins cannot be taken back one by one: a client may be writing, or reading. So the connections
with the most of them are closed, and they end as those of any closed connection do.
"""

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from operator import attrgetter

from bcached.runtime.coordination.wait_queue import Guard, WaitQueue
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.reservations import HeldTotal, Holder

PATIENCE_S = 1.0  # most waits are shorter
SORTED_AT_ONCE = 1024  # connections of a user: a millisecond
CLOSED_AT_ONCE = 16  # connections: a millisecond, with what is logged

buckets_of = attrgetter("buckets")


class ConnectedUser(HeldTotal):
    """The connections of one user; their holders keep the sum of their buckets up to date."""

    def __init__(self) -> None:
        super().__init__()
        self.holders: dict[Holder, None] = {}

    def add(self, holder: Holder) -> None:
        """Count a connection."""
        self.holders[holder] = None
        self.buckets += holder.buckets
        holder.of_user = self

    def remove(self, holder: Holder) -> None:
        """Count a connection no more."""
        del self.holders[holder]
        self.buckets -= holder.buckets
        holder.of_user = None


class HeldShares:
    """Looks once a second at who holds what, while requests for data wait and there are several users.

    Sums are kept by user, so a look takes a step for each user, whatever they hold.
    """

    def __init__(self, queue: WaitQueue, user_limit: Callable[[], float], guard: Guard) -> None:
        self._queue = queue
        self._user_limit = user_limit  # in buckets
        self._look_guarded, self._close_guarded = guard(self._look), guard(self._close_some)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._users: dict[int | None, ConnectedUser] = {}

    def add(self, holder: Holder) -> None:
        """Count the connection of a new holder."""
        self._users.setdefault(holder.user, ConnectedUser()).add(holder)

    def remove(self, holder: Holder) -> None:
        """The connection of a holder is closed."""
        user = self._users[holder.user]
        user.remove(holder)
        if not user.holders:
            del self._users[holder.user]

    def watch(self) -> None:
        """A request waits: look in a while, and again until none does."""
        if self._timer is None and len(self._users) > 1:
            self._timer = self._loop.call_later(PATIENCE_S, self._look_guarded)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if not self._queue.count(Reserve.NONE):
            return
        greedy = self._greedy_user(self._queue.users_waiting(PATIENCE_S))
        if greedy is None:
            self.watch()
        else:
            self._close_some(self._to_be_closed(greedy))

    def _greedy_user(self, waiting: set[int | None]) -> ConnectedUser | None:
        """Returns the user with more than its part of all data buckets, if another one waits."""
        if not waiting:
            return None
        uid, user = max(self._users.items(), key=lambda it: it[1].buckets)
        return user if user.buckets > self._user_limit() and waiting - {uid} else None

    def _to_be_closed(self, user: ConnectedUser) -> Iterator[Holder]:
        """Yields the user's connections with the most, until the others have no more than its part.

        Of very many connections, those that connected first are sorted first.
        """
        left, limit = user.buckets, self._user_limit()
        holders = iter(list(user.holders))
        while some := sorted(islice(holders, SORTED_AT_ONCE), key=buckets_of, reverse=True):
            for holder in some:
                if left <= limit:
                    return
                left -= holder.buckets
                yield holder

    def _close_some(self, holders: Iterator[Holder]) -> None:
        """Close some connections now, and the rest later: each takes a while."""
        closed = 0
        for holder in islice(holders, CLOSED_AT_ONCE):
            closed += 1
            if holder.give_way is not None:  # its connection is open
                holder.give_way(holder.buckets)
        if closed == CLOSED_AT_ONCE:
            self._timer = self._loop.call_soon(self._close_guarded, holders)
        else:
            self._timer = None
            self.watch()

    @property
    def most_of_a_user(self) -> int:
        """Returns how many buckets the user holds that holds the most."""
        return max((each.buckets for user, each in self._users.items() if user is not None), default=0)
