# SPDX-License-Identifier: MIT
"""Keys on their way to the index: commits that are sent before the earlier ones are answered.

While one is under way, or was sent within the last millisecond, further keys gather and are sent together. So
a process that stores much sends few, large messages; the sender's thread sends what is left at the end.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from bcached.client.attachment import Attachment
from bcached.client.cache.names import SLOT_SECTORS
from bcached.client.cache.object_format import Seal
from bcached.client.gens import Instant
from bcached.client.protocol import verbs
from bcached.client.protocol.exchange import Call
from bcached.client.socket_channel import SocketChannel
from bcached.errors import BcachedError, ConnectionLost, LimitExceeded
from bcached.keys import Key
from bcached.wire.messages import Committed, Lookup

UNDER_WAY_MAX = 4
KEYS_MAX = 500
BUNDLE_KEYS, GATHER_S = 64, 0.001  # sent when there are so many, or so long after the message before
LOOK_S = 0.0002  # between two looks for an answer
HEAD_WORDS = 2  # of a key in a journal entry, beside one for each copy


class Pending:
    """One object's keys until their commit is answered; they were valid at `since`."""

    __slots__ = (
        "error", "is_conditional", "is_sent", "is_settled", "keys", "name", "offset", "seal", "since",
        "was_committed",
    )  # fmt: skip

    def __init__(
        self, name: bytes, offset: int, keys: Sequence[Key], since: Instant, seal: Seal | None
    ) -> None:
        self.name = name
        self.offset = offset
        self.seal = seal  # of an object: all else in its slot is removed with its commit; None of a record
        self.was_committed = self.is_conditional = False
        self.keys = keys
        self.since = since
        self.is_sent = self.is_settled = False
        self.error: BcachedError | None = None


class Commits:
    """The commits of one connection. The caller holds the session's lock."""

    def __init__(
        self,
        channel: SocketChannel,
        at: Attachment,
        forget: Callable[[Sequence[int]], None],
        remember: Callable[[Pending, int], None],
    ) -> None:
        self._channel = channel
        self._at = at
        self._remember = remember  # takes a committed object and its change counter
        self._forget = forget  # drops the objects at these offsets, of which the index may have an older one
        # By offset: what this process has stored, and others may not see yet.
        self.newest: dict[int, Pending] = {}
        self._gathered: list[Pending] = []
        self._gathered_keys = 0
        # A message costs as much as several keys: it is worth sending with so many, or at this time.
        self._enough, self._due_s = BUNDLE_KEYS, 0.0
        self._under_way: deque[tuple[Call[Committed], Sequence[Pending], bool]] = deque()
        self.keys_max = at.description.commit_words // (HEAD_WORDS + 1)  # of one message
        self._gather_max = min(KEYS_MAX, self.keys_max)
        self.error: BcachedError | None = None  # the first refusal that no caller has seen

    @property
    def has_gathered(self) -> bool:
        """Whether keys wait for the answer to an earlier commit."""
        return bool(self._gathered)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is gathered or under way."""
        return not self._gathered and not self._under_way

    def add(self, one: Pending, *, durable: bool = False) -> None:
        """Commit an object's keys, now or, unless durable, together with later ones."""
        before = self.newest.get(one.offset)
        is_replaced = before is not None and not before.is_sent
        if is_replaced or self._gathered_keys + len(one.keys) > self._gather_max:
            self.poll()
            self.send()
        self.newest[one.offset] = one
        self._gathered.append(one)
        self._gathered_keys += len(one.keys)
        if durable:
            self.send(durable=True)
        elif self._gathered_keys >= self._enough or time.monotonic() >= self._due_s:
            self._send_if_idle()

    def _send_if_idle(self) -> None:
        """Send what has gathered, unless a commit is under way: then look again for its answer later."""
        self.poll()
        if not self._under_way:
            self.send()
        else:
            self._enough = self._gathered_keys + BUNDLE_KEYS
            self._due_s = time.monotonic() + LOOK_S

    def send(self, *, durable: bool = False) -> None:
        """Send what has gathered; waits while too many commits are under way."""
        while len(self._under_way) >= UNDER_WAY_MAX:
            self._wait_for_first()
        if not self._gathered:
            return
        gathered, self._gathered, self._gathered_keys = self._gathered, [], 0
        self._dispatch(gathered, durable=durable)

    def add_if_unchanged(self, one: Pending, version: int, *, durable: bool = False) -> bool:
        """Commit an object if its slot's change counter has this value; returns whether it was committed."""
        one.is_conditional = True
        self.drain()
        self._dispatch([one], durable=durable, if_versions=[version] * len(one.keys))
        self.finish(one)
        return one.was_committed

    def _dispatch(
        self, gathered: Sequence[Pending], *, durable: bool, if_versions: Sequence[int] | None = None
    ) -> None:
        for one in gathered:
            one.is_sent = True
        keys = [key for one in gathered for key in one.keys]
        slots = [Lookup(one.keys[0].inode, one.offset, SLOT_SECTORS) for one in gathered if one.seal]
        call = verbs.commit_if(
            self._at, keys, durable=durable, versions=True, if_versions=if_versions, replaces=slots
        )
        self._under_way.append((call, gathered, durable))
        self._enough, self._due_s = BUNDLE_KEYS, time.monotonic() + GATHER_S
        try:
            self._channel.send(call)
        except BaseException:
            if not call.is_settled:  # it may not have been sent, and never be answered
                call.refuse(ConnectionLost(self._at.path, "interrupted before a commit was sent"))
            raise

    def finish(self, one: Pending) -> None:
        """Wait until an object's commit is answered. Raises its refusal."""
        if not one.is_sent:
            self.send()
        while not one.is_settled:
            self._wait_for_first()
        if one.error is not None:
            self.error = None
            raise one.error

    def drain(self) -> None:
        """Send all, and wait for the answers."""
        self.send()
        while self._under_way:
            self._wait_for_first()

    def poll(self) -> None:
        """Take the answers that have arrived."""
        if self._under_way:
            self._channel.take_arrived()
            while self._under_way and self._under_way[0][0].is_settled:
                self._settle()

    def unsettled(self) -> list[int]:
        """Returns the offsets of objects whose commits have no answer, in the order stored.

        Not of conditional ones: no caller has read them before they were committed, and what another process
        has added in their place must not be dropped.
        """
        those = [one for _, objects, _ in self._under_way for one in objects] + self._gathered
        return _offsets(those)

    def raise_error(self) -> None:
        """Raise the first refusal that no caller has seen."""
        error, self.error = self.error, None
        if error is not None:
            raise error

    def _wait_for_first(self) -> None:
        self._channel.news(self._under_way[0][0])
        self._settle()

    def _settle(self) -> None:
        call, objects, durable = self._under_way[0]
        error: BcachedError | None = None
        try:
            self._note(call.outcome(), objects)
        except ConnectionLost:
            raise  # they stay unsettled: whether they are committed is unknown
        except BcachedError as refusal:
            error = refusal
        if isinstance(error, LimitExceeded) and len(objects) > 1:
            self._send_one_by_one(objects, durable=durable)
            return
        for one in objects:
            one.error, one.is_settled = error, True
            if self.newest.get(one.offset) is one:
                del self.newest[one.offset]
        self._under_way.popleft()
        if error is not None:
            self.error = self.error or error
            self._forget(_offsets(objects))

    def _send_one_by_one(self, objects: Sequence[Pending], *, durable: bool) -> None:
        """Repeat a commit that was refused since too much is left of longer objects in all of its slots."""
        self._under_way.popleft()
        for one in objects:
            if self.newest.get(one.offset) is one:
                self._dispatch([one], durable=durable)
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


def _offsets(objects: Iterable[Pending]) -> list[int]:
    """Returns where an older object may be in place of these if they are not committed."""
    return [one.offset for one in objects if not one.is_conditional]
