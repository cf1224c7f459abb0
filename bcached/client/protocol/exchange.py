# SPDX-License-Identifier: MIT
"""The client's end of the protocol: calls to bytes, bytes to replies. No socket, no loop, no clock.

Received bytes are fed in, bytes to be sent are taken out, and answered calls are returned. A call whose
caller stopped waiting keeps its position, so that no reply is taken for another call's, and what it grants is
released automatically.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from bcached.client.protocol.refusals import refusal_from
from bcached.client.protocol.request_check import unencodable
from bcached.errors import BcachedError, ClientClosed, ConnectionLost, ShuttingDown
from bcached.wire.client_codec import (
    UNREADABLE,
    Question,
    decode_answer,
    decode_raw_answer,
    encode_question,
)
from bcached.wire.framing import Frames
from bcached.wire.messages import REPLY_BYTES_MAX, Parameters, Results

R = TypeVar("R", bound=Results)
T = TypeVar("T")
Undo = Callable[[R], bytes]

CLOSED = "closed by us"
NO_NEWS: deque[Any] = deque(maxlen=0)


class Call(Generic[T]):
    """A request and its reply. It is sent once.

    take turns the results into what the caller wants; undo turns them into a message that releases what they
    grant, if the caller stopped waiting. news are the replies before the last that are not taken yet, and
    waiter is for the channel: how it wakes the caller. given are the results of the reply that settled it.
    """

    is_settled = False
    is_abandoned = False
    news: deque[Any] = NO_NEWS
    waiter: Any = None
    given: Any = None
    _error: BcachedError | None = None

    def __init__(
        self,
        method: str,
        parameters: Parameters,
        results: type[R],
        take: Callable[[R], T],
        undo: Undo[R] | None = None,
        *,
        more: bool = False,
    ) -> None:
        # What cannot be encoded raises here, before a reply is expected.
        try:
            self.message = encode_question(Question(method, parameters, more=more))
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise unencodable(parameters) from None
        self.results: type[Any] = results
        self._take: Callable[[Any], T] = take
        self._undo: Undo[Any] | None = undo
        if more:
            self.news = deque()

    @property
    def is_answered(self) -> bool:
        """Whether it has its last reply, or another one that was not taken yet."""
        return self.is_settled or bool(self.news)

    def outcome(self) -> T:
        """Returns the result or raises the error of the reply."""
        assert self.is_settled
        if self._error is not None:
            raise self._error
        return self._take(self.given)

    @property
    def is_refused_by_a_stop(self) -> bool:
        """Whether its error is that the daemon is stopping."""
        return isinstance(self._error, ShuttingDown)

    def refuse(self, error: BcachedError) -> None:
        """Settle it with an error."""
        self._error = error
        self.is_settled = True

    def answer(self, message: bytes) -> None:
        """Take the next reply to it. Raises one of UNREADABLE if it cannot be decoded."""
        answer = decode_answer(message, self.results)
        if answer.error is not None:
            self.refuse(refusal_from(answer.error, bytes(answer.parameters)))
        elif not answer.continues:
            self.given = answer.parameters
            self.is_settled = True
        elif not self.is_abandoned:
            self.news.append(answer.parameters)

    def give_back(self) -> bytes:
        """Returns the message that releases what was granted; empty if nothing was."""
        if self._undo is None:  # the result stays: others may share the call
            return b""
        granted, self.given = self.given, None
        return b"" if granted is None else self._undo(granted)


class Exchange:
    """The calls of one connection, which are answered in the order sent.

    stop_is_loss: whether a refusal by a daemon that is stopping is ConnectionLost, as after its end.
    """

    def __init__(self, path: str, *, stop_is_loss: bool = False) -> None:
        self.path = path
        self._stop_is_loss = stop_is_loss
        self.broken = ""  # why the connection is unusable: the channel must close it
        self.end_reason: str | None = None  # why no more calls can be made
        self._frames = Frames(REPLY_BYTES_MAX)
        self._calls: deque[Call[Any]] = deque()
        self.outgoing: list[bytes] = []  # messages to be sent

    def ask(self, call: Call[Any]) -> None:
        """Send a call. Raises ConnectionLost or ClientClosed if the exchange has ended."""
        if self.end_reason is not None:
            raise self._end_error()
        self._calls.append(call)
        self.outgoing.append(call.message)

    def send_oneway(self, message: bytes) -> None:
        """Send a oneway request; ignored once the exchange has ended."""
        if message and self.end_reason is None:
            self.outgoing.append(message)

    def abandon(self, call: Call[Any]) -> None:
        """The caller stopped waiting: release what the call grants, or has just granted."""
        if not call.is_abandoned:
            call.is_abandoned = True
            call.news.clear()
            if call.is_settled:
                self.send_oneway(call.give_back())

    def to_send(self) -> bytes:
        """Returns the bytes to be sent, which count as sent from here on."""
        messages = b"".join(self.outgoing)  # of one it is that one
        self.outgoing.clear()
        return messages

    def receive_reply(self, call: Call[Any], data: bytes) -> bool:
        """Take received bytes if they are one whole reply with the results of this call; else returns False.

        It does what `receive` does, in fewer steps, and leaves everything else to that.
        """
        calls = self._calls
        if not data.endswith(b"\0") or not calls or calls[0] is not call or self._frames.partial:
            return False
        try:
            answer = decode_answer(data[:-1], call.results)  # no JSON has a NUL: it is one message
        except UNREADABLE:
            return False
        if answer.error is not None or answer.continues:
            return False
        call.given = answer.parameters
        call.is_settled = True  # before an interruption could leave it neither here nor answered
        calls.popleft()
        return True

    def receive(self, data: bytes) -> list[Call[Any]]:
        """Take received bytes; returns the calls that they answer, in order."""
        answered: list[Call[Any]] = []
        calls = self._calls
        try:
            for message in self._frames.feed(data).split(b"\0")[:-1]:
                if not calls:
                    self.broken = _of_the_connection(message)
                    return answered
                call = calls[0]
                call.answer(message)
                if call.is_settled:
                    calls.popleft()
                    if call.is_abandoned or self._stop_is_loss:
                        self._settled(call)
                answered.append(call)
        except UNREADABLE as error:
            self.broken = f"answer is not varlink: {error}"
        if self._frames.overrun and not self.broken:
            self.broken = f"answer of more than {REPLY_BYTES_MAX} bytes"
        return answered

    def end(self, reason: str) -> list[Call[Any]]:
        """The connection is closed, by us if CLOSED: refuse what waits, and all later calls."""
        if self.end_reason is None:
            self.end_reason = reason
        waiting = list(self._calls)
        for call in waiting:
            call.refuse(self._end_error())
        self._calls.clear()
        self.outgoing.clear()
        return waiting

    def _end_error(self) -> BcachedError:
        assert self.end_reason is not None
        return (
            ClientClosed(self.path)
            if self.end_reason is CLOSED
            else ConnectionLost(self.path, self.end_reason)
        )

    def _settled(self, call: Call[Any]) -> None:
        if self._stop_is_loss and call.is_refused_by_a_stop:
            call.refuse(ConnectionLost(self.path, "the daemon is stopping"))
        if call.is_abandoned:
            self.send_oneway(call.give_back())


def _of_the_connection(message: bytes) -> str:
    """Returns why an unrequested reply says that the connection is refused."""
    raw = decode_raw_answer(message)
    return str(refusal_from(raw.error, bytes(raw.parameters))) if raw.error else "answer to nothing"
