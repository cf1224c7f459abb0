"""One connection: bytes in, whole messages to the conversation, replies out; and when to stop reading.

What cannot run yet, since the reply queue is full or the peer does not read, stays in the backlog, and
nothing more is read until it has run. So a connection never holds more than one read's requests, the
queue's limits, and what one batch adds to the transport's buffer beyond its high-water mark. What all
connections hold together is bounded by the server's account (buffers.py), which is told of changes here.
"""

import asyncio
import select
import time
from typing import Protocol, cast

from bcached.errors import LimitExceeded, PermissionDenied, RequestError
from bcached.service.logs.log import get_logger
from bcached.service.socket import pipeline as conversation
from bcached.service.socket.access import Role
from bcached.service.socket.backlog import Backlog
from bcached.service.socket.buffers import Buffers
from bcached.service.socket.method import Session
from bcached.service.socket.pipeline import BATCH_REQUESTS, Conversation
from bcached.wire.codec import DOUBTFUL_MAX, Refusal, decode_requests, encode_replies
from bcached.wire.framing import Frames

TURN_NS = 2_000_000
STRANGER_BYTES = 4096  # of a request, or of replies not read, of a peer that may do nothing
SMALL_BYTES = 4096
PARTIAL_PATIENCE_S = 30  # how long half a message may stay half
STRANGER_PATIENCE_S = 5

log = get_logger(__name__)


class Server(conversation.Server, Protocol):
    """What a connection needs of the server it belongs to."""

    buffers: Buffers

    def forget(self, connection: "Connection") -> None:
        """Note that a connection is gone."""


class Connection(asyncio.Protocol):
    """The daemon's end of one connection."""

    def __init__(self, server: Server, session: Session, message_bytes: int) -> None:
        self.session = session
        self._server = server
        self._message_bytes = message_bytes
        self._conversation = Conversation(server, session, self._go_on)
        self._slots = self._conversation.slots
        self._frames = Frames(STRANGER_BYTES if self.is_stranger else message_bytes)
        self._backlog = Backlog()
        self._last_words: RequestError | None = None  # said behind everything else
        self._transport: asyncio.Transport | None = None
        self._reading_paused = False
        self._ending = False  # nothing more is read; closed once all is answered
        self._is_noted = False  # as holding something
        self._partial_begun = -1  # the number of the message in parts that was seen last
        self._partial_since_ns = 0
        self._stuck_since_ns = 0

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its ancestry
        if self.is_stranger:
            self._transport.set_write_buffer_limits(high=STRANGER_BYTES)
        self._conversation.write = self._write

    def data_received(self, data: bytes) -> None:
        """Answer all whole messages there are."""
        started_ns = time.perf_counter_ns()
        block = self._frames.feed(data)
        if self._frames.overrun:
            self._end_with(self._overrun())
        self._answer(block, started_ns)

    def eof_received(self) -> bool:
        """Close, unless replies are still to come and the peer still listens for them."""
        self._ending = True
        return not self._is_answered and not self._peer_is_gone()

    def pause_writing(self) -> None:
        """The peer does not read: run nothing more for it."""
        self._conversation.is_stuck = True
        self._stuck_since_ns = time.perf_counter_ns()
        self._pause_reading()

    def resume_writing(self) -> None:
        """The peer has read: go on where we stopped."""
        self._conversation.is_stuck = False
        # Not within this call: a write that fails here has asyncio end the connection twice.
        asyncio.get_running_loop().call_soon(self._go_on)

    def connection_lost(self, exc: Exception | None) -> None:
        """End whatever waits and whatever is held."""
        self._transport = None
        self._let_go()
        self._server.forget(self)

    # What the server calls

    def take_role(self, role: Role) -> None:
        """Go on in this role, under the rules that hold now."""
        self._conversation.take_role(role)
        self._frames.limit_bytes = STRANGER_BYTES if self.is_stranger else self._message_bytes

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

    def sweep(self) -> None:
        """Look, now and then, for peers that died and are not read any more, and for what has stuck."""
        if (self._ending or self._reading_paused) and self._peer_is_gone():
            self.abort()
        self._note()
        now_ns = time.perf_counter_ns()
        if self.is_stranger and self._conversation.is_stuck:
            if now_ns - self._stuck_since_ns > STRANGER_PATIENCE_S * 1e9:
                self.abort()
        elif self._ending or self._reading_paused:
            self._partial_since_ns = now_ns  # the rest of it could not come
        elif self._frames.partial:
            patience_s = STRANGER_PATIENCE_S if self.is_stranger else PARTIAL_PATIENCE_S
            if now_ns - self._partial_since_ns > patience_s * 1e9:
                self._frames.give_up()
                self._end_with(LimitExceeded("seconds_for_a_message", patience_s))
                self._answer(b"", now_ns)

    # What the account of buffers asks

    @property
    def is_stranger(self) -> bool:
        """Whether the peer may do nothing."""
        return self.session.role == Role.NONE

    @property
    def held_bytes(self) -> int:
        """What this connection takes in memory, beside what every connection takes."""
        unread = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return len(self._frames.partial) + len(self._backlog.block) + self._conversation.held_bytes + unread

    @property
    def holds_since_ns(self) -> int:
        """Since when the oldest of it waits."""
        waits = [time.perf_counter_ns()]
        if self._frames.partial:
            waits.append(self._partial_since_ns)
        if self._conversation.is_stuck:
            waits.append(self._stuck_since_ns)
        if self._slots:
            waits.append(self._slots[0].started_ns)
        return min(waits)

    def give_way(self, held_bytes: int) -> None:
        """End at once, and hold nothing any more: others need the memory."""
        peer = self.session.peer
        log.warning(
            "client gave way: the buffers are full", pid=peer.pid, uid=peer.uid, held_bytes=held_bytes
        )
        self._let_go()
        if self._transport is None:
            return
        if self._transport.is_closing() or self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            error = LimitExceeded("buffer_bytes", held_bytes)
            self._transport.write(encode_replies([Refusal(error.NAME, error.fields)]))
            self._transport.close()

    # Running requests

    @property
    def _is_answered(self) -> bool:
        return not self._backlog.block and self._last_words is None and self._conversation.is_idle

    def _overrun(self) -> RequestError:
        """What is said to a request that is too long; to a peer that may do nothing, that it may not."""
        if self.is_stranger and self._frames.overrun <= self._message_bytes:
            return PermissionDenied(Role.READER.label)
        return LimitExceeded("message_bytes", self._frames.overrun)

    def _end_with(self, refusal: RequestError) -> None:
        """Make this the last thing the peer is told, in its turn."""
        if not self._ending:
            self._ending = True
            self._last_words = refusal

    def _answer(self, block: bytes, started_ns: int) -> None:
        """Run what was left and these; what cannot run now is left again."""
        backlog, talk = self._backlog, self._conversation
        try:
            if backlog.block:
                backlog.add(block)
            elif block:
                requests = decode_requests(block)
                count = talk.answer(requests, started_ns, block)
                if count < len(requests) or count == DOUBTFUL_MAX:
                    backlog.add(block, count)
            if backlog.block or self._last_words is not None:
                self._work_off(started_ns)
        except Exception as error:
            self._server.break_down(error)
            self.abort()
            return
        if backlog.block or self._ending:
            self._pause_reading()
            if self._is_answered and self._transport is not None:
                self._transport.close()
        holds = self._slots or self._frames.partial or backlog.block or talk.is_stuck
        if self._is_noted or (holds and self._holds_much):
            self._note()

    def _work_off(self, started_ns: int) -> None:
        """Run of the backlog what can run; then, if it was the last of it, say what is to be said last."""
        backlog, talk = self._backlog, self._conversation
        while backlog.block and not talk.is_held:
            some = backlog.first(min(BATCH_REQUESTS, talk.room))
            backlog.drop(talk.answer(decode_requests(some), started_ns, some))
            if time.perf_counter_ns() - started_ns > TURN_NS and backlog.block:
                asyncio.get_running_loop().call_soon(self._go_on)  # others have their turn
                return
        words = self._last_words
        if words is not None and not backlog.block and talk.answer([words], started_ns, b""):
            self._last_words = None

    def _go_on(self) -> None:
        """Run what was left, and read again if nothing is."""
        if self._backlog.block or self._ending:
            self._answer(b"", time.perf_counter_ns())
        elif self._is_noted and not self._slots:
            self._note()
        if self._reading_paused and not (self._ending or self._backlog.block or self._conversation.is_held):
            self._reading_paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    # What is held

    @property
    def _holds_much(self) -> bool:
        """Whether the account is to be told at once; of what is little, the next sweep will."""
        return (
            len(self._frames.partial) >= SMALL_BYTES
            or bool(self._backlog.block)
            or self._conversation.is_stuck
            or (bool(self._slots) and self._conversation.held_bytes >= SMALL_BYTES)
        )

    def _note(self) -> None:
        """Tell the account what is held now; this connection may have to give way for it."""
        if self._frames.begun != self._partial_begun:
            self._partial_begun, self._partial_since_ns = self._frames.begun, time.perf_counter_ns()
        held = 0 if self._transport is None else self.held_bytes
        self._is_noted = held > 0
        self._server.buffers.note(self, held)

    def _let_go(self) -> None:
        self._frames.give_up()
        self._backlog.clear()
        self._last_words = None
        self._conversation.break_off()
        self._ending = True
        self._is_noted = False
        self._server.buffers.forget(self)

    # The transport

    def _write(self, data: bytes) -> None:
        """Send it, unless the peer turned out to be gone: each further try would be a line in the log."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

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
