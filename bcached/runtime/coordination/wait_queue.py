# SPDX-License-Identifier: GPL-2.0-only
"""Waiting for buckets: users take turns, each first come, first served, with deadlines.

One queue per reserve. When buckets arrive, the head of each queue takes what it needs at once, and its future
gets the result; no waiter is woken only to find the buckets taken. A head that leaves, at its deadline or
with its client, gives back what it gathered, and the next one is served.

A head that gathers much lets others pass: as many small requests as it got pieces last time; and it keeps
nothing while the set could not complete it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import chain, islice
from typing import Any, TypeVar

from bcached.errors import BcachedError, LimitExceeded, NoFreeBuckets, NoSuchVolume, RequestError
from bcached.runtime.coordination.fair_queue import FairQueue, Round
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.pending_allocations import PendingAllocation
from bcached.state.sectors.reservations import Holder
from bcached.state.statistics import WAIT_BOUNDS_S, Histogram

T = TypeVar("T")

LOOKED_AT = 256  # behind a head that lets others pass
USERS_NAMED = 3

Guard = Callable[[Callable[..., None]], Callable[..., None]]


class Waiter:
    """One entry of a queue; first: it goes ahead of those that are not. granted: pieces it got last time."""

    __slots__ = ("deadline", "first", "future", "granted", "in_queue", "in_round", "since", "user", "work")

    def __init__(
        self, work: PendingAllocation[Any], future: "asyncio.Future[Any]", since: float, first: bool
    ) -> None:
        self.work = work
        self.future = future
        self.since = since
        self.first = first
        self.in_queue = True
        self.granted = 0
        self.in_round: Round[Any] | None = None
        self.user = None if work.holder is None else work.holder.user
        self.deadline: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        ahead = ", first" if self.first else ""
        return f"<Waiter {type(self.work).__name__} for {self.work.reserve.name.lower()}{ahead}>"


class WaitQueue:
    """The queues of a set.

    limit is the most waiters in all, total their number; of these, one user keeps no more than half while
    another one's are refused. on_change is called when waiters arrive, leave or are served. guard wraps
    callbacks of the loop, which would only log their exceptions. Most of its attributes are the limits and
    what is counted against them: each waiter changes several when it enters and leaves.
    """

    def __init__(
        self, limit: int, on_change: Callable[[], None], guard: Guard, user_percent: int = 50
    ) -> None:
        self.limit = limit
        self.user_limit = limit * user_percent // 100  # of one user's waiters, while another one's lack room
        self.total = 0
        self.waits = Histogram(WAIT_BOUNDS_S)
        # Requests that got nothing, by reason.
        self.failures = {"timeout": 0, "no_wait": 0, "cancelled": 0, "limit": 0}
        self._queues: dict[Reserve, FairQueue[Waiter]] = {reserve: FairQueue() for reserve in Reserve}
        self._of_user: Counter[int | None] = Counter()
        self._greedy: int | None = None  # the user that exceeded its part of the limit last
        self._of_holder: dict[Holder, dict[Waiter, None]] = {}  # a holder's waiters end with its connection
        self._turned_away: set[Reserve] = (
            set()
        )  # reserves for which a request was refused since buckets arrived
        self._refusal: RequestError | None = None  # why no request may wait any more
        self.on_short: Callable[[Reserve], None] = lambda _: None  # called when a request has to wait
        self._on_change = on_change
        self._expire_guarded, self._forget_guarded = guard(self._expire), guard(self._forget)
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        waiting = {reserve.name.lower(): len(queue) for reserve, queue in self._queues.items() if len(queue)}
        refusal = "" if self._refusal is None else f", refused: {self._refusal}"
        return f"<WaitQueue {waiting or 'empty'}, oldest {self.oldest_wait_s():.1f} s{refusal}>"

    @property
    def most_of_a_user(self) -> int:
        """Returns how many requests wait of the user that has the most."""
        return max((count for user, count in self._of_user.items() if user is not None), default=0)

    @property
    def largest_waiters(self) -> tuple[tuple[int | None, int], ...]:
        """Returns the users of which most requests wait, and how many; user None is the set itself."""
        return tuple(self._of_user.most_common(USERS_NAMED))

    def set_limit(self, limit: int, user_percent: int = 50) -> None:
        """Set how many may wait in all, and of one user; those that wait already stay."""
        self.limit = limit
        self.user_limit = limit * user_percent // 100
        self._find_greedy()

    def _find_greedy(self) -> None:
        for user, _ in self._of_user.most_common(1):
            self._greedy = user

    def submit(
        self, work: PendingAllocation[T], timeout_s: float, *, first: bool = False
    ) -> "asyncio.Future[T]":
        """Run work as soon as it is first and there are buckets; its future fails after timeout_s.

        Raises NoFreeBuckets if timeout_s is 0 or less and it would wait. first: work that all others depend
        on, or that takes no buckets, is exempt from the limit and goes ahead of all others.

        1. It is first and there are buckets: done at once.
        2. It lacks buckets and may not wait, or too many wait: undone and refused.
        3. Otherwise it is queued.
        """
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)
        queue = self._queues[work.reserve]
        future: asyncio.Future[T] = self._loop.create_future()
        if first or not len(queue):
            result = self._advance(work)
            if result is not None:
                future.set_result(result)
                return future
        self.on_short(work.reserve)
        name = work.reserve.name.lower()
        if timeout_s <= 0:
            work.undo()
            self.failures["no_wait"] += 1
            self._turned_away.add(work.reserve)
            self._on_change()
            raise NoFreeBuckets(name, 0)
        waiter = Waiter(work, future, self._loop.time(), first)
        if not first and self.total >= self.limit and not self._make_room(waiter.user):
            work.undo()
            self.failures["limit"] += 1
            raise LimitExceeded("waiters", self.total + 1)
        waiter.deadline = self._loop.call_later(timeout_s, self._expire_guarded, waiter)
        if first:
            queue.put_first(waiter)
        else:
            queue.append(waiter)
        self.total += 1
        self._of_user[waiter.user] += 1
        if self._of_user[waiter.user] > self.user_limit:
            self._greedy = waiter.user
        if work.holder is not None:
            self._of_holder.setdefault(work.holder, {})[waiter] = None
        future.add_done_callback(lambda _: self._forget_guarded(waiter))
        if not queue.head.work.is_small:
            self._serve_in_turn(queue)  # the head may have to give back what it gathered alone
        self._on_change()
        return future

    def serve(self) -> None:
        """Let the heads of the queues take what they need, as far as there are buckets."""
        self._turned_away.clear()
        if not self.total:
            return
        for queue in self._queues.values():
            for waiter in queue.first:
                self._serve_head(waiter)
            while len(queue) and self._serve_in_turn(queue):
                pass
        self._on_change()  # buckets taken from a reserve are to be refilled, on any member

    def _serve_head(self, waiter: Waiter) -> bool:
        """Serve the head of a queue; returns whether it left.

        1. Its future is done: cancelled, and its callback has not run yet.
        2. Its work fails.
        3. Its work lacks buckets: it stays.
        4. Its work is done.
        """
        if waiter.future.done():
            self._give_up(waiter)
            return True
        try:
            result = self._advance(waiter.work)
        except RequestError as error:
            self._leave(waiter)
            waiter.future.set_exception(error)
            return True
        if result is None:
            return False
        self._take_out(waiter)
        waiter.future.set_result(result)
        return True

    def _serve_in_turn(self, queue: FairQueue[Waiter]) -> bool:
        """Serve the head of a queue, or those that it lets pass; returns whether the head left.

        1. It gathers alone: it takes all there is.
        2. It cannot be completed by what the set may free: it gives back, and the others take all there is.
        3. It has gathered: as many others as it got pieces last time go first.
        """
        head = queue.head
        if head.work.is_small or len(queue) == 1:
            return self._serve_head(head)
        if not head.work.may_complete():
            head.work.undo()
            self._let_pass(queue, LOOKED_AT)
            return False
        self._let_pass(queue, head.granted)
        before = head.work.gathered
        has_left = self._serve_head(head)
        head.granted = head.work.gathered - before
        return has_left

    def _let_pass(self, queue: FairQueue[Waiter], count: int) -> None:
        """Serve up to `count` small requests behind the head."""
        small = (waiter for waiter in islice(queue, 1, LOOKED_AT) if waiter.work.is_small)
        for waiter in list(islice(small, count)):
            if not self._serve_head(waiter):
                break

    def _make_room(self, user: int | None) -> bool:
        """Refuse the last waiter of another user that has more than its part. Returns whether one has."""
        if self.total > self.limit:  # it was lowered, and several may have more than their part
            self._find_greedy()
        greedy = self._greedy
        if greedy == user or self._of_user[greedy] <= self.user_limit:
            return False
        last = next(found for queue in self._queues.values() if (found := queue.last_of(greedy)) is not None)
        self.failures["limit"] += 1
        self._fail([last], LimitExceeded("waiters", self.total + 1))
        return True

    def refuse(self, error: RequestError) -> None:
        """Fail all waiters, and all later ones."""
        self._refusal = error
        self._fail([waiter for queue in self._queues.values() for waiter in queue], error)

    def end_volume(self, inode: int) -> None:
        """Fail the waiters for sectors of a deleted volume."""
        waiters = [waiter for queue in self._queues.values() for waiter in queue]
        self._fail([waiter for waiter in waiters if inode in waiter.work.inodes], NoSuchVolume(inode))
        self.serve()

    def end_holder(self, holder: Holder) -> None:
        """Cancel the waiters of a holder whose connection is closed."""
        waiters = self._of_holder.get(holder)
        if waiters is not None:
            for waiter in list(waiters):
                waiter.future.cancel()
                self._give_up(waiter)
            self.serve()

    def _fail(self, waiters: list[Waiter], error: RequestError) -> None:
        """Take back what these waiters gathered, and set the error unless they were cancelled."""
        for waiter in waiters:
            if waiter.future.done():
                self._give_up(waiter)
            else:
                self._leave(waiter)
                waiter.future.set_exception(error)

    def waiting(self) -> frozenset[Reserve]:
        """Returns the reserves with waiters, or with a refused request since buckets arrived last.

        A client that does not wait will retry, and is worth the same effort for the last few buckets.
        """
        return frozenset(reserve for reserve, queue in self._queues.items() if len(queue)) | self._turned_away

    def count(self, reserve: Reserve) -> int:
        """Returns how many wait for a reserve."""
        return len(self._queues[reserve])

    def users_waiting(self, seconds: float) -> set[int | None]:
        """Returns the users that have waited for data buckets for so long; of very many, some."""
        before = self._loop.time() - seconds
        oldest = islice(self._queues[Reserve.NONE].oldest(), LOOKED_AT)
        return {it.user for it in oldest if it.since <= before}

    def oldest_wait_s(self) -> float:
        """Returns how long the oldest waiter has waited, in seconds."""
        now = self._loop.time()
        oldest = chain.from_iterable(chain(queue.first, queue.oldest()) for queue in self._queues.values())
        return max((now - waiter.since for waiter in oldest), default=0.0)

    def _advance(self, work: PendingAllocation[T]) -> T | None:
        try:
            return work.advance()
        except BcachedError:
            work.undo()
            raise

    def _expire(self, waiter: Waiter) -> None:
        if waiter.future.done():
            return
        waited_ms = int((self._loop.time() - waiter.since) * 1000)
        self.failures["timeout"] += 1
        self._leave(waiter)
        waiter.future.set_exception(NoFreeBuckets(waiter.work.reserve.name.lower(), waited_ms))
        self.serve()

    def _forget(self, waiter: Waiter) -> None:
        """Remove a waiter whose future is done but not by this queue: the client cancelled it."""
        if waiter.in_queue:
            self._give_up(waiter)
            self.serve()

    def _give_up(self, waiter: Waiter) -> None:
        self.failures["cancelled"] += 1
        self._leave(waiter)

    def _leave(self, waiter: Waiter) -> None:
        """Remove a waiter without a result, and undo its work."""
        self._take_out(waiter)
        waiter.work.undo()
        self._on_change()

    def _take_out(self, waiter: Waiter) -> None:
        self._queues[waiter.work.reserve].remove(waiter)
        self.total -= 1
        self._of_user[waiter.user] -= 1
        if not self._of_user[waiter.user]:
            del self._of_user[waiter.user]
        waiter.in_queue = False
        if (holder := waiter.work.holder) is not None:
            del self._of_holder[holder][waiter]
            if not self._of_holder[holder]:
                del self._of_holder[holder]
        if waiter.deadline is not None:
            waiter.deadline.cancel()
        self.waits.observe(self._loop.time() - waiter.since)
