# SPDX-License-Identifier: GPL-2.0-only
"""Which connection is closed for a new one, where as many as may be are connected.

That of a peer without a role if there is one; otherwise one of the user that has more than its part of all.
Both are found in a few steps, however many are connected: a flood of new connections is answered as fast.
"""

from collections import OrderedDict
from itertools import islice
from typing import Generic, Protocol, TypeVar

LOOKED_AT = 64  # connections of a user compared at a time


class Evictable(Protocol):
    """The interface of a connection."""

    @property
    def user_id(self) -> int:
        """Returns the user of its peer."""

    @property
    def has_no_role(self) -> bool:
        """Whether its peer has no role."""

    @property
    def is_busy(self) -> bool:
        """Whether requests of it are under way."""

    @property
    def active_at_ns(self) -> int:
        """Returns when a request of it ran last."""


T = TypeVar("T", bound=Evictable)


class Evictions(Generic[T]):
    """All connections, by user; largest_uid is the user with more than half of them, if there is one."""

    def __init__(self) -> None:
        self.largest_uid: int | None = None
        self._of_user: dict[int, OrderedDict[T, None]] = {}
        self._without_role: dict[T, None] = {}

    def count_of(self, uid: int | None) -> int:
        """Returns how many connections a user has."""
        return len(self._of_user.get(uid, ())) if uid is not None else 0

    @property
    def most_of_a_user(self) -> int:
        """Returns how many connections the user has that has the most."""
        return max(map(len, self._of_user.values()), default=0)

    def add(self, connection: T) -> None:
        """Add a new connection.

        A user that comes to have more than half of all has more than the user that had the most before.
        """
        uid = connection.user_id
        self._of_user.setdefault(uid, OrderedDict())[connection] = None
        if self.count_of(uid) > self.count_of(self.largest_uid):
            self.largest_uid = uid
        self.note_role(connection)

    def remove(self, connection: T) -> None:
        """Remove a closed connection."""
        own = self._of_user[connection.user_id]
        del own[connection]
        if not own:
            del self._of_user[connection.user_id]
        self._without_role.pop(connection, None)

    def note_role(self, connection: T) -> None:
        """Note whether its peer has a role now."""
        if connection.has_no_role:
            self._without_role[connection] = None
        else:
            self._without_role.pop(connection, None)

    def recount(self) -> None:
        """Find the user with the most: the limit of connections was changed."""
        self.largest_uid = max(self._of_user, key=self.count_of, default=None)

    def without_role(self) -> T | None:
        """Returns the connection of a peer without a role, if there is one."""
        return next(reversed(self._without_role), None)

    def least_active(self, uid: int) -> T:
        """Returns a connection of a user: if possible one without requests under way, idle for longest.

        Of very many it compares some, and others the next time: which one it is concerns this user only.
        """
        own = self._of_user[uid]
        compared = list(islice(own, LOOKED_AT))
        for connection in compared:
            own.move_to_end(connection)
        return min(compared, key=lambda it: (it.is_busy, it.active_at_ns))
