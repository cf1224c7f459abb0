"""One connection: bytes in, whole messages to the conversation, replies out; and when to stop reading.

What cannot run yet, since the reply queue is full or the peer does not read, stays in the backlog, and
nothing more is read until it has run. So a connection never holds more than one read's requests, the
queue's limit of replies, and what one batch adds to the transport's buffer beyond its high-water mark.
"""

import asyncio
import select
import time
from typing import Protocol, cast

from bcached.errors import LimitExceeded
from bcached.service import conversation
from bcached.service.access import Role
from bcached.service.conversation import Asked, Conversation
from bcached.service.operation import Session
from bcached.wire.codec import decode_requests
from bcached.wire.framing import Frames


class Server(conversation.Server, Protocol):
    """What a connection needs of the server it belongs to."""

    def forget(self, connection: "Connection") -> None:
        """Note that a connection is gone."""


class Connection(asyncio.Protocol):
    """The daemon's end of one connection."""

    def __init__(self, server: Server, session: Session, message_bytes: int) -> None:
        self.session = session
        self._server = server
        self._conversation = Conversation(server, session, self._go_on)
        self._frames = Frames(message_bytes)
        self._backlog: list[Asked] = []
        self._transport: asyncio.Transport | None = None
        self._reading_paused = False
        self._ending = False  # nothing more is read; closed once all is answered
        self._partial: object = None
        self._partial_sweeps = 0

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its ancestry
        self._conversation.write = self._transport.write

    def data_received(self, data: bytes) -> None:
        """Answer all whole messages there are."""
        started_ns = time.perf_counter_ns()
        block = self._frames.feed(data)
        requests = decode_requests(block) if block else []
        if self._frames.overrun:
            self._end_with(requests, LimitExceeded("message_bytes", self._frames.overrun))
        self._answer(requests, started_ns)

    def eof_received(self) -> bool:
        """Close, unless replies are still to come and the peer still listens for them."""
        self._ending = True
        return not self._is_answered and not self._peer_is_gone()

    def pause_writing(self) -> None:
        """The peer does not read: run nothing more for it."""
        self._conversation.is_stuck = True
        self._pause_reading()

    def resume_writing(self) -> None:
        """The peer has read: go on where we stopped."""
        self._conversation.is_stuck = False
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """End whatever waits and whatever is held."""
        self._transport = None
        self._backlog.clear()
        self._conversation.break_off()
        self._server.forget(self)

    # What the server calls

    def take_role(self, role: Role) -> None:
        """Go on in this role, under the rules that hold now."""
        self._conversation.take_role(role)

    def give_up_waiting(self) -> None:
        """The server stops: what waits is told so."""
        self._conversation.give_up_waiting()

    def end(self) -> None:
        """Read no more, and close once all is answered and has gone out."""
        self._ending = True
        self._go_on()

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def sweep(self, patience: int) -> None:
        """Look, now and then, whether a peer died that is not read any more, or half a message is stuck."""
        if (self._ending or self._reading_paused) and self._peer_is_gone():
            self.abort()
        if self._ending:
            return
        if not self._frames.partial or self._reading_paused or self._frames.partial is not self._partial:
            self._partial, self._partial_sweeps = self._frames.partial, 0
            return
        self._partial_sweeps += 1
        if self._partial_sweeps > patience:
            requests: list[Asked] = []
            self._end_with(requests, LimitExceeded("seconds_for_a_message", self._partial_sweeps))
            self._answer(requests, time.perf_counter_ns())

    # Running requests

    @property
    def _is_answered(self) -> bool:
        return not self._backlog and self._conversation.is_idle

    def _end_with(self, requests: list[Asked], refusal: LimitExceeded) -> None:
        """Make this the last thing the peer is told, in its turn."""
        if not self._ending:
            self._ending = True
            requests.append(refusal)

    def _answer(self, requests: list[Asked], started_ns: int) -> None:
        """Run what was left and these; what cannot run now is left again."""
        if self._backlog:
            requests = self._backlog + requests
        try:
            count = self._conversation.answer(requests, started_ns)
        except Exception as error:
            self._server.break_down(error)
            self.abort()
            return
        self._backlog = requests[count:] if count < len(requests) else []
        if self._backlog or self._ending:
            self._pause_reading()
            if self._is_answered and self._transport is not None:
                self._transport.close()

    def _go_on(self) -> None:
        """Run what was left, and read again if nothing is."""
        if self._backlog or self._ending:
            self._answer([], time.perf_counter_ns())
        if self._reading_paused and not (self._ending or self._backlog or self._conversation.is_held):
            self._reading_paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    # The transport

    def _pause_reading(self) -> None:
        if not self._reading_paused and self._transport is not None and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def _peer_is_gone(self) -> bool:
        """Whether the peer has closed its end altogether, rather than only said that it sends no more."""
        descriptor = -1 if self._transport is None else self._transport.get_extra_info("socket").fileno()
        if descriptor < 0:
            return True
        poll = select.poll()
        poll.register(descriptor, 0)  # no event asked for: what is always told is that both ends are shut
        return bool(poll.poll(0))
