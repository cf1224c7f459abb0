# SPDX-License-Identifier: GPL-2.0-only
"""One connection: bytes in, whole messages to the pipeline, replies out, and back-pressure.

Requests that cannot run yet, since the reply queue is full or the peer does not read, stay in the backlog,
and nothing more is read until they have run. So a connection never holds more than one read's requests, the
queue's limits, and what one batch adds to the transport's buffer beyond its high-water mark. What all
connections hold together is bounded by the server's account (buffers.py), which each connection updates.

When the peer closes its end, what it has sent before is still run, in turns as before, but for requests that
have to wait; nothing is sent any more. So a program may send changes and exit. When the daemon closes the
connection, what has not run is dropped.
"""

import asyncio
import time
from typing import Protocol

from bcached.errors import LimitExceeded, PermissionDenied, RequestError
from bcached.service.logs.log import get_logger
from bcached.service.requests.backlog import Backlog
from bcached.service.requests.method import Session, not_connected
from bcached.service.requests.pipeline import RequestPipeline
from bcached.service.requests.pipeline_server import PipelineServer
from bcached.service.requests.reply_queue import DECODED_FACTOR, SLOT_BYTES
from bcached.service.requests.reply_sender import ReplySender
from bcached.service.socket.peer_transport import PeerTransport
from bcached.service.users.access import Role
from bcached.service.users.buffers import Buffers
from bcached.wire.codec import DOUBTFUL_MAX, Refusal, decode_requests, encode_replies
from bcached.wire.framing import Frames

SLICE_NS = 250_000  # of a turn; then other connections of the user are served
UNEXPECTED_NS = 20_000  # more than twice as long as last time: the process had to wait for the processor
DIRECT_BYTES = 8192  # of requests decoded at once; of more, only as many as run next
NO_ROLE_BYTES = 4096  # limit of a request, or of unread replies, of a peer without a role
SMALL_BYTES = 4096
SMALL_REQUEST_BYTES = (SMALL_BYTES - SLOT_BYTES) // DECODED_FACTOR  # of one that waits alone
PARTIAL_PATIENCE_S = 30  # how long a message may stay incomplete
NO_ROLE_PATIENCE_S = 5

log = get_logger(__name__)


class ConnectionServer(PipelineServer, Protocol):
    """What a connection needs of its server."""

    buffers: Buffers

    def forget(self, connection: "Connection") -> None:
        """Remove a closed connection."""


class Connection(asyncio.Protocol):
    """The daemon's end of one connection.

    It has four owners, with a few methods for each: asyncio, the server, the account of buffers, turns.
    """

    def __init__(self, server: ConnectionServer, session: Session, message_bytes: int) -> None:
        self.session = session
        self.took_ns = 0  # what its next turn is expected to take: as the last one, without rare delays
        self.ran_ns = 0  # what its last turn took
        self.user = user = server.turns.join(session.peer.uid)
        session.pause = lambda: server.turns.pause(user)
        self._turns = server.turns
        session.disconnect = self._disconnect
        self._server = server
        self._message_bytes = message_bytes
        self._sender = sender = ReplySender(server, self._resume)
        self._pipeline = RequestPipeline(server, session, sender)
        self._slots = sender.slots
        self._frames = Frames(NO_ROLE_BYTES if self.has_no_role else message_bytes)
        self._backlog = Backlog()  # received, and cannot run yet
        self._waits_for_turn = False
        self._final_refusal: RequestError | None = None  # the refusal sent after all other replies
        self._peer = PeerTransport()
        self._ending = False  # nothing more is read; closed once all replies are sent
        self._is_dropped = False  # closed by the daemon: nothing more is run
        self._has_left = False  # the peer has closed its end, and what it has sent is being run
        self._is_noted = False  # the account has an entry for it, or is to get one
        self._partial_begun = -1  # the number of the incomplete message seen by the last sweep
        self._partial_since_ns = 0  # since when that message, or a later one, is incomplete
        self._write_paused_since_ns = 0  # since when the peer does not read

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._sender.write, self._sender.write_at_once = self._peer.connect(transport)
        if self.has_no_role:
            self._peer.limit_unread(NO_ROLE_BYTES)

    def data_received(self, data: bytes) -> None:
        """Run all complete messages."""
        started_ns = time.perf_counter_ns()
        block = self._frames.feed(data)
        if self._frames.overrun:
            self._end_with(self._overrun())
        elif self.user.is_over:
            self._defer(block)
            return
        self._answer(block, started_ns)

    def eof_received(self) -> bool:
        """Close, unless replies are outstanding and the peer can still read them."""
        self._ending = True
        return not self._is_answered and not self._peer.is_gone()

    def pause_writing(self) -> None:
        """The peer does not read: run nothing more for it."""
        self._sender.is_write_paused = self._is_noted = True
        self._write_paused_since_ns = time.perf_counter_ns()
        self._peer.pause_reading()

    def resume_writing(self) -> None:
        """The peer has read: continue with the backlog."""
        self._sender.is_write_paused = False
        # Not within this call: after a write that fails here asyncio would close the connection twice.
        asyncio.get_running_loop().call_soon(self._resume)

    def connection_lost(self, exc: Exception | None) -> None:
        """Run what the peer has sent before; then cancel what waits and release what is held."""
        # A reply that could not be sent ends the connection before all was read.
        if not (self._ending or self._is_dropped or self.has_no_role):
            self._backlog.add(self._frames.feed(self._peer.unread()))
        self._peer.disconnect()
        self._has_left = self._ending = True
        self._sender.discard()
        if self._backlog.block and not self.has_no_role:  # which could change nothing
            self._wait_for_turn()
            self._note()
        else:
            self._finish()

    def _finish(self) -> None:
        """Nothing that the peer has sent is left to be run."""
        self.session.disconnect = not_connected
        self._release()
        self._server.forget(self)

    # For the server

    def set_role(self, role: Role) -> None:
        """Set the role, under the server's present state."""
        self._pipeline.set_role(role)
        self._frames.limit_bytes = NO_ROLE_BYTES if self.has_no_role else self._message_bytes

    def give_up_waiting(self) -> None:
        """The server stops: refuse what waits with ShuttingDown."""
        self._pipeline.give_up_waiting()

    def end(self) -> None:
        """Read no more, and close once all replies are sent."""
        self._ending = True
        self._resume()

    def abort(self) -> None:
        """Close the connection now."""
        self._is_dropped = True
        self._backlog.clear()
        self._peer.abort()
        if self._has_left:
            self._finish()

    def sweep(self) -> None:
        """Close the connection if its peer has closed it, or does not read. Called periodically."""
        if (self._ending or self._peer.is_reading_paused) and self._peer.is_gone():
            self._peer.abort()
        self._note()
        now_ns = time.perf_counter_ns()
        if self.has_no_role and self._sender.is_write_paused:
            if now_ns - self._write_paused_since_ns > NO_ROLE_PATIENCE_S * 1e9:
                self.abort()
        elif self._ending or self._peer.is_reading_paused:
            self._partial_since_ns = now_ns  # reading is paused, so the rest of the message could not arrive
        elif self._frames.partial:
            patience_s = NO_ROLE_PATIENCE_S if self.has_no_role else PARTIAL_PATIENCE_S
            if now_ns - self._partial_since_ns > patience_s * 1e9:
                self._frames.give_up()
                self._end_with(LimitExceeded("seconds_for_a_message", patience_s))
                self._answer(b"", now_ns)

    def take_turn(self) -> None:
        """Run some of the backlog: it is the turn of this connection."""
        self._waits_for_turn = False
        started_ns = time.perf_counter_ns()
        self._go_on()
        self.ran_ns = max(0, self._pipeline.until_ns - started_ns)
        self.took_ns = min(self.ran_ns, 2 * self.took_ns + UNEXPECTED_NS)

    # For the account of buffers

    @property
    def has_no_role(self) -> bool:
        """Whether the peer has no role."""
        return self.session.role == Role.NONE

    @property
    def is_busy(self) -> bool:
        """Whether requests of it are under way."""
        return bool(self._slots or self._backlog.block)

    @property
    def active_at_ns(self) -> int:
        """Returns when a request of it ran last, by time.perf_counter_ns(); 0 if none did."""
        return self._pipeline.until_ns

    @property
    def held_bytes(self) -> int:
        """Returns the memory this connection holds beyond the fixed cost of a connection."""
        received = len(self._frames.partial) + len(self._backlog.block)
        return received + self._sender.queue.held_bytes + self._peer.unread_bytes()

    @property
    def holds_since_ns(self) -> int:
        """Returns since when the oldest of it waits."""
        waits = [time.perf_counter_ns()]
        if self._frames.partial:
            waits.append(self._partial_since_ns)
        if self._sender.is_write_paused:
            waits.append(self._write_paused_since_ns)
        if self._slots:
            waits.append(self._slots[0].started_ns)
        return min(waits)

    @property
    def role(self) -> Role:
        """Returns the role of the peer."""
        return self.session.role

    @property
    def user_id(self) -> int:
        """Returns the user of the peer."""
        return self.session.peer.uid

    def give_way(self, limit: str, held_bytes: int) -> None:
        """Close at once and release everything: a limit of buffers is exceeded."""
        peer = self.session.peer
        log.warning(
            "client disconnected: the buffers are full",
            pid=peer.pid,
            uid=peer.uid,
            limit=limit,
            held_bytes=held_bytes,
        )
        self._disconnect(LimitExceeded(limit, held_bytes))

    def _disconnect(self, refusal: LimitExceeded) -> None:
        """Close at once and release everything; the peer gets the refusal unless it does not read."""
        self._server.counts.disconnections[refusal.fields["limit"]] += 1
        self._is_dropped = True
        self._release()
        self._peer.close_with(encode_replies([Refusal(refusal.NAME, refusal.fields)]))
        if self._has_left:
            self._finish()

    # Running requests

    @property
    def _is_answered(self) -> bool:
        return not self._backlog.block and self._final_refusal is None and not self._slots

    def _overrun(self) -> RequestError:
        """Returns the refusal of a request that is too long: PermissionDenied for a peer without a role."""
        if self.has_no_role and self._frames.overrun <= self._message_bytes:
            return PermissionDenied(Role.READER.label)
        return LimitExceeded("message_bytes", self._frames.overrun)

    def _end_with(self, refusal: RequestError) -> None:
        """Make this the last reply, after all others."""
        if not self._ending:
            self._ending = True
            self._final_refusal = refusal

    def _answer(self, block: bytes, started_ns: int) -> None:
        """Run the backlog and these messages; what cannot run now stays in the backlog."""
        backlog, pipeline = self._backlog, self._pipeline
        try:
            if backlog.block or len(block) > DIRECT_BYTES or self._ending:
                backlog.add(block)
                self._run_backlog(started_ns)
            elif block:
                requests = decode_requests(block)
                count = pipeline.run(requests, started_ns, block)
                if count < len(requests) or count >= DOUBTFUL_MAX:
                    backlog.add(block, count)
                    self._run_backlog(started_ns)
        except Exception as error:
            self._server.fail(error)
            self.abort()
            return
        took_ns = pipeline.until_ns - started_ns
        if took_ns > 0:
            user = self.user
            user.spent_ns = spent_ns = user.spent_ns + took_ns
            turns = self._turns
            turns.busy_until_ns = pipeline.until_ns
            if spent_ns > turns.half_turn_ns:
                turns.note_spent(user)
        if backlog.block or self._ending:
            self._wait_or_close()
            self._note_much()
        elif self._slots or self._is_noted or self._frames.partial:
            self._note_much()

    def _run_backlog(self, started_ns: int) -> None:
        """Run what can run of the backlog; once it is empty, send the final refusal, if any."""
        backlog, pipeline, sender = self._backlog, self._pipeline, self._sender
        while backlog.block and not sender.is_blocked:
            some = backlog.first(min(backlog.chunk, sender.queue.free_slots))
            backlog.drop(pipeline.run(decode_requests(some), started_ns, some))
            if pipeline.until_ns - started_ns > SLICE_NS and backlog.block:
                return
        refusal = self._final_refusal
        if refusal is not None and not backlog.block and pipeline.run([refusal], started_ns, b""):
            self._final_refusal = None

    def _wait_or_close(self) -> None:
        self._peer.pause_reading()
        if self._backlog.block and not self._sender.is_blocked:
            self._wait_for_turn()
        elif self._has_left:
            self._finish()
        elif self._is_answered:
            self._peer.close()

    def _defer(self, block: bytes) -> None:
        """Keep what has arrived for a later turn; a little more may arrive meanwhile."""
        if not block:
            return
        self._backlog.add(block)
        if len(self._backlog.block) >= SMALL_BYTES:
            self._peer.pause_reading()
            self._note()
        if not self._sender.is_blocked:
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        if not self._waits_for_turn:
            self._waits_for_turn = True
            self._turns.wait(self.user, self)

    def _resume(self) -> None:
        """Requests were answered, or replies read: continue with what waits for that."""
        if self._backlog.block:
            self._wait_for_turn()
        elif self._is_noted or self._ending or self._peer.is_reading_paused:
            self._go_on()

    def _go_on(self) -> None:
        """Run the backlog, and resume reading once it is empty."""
        if self._backlog.block or self._ending:
            self._answer(b"", time.perf_counter_ns())
        elif self._is_noted and not self._slots:
            self._note()
        peer = self._peer
        if peer.is_reading_paused and not (self._ending or self._backlog.block or self._sender.is_blocked):
            peer.resume_reading()

    # The memory held

    def _note_much(self) -> None:
        """Update the account if it holds much, or did: small amounts are noted by the next sweep."""
        if self._is_noted or self._holds_much:
            self._note()

    @property
    def _holds_much(self) -> bool:
        slots = self._slots
        waits_alone = not slots or (len(slots) == 1 and slots[0].request_bytes <= SMALL_REQUEST_BYTES)
        return (
            (not waits_alone and self._sender.queue.held_bytes >= SMALL_BYTES)
            or bool(self._backlog.block)
            or len(self._frames.partial) >= SMALL_BYTES
        )

    def _note(self) -> None:
        """Update the account; this connection may be closed for it."""
        if self._frames.begun != self._partial_begun:
            self._partial_begun, self._partial_since_ns = self._frames.begun, time.perf_counter_ns()
        held = self.held_bytes if self._peer.is_connected or self._backlog.block else 0
        self._is_noted = held > 0
        self._server.buffers.note(self, held)

    def _release(self) -> None:
        self._frames.give_up()
        self._backlog.clear()
        self._final_refusal = None
        self._pipeline.abort()
        self._ending = True
        self._is_noted = False
        self._server.buffers.forget(self)
