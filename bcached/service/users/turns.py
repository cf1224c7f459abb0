# SPDX-License-Identifier: GPL-2.0-only
"""Turns: how the connections of all users share the event loop.

A connection's requests run as they arrive, for a slice at most; the rest waits for a turn, as does all that
arrives once its user has used its turn in the present iteration of the loop. What waits is run in rounds, one
an iteration: each user has one turn in a round, whatever the number of its connections. A user that is alone
has a longer one, which little requests hardly ever use up. Within a turn they run in the order of their
deadlines: a thousand times as long after they began to wait as they took last time. So little requests go
ahead of long ones, and of the next of thousands that were sent at once, and yet nothing waits for ever.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Protocol

TURN_NS = 1_000_000
ALONE_NS = 5_000_000  # of a user that is the only one: turns cost a tenth of a small request
RUN_ALONE_NS = 2_500_000
ROUND_NS = 2_000_000  # then events are handled, and the round continues where it was
STEP_NS = 500_000  # what a step of a longer request is counted as
PATIENCE = 1000

Schedule = Callable[[Callable[[], None]], object]


class Taker(Protocol):
    """What waits for a turn: a connection, or a longer request between two of its steps."""

    took_ns: int  # what its turn is expected to take
    ran_ns: int  # what it took

    def take_turn(self) -> None:
        """Run for a little while."""


class User:
    """What the connections of one user share.

    is_over: it has used its turn, or its connections wait for the next one. spent_ns: used of the present
    turn.
    """

    __slots__ = ("connections", "is_over", "spent_ns", "uid", "waiting")

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.connections = 0
        self.is_over = False
        self.spent_ns = 0
        self.waiting: list[tuple[int, int, Taker]] = []  # a heap, by deadline, then by arrival

    def __repr__(self) -> str:
        over = ", its turn is over" if self.is_over else ""
        return f"<User {self.uid}: {self.connections} connections, {len(self.waiting)} wait{over}>"


class Turns:
    """The users with connections, and those of them whose turn is over.

    Of these, those whose connections wait are in the order of the next round. A round takes as many steps as
    users have a turn in it, or have used theirs since the last one, however many wait. schedule calls a
    function in the next iteration of the loop; clock returns nanoseconds.
    """

    def __init__(self, schedule: Schedule, clock: Callable[[], int]) -> None:
        self.users: dict[int, User] = {}
        self.half_turn_ns = ALONE_NS // 2  # of a user, in an iteration of the loop
        self.run_ns = RUN_ALONE_NS  # how long the requests of one read run at most, before others
        self.busy_until_ns = 0  # when a request ran last, of any connection
        self._schedule = schedule
        self._clock = clock
        # Not a dict: the more of its entries were removed, the longer it takes to find the first one.
        self._waiting: OrderedDict[User, None] = OrderedDict()
        self._resting: set[User] = set()  # their turn is over, and nothing of them waited when it ended
        self._half_over: set[User] = set()  # the next iteration begins with another turn
        self._arrivals = 0
        self._is_scheduled = False

    def join(self, uid: int) -> User:
        """Returns the user of a new connection."""
        user = self.users.get(uid)
        if user is None:
            user = self.users[uid] = User(uid)
            self._fit_turn()
        user.connections += 1
        return user

    def _fit_turn(self) -> None:
        is_alone = len(self.users) <= 1
        self.half_turn_ns = (ALONE_NS if is_alone else TURN_NS) // 2
        self.run_ns = RUN_ALONE_NS if is_alone else TURN_NS

    def leave(self, user: User) -> None:
        """Remove a closed connection of a user."""
        user.connections -= 1
        if not user.connections:
            del self.users[user.uid]
            self._fit_turn()

    def note_spent(self, user: User) -> None:
        """The user has used half of its turn, or all: then the next one begins with the next round.

        A turn is one of an iteration, but iterations are only followed from its half on: most are too short.
        """
        if user.spent_ns > 2 * self.half_turn_ns:
            self.end(user)
        elif not user.is_over:
            self._half_over.add(user)
            self._schedule_round()

    def end(self, user: User) -> None:
        """The user has used its turn; the next one begins with the next round."""
        user.is_over = True
        if user.waiting:
            self._waiting.setdefault(user)
        else:
            self._resting.add(user)
        self._schedule_round()

    def _schedule_round(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._schedule(self._run_round)

    def wait(self, user: User, taker: Taker) -> None:
        """Let something have its part of a later turn of its user."""
        self._arrivals += 1
        heappush(user.waiting, (self._clock() + PATIENCE * taker.took_ns, self._arrivals, taker))
        self.end(user)

    async def pause(self, user: User) -> None:
        """Between two steps of a longer request: continue when it is the user's turn."""
        if user.is_over:
            pause = Pause()
            self.wait(user, pause)
            await pause.future
        else:
            self.end(user)
            await asyncio.sleep(0)

    def _run_round(self) -> None:
        self._is_scheduled = False
        for user in self._half_over:
            user.spent_ns = 0
        self._half_over.clear()
        for user in self._resting:
            user.spent_ns = 0
            user.is_over = bool(user.waiting)
        self._resting.clear()
        spent_ns = 0
        for _ in range(len(self._waiting)):
            if spent_ns >= ROUND_NS:
                break
            user, _ = self._waiting.popitem(last=False)
            spent_ns += self._run_turn(user)
        if self._waiting:
            self._schedule_round()

    def _run_turn(self, user: User) -> int:
        """Run a user's turn; returns what it took. The user is over, and last, if more of it waits."""
        spent_ns = 0
        while user.waiting and spent_ns < TURN_NS:
            taker = heappop(user.waiting)[2]
            taker.take_turn()
            spent_ns += taker.ran_ns
        user.spent_ns = 0
        self._waiting.pop(user, None)
        if user.waiting:
            self._waiting[user] = None
        else:
            user.is_over = False
        return spent_ns


class Pause:
    """A longer request between two of its steps."""

    def __init__(self) -> None:
        self.took_ns = STEP_NS
        self.ran_ns = 0
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take_turn(self) -> None:
        """Let the next step run, unless the request was cancelled."""
        if not self.future.done():
            self.ran_ns = STEP_NS
            self.future.set_result(None)
