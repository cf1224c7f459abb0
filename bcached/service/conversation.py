"""Requests run in the order sent, replies given in the same order, whatever has to wait in between.

Brief requests that can be answered at once are run in batches: one after the other without a suspension,
their replies written by one call. All else goes one by one. A request that has to wait takes a slot in the
reply queue; what follows it still runs, and its reply queues up behind that slot.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from bcached.errors import (
    ExpectedMore,
    InvalidParameter,
    LimitExceeded,
    PermissionDenied,
    RequestError,
    ShuttingDown,
)
from bcached.service.access import Role
from bcached.service.operation import Later, Operation, Outcome, Run, Session, Stream
from bcached.service.reply_queue import ReplyQueue, Slot
from bcached.service.request_counts import RequestCounts
from bcached.wire.codec import (
    REPLY_BYTES_MAX,
    AnyReply,
    Continued,
    Refusal,
    Reply,
    encode_replies,
    encode_reply,
)
from bcached.wire.messages import Results
from bcached.wire.methods import ALLOCATOR, METHODS, Request

BATCH_REQUESTS = 256  # requests answered by one write; whether the peer reads is asked between batches

INTERFACES = {method.request: method.interface for method in METHODS.values()}

Asked = Request | RequestError  # the error stands for a message that was none


class Server(Protocol):
    """What a conversation needs of the server it belongs to."""

    counts: RequestCounts
    draining: bool

    def operation_of(self, request: Request) -> Operation:
        """What the request asks for."""

    def ready_operations(self, role: Role) -> dict[type, Run]:
        """The brief operations that a role may run now, without further question."""

    def carry_out(self, coroutine: Any) -> "asyncio.Future[Any]":
        """Run a coroutine as a task of the server's; a future that does not cancel it."""

    def break_down(self, error: Exception) -> None:
        """Note a bug: the daemon is to stop."""


class Conversation:
    """What one connection asked and has not been told yet.

    on_progress is called when something that waited has been answered. For the owner to set: write, which
    sends bytes, once there is somebody to send them to; is_stuck while the peer does not read.
    """

    def __init__(
        self,
        server: Server,
        session: Session,
        on_progress: Callable[[], None],
    ) -> None:
        self.session = session
        self._server = server
        self.is_stuck = False
        self.write: Callable[[bytes], None] = _to_nobody
        self._on_progress = on_progress
        self._queue = ReplyQueue()
        self._ready = server.ready_operations(session.role)
        self._ticking: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        return not self._queue.slots

    @property
    def is_held(self) -> bool:
        """Whether nothing more may be run for now."""
        return self.is_stuck or self._queue.is_full

    def take_role(self, role: Role) -> None:
        """Go on in this role, under the rules that hold now."""
        self.session.role = role
        self._ready = self._server.ready_operations(role)

    def answer(self, requests: Sequence[Asked], started_ns: int) -> int:
        """Run requests until all have run or the conversation is held; how many did."""
        queue = self._queue
        at = 0
        while at < len(requests) and not self.is_stuck:
            if not queue.slots and (count := self._answer_batch(requests, at, started_ns)):
                at += count
            elif queue.is_full:
                break
            else:
                self._answer_one(requests[at], started_ns)
                at += 1
        return at

    def _answer_batch(self, requests: Sequence[Asked], at: int, started_ns: int) -> int:
        """Run requests up to one that is not brief or must wait (that one included); how many were run."""
        batch = requests[at : at + BATCH_REQUESTS] if at or len(requests) > BATCH_REQUESTS else requests
        ready, session = self._ready, self.session
        replies: list[AnyReply] = []
        answered = 0
        waits: Later | None = None
        for request in batch:
            run = ready.get(type(request))
            if run is None or request.upgrade:  # type: ignore[union-attr]  # what is ready is a Request
                break
            try:
                outcome: Any = run(session, request.parameters)  # type: ignore[union-attr]
            except RequestError as error:
                reply: AnyReply = self._refusal(type(request), error)
            else:
                if outcome.__class__ is Later:
                    waits = outcome
                    break
                reply = Reply(outcome)
            answered += 1
            if not request.oneway:  # type: ignore[union-attr]
                replies.append(reply)
        if replies:
            self.write(encode_replies(replies))
        if answered:
            done = batch if answered == len(batch) else batch[:answered]
            self._server.counts.observe(done, time.perf_counter_ns() - started_ns)
        if waits is None:
            return answered
        self._wait(batch[answered], waits, started_ns)  # type: ignore[arg-type]
        return answered + 1

    def _answer_one(self, request: Asked, started_ns: int) -> None:
        """Run one request, whatever it is; its reply goes out at once or queues up."""
        kind = type(request)
        try:
            outcome = self._run(request)
        except RequestError as error:
            reply = encode_reply(self._refusal(kind, error))
        else:
            if isinstance(outcome, Later | Stream):
                self._wait(request, outcome, started_ns)  # type: ignore[arg-type]  # it ran, so it is a Request
                return
            reply = self._encoded(kind, outcome)
        self._server.counts.of(kind).observe(1, time.perf_counter_ns() - started_ns)
        if getattr(request, "oneway", False):
            return
        if self._queue.slots:
            self._queue.append(Slot(kind, started_ns, reply=reply))
        else:
            self.write(encode_replies([reply]))

    def _run(self, request: Asked) -> Outcome:
        """Run one request, or raise why not; with every question asked."""
        if isinstance(request, RequestError):
            raise request
        operation = self._server.operation_of(request)
        if self.session.role < operation.role:
            raise PermissionDenied(operation.role.label)
        if request.upgrade:
            raise InvalidParameter("upgrade", "no method of this service upgrades a connection")
        if operation.streams and not request.more:
            raise ExpectedMore
        if self._server.draining and (operation.changes or operation.streams):
            raise ShuttingDown
        return operation.run(self.session, request.parameters)

    # Waiting

    def give_up_waiting(self) -> None:
        """The server stops: what waits is told so."""
        for slot in self._queue.waiting():
            if slot.future is not None:
                slot.future.cancel()
            else:
                self._stop_ticking()
                self._fill(slot, self._refusal(slot.kind, ShuttingDown()))

    def break_off(self) -> None:
        """The peer is gone: whatever waits gives its turn up."""
        self.write = _to_nobody
        self._stop_ticking()
        for slot in self._queue.clear():
            if slot.future is not None:
                slot.future.cancel()

    def _wait(self, request: Request, outcome: Later | Stream, started_ns: int) -> None:
        slot = Slot(type(request), started_ns, silent=bool(request.oneway))
        self._queue.append(slot)
        if isinstance(outcome, Stream):
            slot.stream = outcome
            self._tick(slot)
            return
        pending = outcome.pending
        slot.future = pending if isinstance(pending, asyncio.Future) else self._server.carry_out(pending)
        slot.future.add_done_callback(partial(self._arrived, slot, outcome.results))

    def _arrived(self, slot: Slot, results: Callable[[Any], Results], future: "asyncio.Future[Any]") -> None:
        """A future is done: its slot has its reply."""
        try:
            reply: AnyReply = self._encoded(slot.kind, results(future.result()))
        except asyncio.CancelledError:
            reply = self._refusal(slot.kind, ShuttingDown())
        except RequestError as error:
            reply = self._refusal(slot.kind, error)
        except Exception as error:
            self._server.break_down(error)
            return
        if self._queue.slots:  # else the peer is gone
            self._fill(slot, reply)

    def _fill(self, slot: Slot, reply: AnyReply) -> None:
        self._server.counts.of(slot.kind).observe(1, time.perf_counter_ns() - slot.started_ns)
        ready = self._queue.fill(slot, reply if isinstance(reply, msgspec.Raw) else encode_reply(reply))
        if ready:
            self.write(encode_replies(ready))
        if (head := self._queue.head) is not None and head.stream is not None and self._ticking is None:
            self._tick(head)
        self._on_progress()

    def _tick(self, slot: Slot) -> None:
        """Send what a stream has to tell, if it is its turn and the peer reads; and look again later."""
        self._ticking = None
        if slot.stream is None or self._queue.head is not slot:
            return
        try:
            news = None if self.is_stuck else slot.stream.following()
        except Exception as error:
            self._server.break_down(error)
            return
        if news is not None and not slot.silent:
            self.write(encode_replies([Continued(news)]))
        self._ticking = asyncio.get_running_loop().call_later(slot.stream.interval_s, self._tick, slot)

    def _stop_ticking(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    # Replies

    def _encoded(self, kind: type, results: Results) -> msgspec.Raw:
        """A reply encoded now, or the refusal that it is too long to be sent."""
        reply = encode_reply(Reply(results))
        if len(reply) < REPLY_BYTES_MAX:
            return reply
        return encode_reply(self._refusal(kind, LimitExceeded("reply_bytes", len(reply))))

    def _refusal(self, kind: type, error: RequestError) -> Refusal:
        """The error in the words of the interface that was called."""
        self._server.counts.of(kind).errors += 1
        name = error.NAME
        if name.startswith(f"{ALLOCATOR}."):
            name = f"{INTERFACES.get(kind, ALLOCATOR)}.{name.rpartition('.')[2]}"
        return Refusal(name, error.fields)


def _to_nobody(_: bytes) -> None:
    """Nobody is connected, not yet or not any more."""
