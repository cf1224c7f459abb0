"""The client's end of the protocol: calls to bytes, bytes to answers. No socket, no loop, no clock.

Bytes are fed in as they come, and taken out to be sent; what has been answered is returned. A call whose
caller stopped waiting keeps its place, so that no answer is ever taken for another call's, and what it grants
is given back by itself.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from bcached.client.protocol.refusals import refusal_from
from bcached.errors import BcachedError, ClientClosed, ConnectionLost
from bcached.wire.client_codec import (
    UNREADABLE,
    Question,
    RawAnswer,
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
    """A request, and in time its answer. It is asked once.

    take turns the results into what the caller wants; undo turns them into a message that gives back what
    they grant, if the caller is not there any more. news are the answers before the last that are not taken
    yet, and waiter is for the shell: how it wakes the caller.
    """

    __slots__ = (
        "_error",
        "_given",
        "_results",
        "_take",
        "_undo",
        "is_abandoned",
        "is_settled",
        "message",
        "news",
        "waiter",
    )

    def __init__(
        self,
        method: str,
        asked: Parameters,
        results: type[R],
        take: Callable[[R], T],
        undo: Undo[R] | None = None,
        *,
        more: bool = False,
    ) -> None:
        # What cannot be encoded raises here: for it no answer will come.
        self.message = encode_question(Question(method, asked, more=more))
        self.is_settled = False
        self.is_abandoned = False
        self.news: deque[Any] = deque() if more else NO_NEWS
        self.waiter: Any = None
        self._results: type[Any] = results
        self._take: Callable[[Any], T] = take
        self._undo: Undo[Any] | None = undo
        self._given: Any = None
        self._error: BcachedError | None = None

    @property
    def is_answered(self) -> bool:
        """Whether it has its last answer, or another one that was not taken yet."""
        return self.is_settled or bool(self.news)

    def outcome(self) -> T:
        """What the answer gives, or its error raised."""
        assert self.is_settled
        if self._error is not None:
            raise self._error
        return self._take(self._given)

    def refuse(self, error: BcachedError) -> None:
        """Settle it with an error."""
        self._error = error
        self.is_settled = True

    def answer(self, message: bytes) -> None:
        """Take the next answer to it; one of UNREADABLE if it is none."""
        answer = decode_answer(message, self._results)
        if isinstance(answer, RawAnswer):
            assert answer.error is not None
            self.refuse(refusal_from(answer.error, bytes(answer.parameters)))
        elif not answer.continues:
            self._given = answer.parameters
            self.is_settled = True
        elif not self.is_abandoned:
            self.news.append(answer.parameters)

    def give_back(self) -> bytes:
        """The message that gives back what was granted; empty if nothing was."""
        granted, self._given = self._given, None
        return b"" if granted is None or self._undo is None else self._undo(granted)


class Exchange:
    """The calls of one connection, which are answered in the order they were asked."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.broken = ""  # why the connection is of no use any more: the shell is to end it
        self._ended: str | None = None
        self._frames = Frames(REPLY_BYTES_MAX)
        self._calls: deque[Call[Any]] = deque()
        self._outgoing: list[bytes] = []

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._ended is not None

    def ask(self, call: Call[Any]) -> None:
        """Ask; ConnectionLost or ClientClosed if the exchange has ended."""
        if self._ended is not None:
            raise self._end_error()
        self._calls.append(call)
        self._outgoing.append(call.message)

    def tell(self, message: bytes) -> None:
        """Send what is not answered (oneway); once ended, there is no daemon to tell."""
        if message and self._ended is None:
            self._outgoing.append(message)

    def abandon(self, call: Call[Any]) -> None:
        """The caller has stopped waiting: what the call grants, or has just granted, is given back."""
        if not call.is_abandoned:
            call.is_abandoned = True
            call.news.clear()
            if call.is_settled:
                self.tell(call.give_back())

    @property
    def has_outgoing(self) -> bool:
        """Whether there is something to be sent."""
        return bool(self._outgoing)

    def to_send(self) -> bytes:
        """The bytes to be sent, which count as sent from here on."""
        if not self._outgoing:
            return b""
        messages = self._outgoing[0] if len(self._outgoing) == 1 else b"".join(self._outgoing)
        self._outgoing.clear()
        return messages

    def receive(self, data: bytes) -> list[Call[Any]]:
        """Take in what came; the calls that have got an answer by it, in order."""
        answered: list[Call[Any]] = []
        try:
            for message in self._frames.feed(data).split(b"\0")[:-1]:
                self._take(message, answered)
                if self.broken:
                    return answered
        except UNREADABLE as error:
            self.broken = f"answer is not varlink: {error}"
        if self._frames.overrun and not self.broken:
            self.broken = f"answer of more than {REPLY_BYTES_MAX} bytes"
        return answered

    def end(self, reason: str) -> list[Call[Any]]:
        """The connection is gone, or closed by us (CLOSED): what waits is refused, and all after it."""
        if self._ended is None:
            self._ended = reason
        waiting = list(self._calls)
        for call in waiting:
            call.refuse(self._end_error())
        self._calls.clear()
        self._outgoing.clear()
        return waiting

    def _end_error(self) -> BcachedError:
        assert self._ended is not None
        return ClientClosed(self.path) if self._ended is CLOSED else ConnectionLost(self.path, self._ended)

    def _take(self, message: bytes, answered: list[Call[Any]]) -> None:
        if not self._calls:  # the daemon speaks first only to say why it will not serve us
            raw = decode_raw_answer(message)
            refusal = refusal_from(raw.error, bytes(raw.parameters)) if raw.error else None
            self.broken = str(refusal) if refusal else "answer to nothing"
            return
        call = self._calls[0]
        call.answer(message)
        if call.is_settled:
            self._calls.popleft()
            if call.is_abandoned:
                self.tell(call.give_back())
        answered.append(call)
