# SPDX-License-Identifier: MIT
"""Keys on their way to the index: commits that are sent before the earlier ones are answered.

While one is under way, or was sent within the last eight milliseconds, further keys gather and are sent
together. So a process that stores much sends few, large messages; the sender's thread sends what is left at
the end. Of what is stored again under its name meanwhile, only the newest is committed.

Threads that wait for their commits share messages, too: one of them waits for the first answer, without the
session's lock, while the others' keys gather.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from threading import Condition, RLock, get_ident

from bcached.client.attachment import Attachment
from bcached.client.cache.finding.positions import Position
from bcached.client.cache.undivided import Undivided
from bcached.client.cache.values.names import SLOT_SECTORS
from bcached.client.cache.values.object_format import Seal
from bcached.client.gens import Instant
from bcached.client.protocol import verbs
from bcached.client.protocol.exchange import Call
from bcached.client.socket_channel import SocketChannel
from bcached.errors import BcachedError, ConnectionLost, LimitExceeded
from bcached.keys import Key
from bcached.wire.messages import Committed, Lookup

UNDER_WAY_MAX = 4
KEYS_MAX = 500
BUNDLE_KEYS, GATHER_S = 64, 0.008  # sent when there are so many, or so long after the message before
DROPPED_SECTORS_MAX = 1 << 13  # of objects that are not committed: they take space until the next commit
LOOK_S = 0.0002  # between two looks for an answer
HEAD_WORDS = 2  # of a key in a journal entry, beside one for each copy


class Pending:
    """One object's keys until their commit is answered; they were valid at `since`."""

    __slots__ = (
        "error", "is_awaited", "is_conditional", "is_durable", "is_sent", "is_settled", "keys", "known",
        "name", "offset", "seal", "since", "version", "was_committed",
    )  # fmt: skip

    def __init__(
        self, name: bytes, offset: int, keys: Sequence[Key], since: Instant, seal: Seal | None
    ) -> None:
        self.name = name
        self.offset = offset
        self.seal = seal  # of an object: all else in its slot is removed with its commit; None of a record
        self.was_committed = self.is_conditional = self.is_durable = False
        self.is_awaited = False  # by a caller, which repeats it if the connection is lost, or raises
        self.keys = keys
        self.since = since
        # The slot's change counter when it was stored: with this value the object is its newest one. None of
        # an object that is not in the slot for this process before it is committed.
        self.version: int | None = None
        self.known: Position | None = None  # as which it is read again
        self.is_sent = self.is_settled = False
        self.error: BcachedError | None = None


class Commits:
    """The commits of one connection. The caller holds the session's lock, but for `finish` and `settle`."""

    def __init__(
        self,
        channel: SocketChannel,
        at: Attachment,
        lock: RLock,
        undivided: Undivided,
        forget: Callable[[Sequence[Pending]], None],
        remember: Callable[[Pending, int], None],
    ) -> None:
        self._channel = channel
        self._at = at
        self._lock, self._undivided = lock, undivided
        self._remember = remember  # takes a committed object and its change counter
        self._forget = forget  # takes objects that were refused, of which the index may have an older one
        # By offset: what this process has stored, and others may not see yet.
        self.newest: dict[int, Pending] = {}
        self._gathered: dict[int, Pending] = {}  # by offset
        self._gathered_keys = 0
        self._dropped: list[Key] = []  # of objects that were gathered and stored again
        self._dropped_sectors = 0
        # A message costs as much as several keys: it is worth sending with so many, or at this time.
        self._enough, self._due_s = BUNDLE_KEYS, 0.0
        self._under_way: deque[tuple[Call[Committed], Sequence[Pending]]] = deque()
        self._answered = Condition(lock)  # notified when `_waiting` has returned
        self._waiting = 0  # the thread that waits for the first answer without the lock
        self.keys_max = at.description.commit_words // (HEAD_WORDS + 1)  # of one message
        self._gather_max = min(KEYS_MAX, self.keys_max)
        self.error: BcachedError | None = None  # the first refusal that no caller has seen

    @property
    def has_gathered(self) -> bool:
        """Whether keys wait for the answer to an earlier commit."""
        return bool(self._gathered)

    @property
    def is_due(self) -> bool:
        """Whether what has gathered is to be sent now: the message before was sent long enough ago."""
        return bool(self._gathered) and time.monotonic() >= self._due_s

    @property
    def is_idle(self) -> bool:
        """Whether nothing is gathered or under way."""
        return not self._gathered and not self._under_way

    def add(self, one: Pending, *, wait: bool = False, durable: bool = False) -> None:
        """Commit an object's keys, now or, unless durable, together with later ones."""
        one.is_awaited, one.is_durable = wait or durable, durable
        while self._gathered and (self._keeps(one.offset) or self._has_enough_for(one)):
            self.poll()
            self.send()
        if one.offset in self._gathered:
            self._drop(one.offset)
        self.newest[one.offset] = self._gathered[one.offset] = one
        self._gathered_keys += len(one.keys)
        if durable:
            self.send()
        elif self._gathered_keys >= self._enough or time.monotonic() >= self._due_s:
            self._send_if_idle()

    def _keeps(self, offset: int) -> bool:
        """Whether an object of this offset has gathered that must be sent before another one.

        1. A caller waits for it. 2. Those dropped would take much space until the next commit.
        """
        before = self._gathered.get(offset)
        return before is not None and (
            before.is_awaited or self._dropped_sectors + _sectors_of(before) > DROPPED_SECTORS_MAX
        )

    def _has_enough_for(self, one: Pending) -> bool:
        """Whether an object's keys are too many beside those gathered."""
        return self._gathered_keys + len(self._dropped) + len(one.keys) > self._gather_max

    def _drop(self, offset: int) -> None:
        """Drop a gathered object, since it is stored again; its space is returned with the next commit."""
        one = self._gathered.pop(offset)
        self._gathered_keys -= len(one.keys)
        self._dropped += one.keys
        self._dropped_sectors += _sectors_of(one)
        one.is_settled = True

    def _send_if_idle(self) -> None:
        """Send what has gathered, unless a commit is under way: then look again for its answer later."""
        self.poll()
        if not self._under_way:
            self.send()
        else:
            self._enough = self._gathered_keys + BUNDLE_KEYS
            self._due_s = time.monotonic() + LOOK_S

    def send(self) -> None:
        """Send what has gathered; waits while too many commits are under way."""
        while len(self._under_way) >= UNDER_WAY_MAX:
            self._wait_for_first()
        if not self._gathered:
            return
        gathered, self._gathered, self._gathered_keys = tuple(self._gathered.values()), {}, 0
        if self._dropped:
            dropped, self._dropped, self._dropped_sectors = tuple(self._dropped), [], 0
            self._at.send_oneway(verbs.release_message(dropped))
        self._dispatch(gathered)

    def send_if_unchanged(self, one: Pending, version: int, *, durable: bool) -> bool:
        """Commit an object if its slot's change counter has this value.

        Returns whether that was sent: not if an earlier object of this process is on its way to the slot.
        """
        if one.offset in self.newest:
            return False
        one.is_conditional, one.is_durable = True, durable
        self._dispatch([one], [version] * len(one.keys))
        return True

    def send_if_absent(self, one: Pending, *, durable: bool) -> bool:
        """Commit an object if nothing is in its slot; returns as send_if_unchanged does."""
        if one.offset in self.newest:
            return False
        one.is_conditional, one.is_durable = True, durable
        self._dispatch([one], if_absent=True)
        return True

    def _dispatch(
        self,
        gathered: Sequence[Pending],
        if_versions: Sequence[int] | None = None,
        *,
        if_absent: bool | None = None,
    ) -> None:
        for one in gathered:
            one.is_sent = True
        keys = [key for one in gathered for key in one.keys]
        slots = [Lookup(one.keys[0].inode, one.offset, SLOT_SECTORS) for one in gathered if one.seal]
        durable = any(one.is_durable for one in gathered)
        call = verbs.commit_if(
            self._at,
            keys,
            durable=durable,
            versions=True,
            if_absent=if_absent,
            if_versions=if_versions,
            replaces=slots,
        )
        self._enough, self._due_s = BUNDLE_KEYS, time.monotonic() + GATHER_S
        try:
            self._under_way.append((call, gathered))
            self._channel.send(call)
        except BaseException:
            if not call.is_settled:  # it may not have been sent, and never be answered
                call.refuse(ConnectionLost(self._at.path, "interrupted before a commit was sent"))
            raise

    # Waiting

    def finish(self, one: Pending) -> None:
        """Wait until an object's commit is answered, without the lock. Raises its refusal."""
        self.settle(one)
        if one.error is not None:
            self.error = None
            raise one.error

    def settle(self, one: Pending) -> None:
        """Wait until an object's commit is answered, without the lock."""
        try:
            while (call := self._awaited(one)) is not None:
                self._channel.news(call)
                self._hand_on()
        finally:
            self._hand_on()

    def _hand_on(self) -> None:
        """Let another thread wait for the first answer, if this one does."""
        if self._waiting == get_ident():
            with self._lock:
                self._waiting = 0
                self._answered.notify_all()

    def _awaited(self, one: Pending) -> Call[Committed] | None:
        """Returns the call that this thread is to wait for, for all; None once the object's is answered."""
        with self._lock, self._undivided:
            self._settle_answered()
            while not one.is_settled and self._is_another_waiting:
                self._answered.wait()
                self._settle_answered()
            if one.is_settled:
                return None
            if not one.is_sent and not self._under_way:
                self.send()
            if not self._under_way:  # another thread was about to send it when the session was closed
                raise ConnectionLost(self._at.path, "it ended before a commit was sent")
            self._waiting = get_ident()
            return self._under_way[0][0]

    @property
    def _is_another_waiting(self) -> bool:
        """Whether another thread waits for the first answer."""
        return self._waiting not in (0, get_ident())

    def drain(self) -> None:
        """Send all, and wait for the answers to what was sent so far."""
        self.send()
        last = self._under_way[-1] if self._under_way else None
        while last is not None and last in self._under_way:
            self._wait_for_first()

    def settle_all(self, within_s: float) -> None:
        """Send all, and wait for the answers to it, for so long at most."""
        self.send()
        deadline_s = time.monotonic() + within_s
        while self._under_way and (left_s := deadline_s - time.monotonic()) > 0:
            if not self._channel.take_arrived(left_s):
                return
            self._settle_answered()

    def poll(self) -> None:
        """Take the answers that have arrived."""
        if self._under_way:
            self._channel.take_arrived()
            self._settle_answered()

    def unsettled(self) -> list[Pending]:
        """Returns the objects without an answer in whose place an older one may be, in the order stored.

        Not conditional ones: no caller has read them before they were committed, and what another process
        has added in their place must not be dropped. Nor records, which stand for no object.
        """
        under_way = [one for _, objects in self._under_way for one in objects]
        # An interruption may have left an object in `newest` only.
        return _doubtful(dict.fromkeys([*under_way, *self._gathered.values(), *self.newest.values()]))

    def take_last(self) -> None:
        """Take the answers that were received before the connection ended: those keys are committed."""
        with suppress(ConnectionLost):  # of the first that was not answered
            self._settle_answered()

    def end(self) -> None:
        """Drop the references to the session, which is closed: it is to be freed without the collector."""
        self._forget = self._remember = _ignore

    def raise_error(self) -> None:
        """Raise the first refusal that no caller has seen."""
        error, self.error = self.error, None
        if error is not None:
            raise error

    def _wait_for_first(self) -> None:
        """Wait for the first answer: with the lock, unless another thread waits for it."""
        if self._is_another_waiting:
            self._answered.wait()
        else:
            self._channel.news(self._under_way[0][0])
        self._settle_answered()

    def _settle_answered(self) -> None:
        while self._under_way and self._under_way[0][0].is_settled:
            self._settle()

    def _settle(self) -> None:
        call, objects = self._under_way[0]
        error: BcachedError | None = None
        try:
            self._note(call.outcome(), objects)
        except ConnectionLost:
            raise  # they stay unsettled: whether they are committed is unknown
        except BcachedError as refusal:
            error = refusal
        if isinstance(error, LimitExceeded) and len(objects) > 1:
            self._send_one_by_one(objects)
            return
        if error is not None:
            self.error = self.error or error
            self._forget(_doubtful(objects))  # before a reader may find older ones, no longer finding these
            self._at.send_oneway(verbs.release_message(tuple([key for one in objects for key in one.keys])))
        for one in objects:
            one.error, one.is_settled = error, True
            if self.newest.get(one.offset) is one:
                del self.newest[one.offset]
        self._under_way.popleft()

    def _send_one_by_one(self, objects: Sequence[Pending]) -> None:
        """Repeat a commit that was refused since too much is left of longer objects in all of its slots."""
        self._under_way.popleft()
        for one in objects:
            if self.newest.get(one.offset) is one:
                self._dispatch([one])
            else:
                one.is_settled = True  # a later one is under way

    def _note(self, done: Committed, objects: Sequence[Pending]) -> None:
        """Take the change counter of each object, after its last key."""
        assert done.versions is not None
        at = 0
        for one in objects:
            at += len(one.keys)
            one.was_committed = done.committed is None or done.committed[at - 1]
            if one.was_committed:
                self._remember(one, done.versions[at - 1])


def _sectors_of(one: Pending) -> int:
    return sum([key.sectors for key in one.keys])


def _ignore(*_: object) -> None:
    """The session has ended."""


def _doubtful(objects: Iterable[Pending]) -> list[Pending]:
    """Returns those in whose place an older object may be if they are not committed."""
    return [one for one in objects if one.seal is not None and not one.is_conditional]
