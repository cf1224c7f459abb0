# SPDX-License-Identifier: GPL-2.0-only
"""Runs the requests of a connection in the order sent and sends the replies in the same order.

There are two ways to run a request:

1. Brief requests that can be answered at once run in batches, without a suspension, and their replies are
written by one call: uvloop sends what is written when all reads of an iteration were handled, a call each.
2. All others run one by one. Each takes a slot in the reply queue; if it has to wait, later requests still
run, and their replies queue behind that slot. In-order requests may be deferred (in_order.py): a change while
an earlier in-order change or read is outstanding, a read while a change is.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bcached.errors import (
    ExpectedMore,
    InvalidParameter,
    PermissionDenied,
    RequestError,
    ShuttingDown,
)
from bcached.service.requests.backlog import lengths
from bcached.service.requests.decided_replies import DecidedReplies
from bcached.service.requests.in_order import InOrderRequests
from bcached.service.requests.method import (
    BatchHandler,
    Decided,
    Handler,
    Later,
    Long,
    Operation,
    Outcome,
    Session,
    Stream,
)
from bcached.service.requests.pipeline_server import PipelineServer, report_bug
from bcached.service.requests.reply_queue import ReplySlot
from bcached.service.requests.reply_sender import ReplySender, Write
from bcached.service.users.access import Role
from bcached.wire.codec import AnyReply, Refusal, Reply, encode_replies
from bcached.wire.messages import Results
from bcached.wire.methods import Request

EARLY_REQUESTS = 16  # of so many, the replies of the first half may be sent before the second half runs
IDLE_NS = 10_000
BATCH_REQUESTS = 64  # requests answered by one write; back-pressure and time are checked between batches

PENDING = (Decided, Later, Stream)  # outcomes whose replies are sent later

Received = Request | RequestError  # the error is for a message that could not be decoded


class RequestPipeline:
    """Runs the requests of one connection, and hands their replies to its sender."""

    __slots__ = (
        "_decided",
        "_in_order",
        "_queue",
        "_ready",
        "_ready_batches",
        "_ready_operations",
        "_replies",
        "_sender",
        "_server",
        "_turns",
        "session",
        "slots",
        "until_ns",
    )

    def __init__(self, server: PipelineServer, session: Session, sender: ReplySender) -> None:
        self.session = session
        self.until_ns = 0  # when a request ran last
        self.slots = sender.slots  # of requests that are not answered yet, in order
        self._server = server
        self._turns = server.turns
        self._sender = sender
        self._queue = sender.queue
        self._replies = sender.replies
        self._in_order = InOrderRequests()
        self._decided = DecidedReplies(server, sender)
        # The brief operations that need no check, by request class; the handlers of each, and of several.
        self._ready_operations: dict[type, Operation] = {}
        self._ready: dict[type, Handler] = {}
        self._ready_batches: dict[type, BatchHandler] = {}
        self.set_role(session.role)

    def __repr__(self) -> str:
        paused = ", writing is paused" if self._sender.is_write_paused else ""
        return f"<RequestPipeline {self.session.role.label}: {self._queue!r}, {self._in_order!r}{paused}>"

    def set_role(self, role: Role) -> None:
        """Set the role, under the server's present state."""
        self.session.role = role
        self._ready_operations = ready = self._server.ready_operations(role)
        self._ready = {kind: operation.run for kind, operation in ready.items()}
        self._ready_batches = {
            kind: operation.run_several
            for kind, operation in ready.items()
            if operation.run_several is not None
        }

    # Running

    def run(self, requests: Sequence[Received], started_ns: int, block: bytes) -> int:
        """Run the requests of a block until all ran, it is late, or we are blocked; returns how many ran."""
        sender = self._sender
        sizes: list[int] = []
        at = 0
        while not sender.is_write_paused:
            outcome: Outcome | None = None
            if not self.slots:
                batch, write = requests, sender.write
                if at or len(requests) >= EARLY_REQUESTS:
                    batch, write = self._part(requests, at, started_ns)
                ran, outcome = self._run_batch(batch, started_ns, write)
                at += ran
                if at == len(requests):  # nearly always
                    return at
                if ran and outcome is None:
                    if self._is_late(started_ns):
                        return at
                    if ran == len(batch):
                        continue
            elif self._queue.is_full:
                return at
            sizes = sizes or (lengths(block) if len(requests) > 1 else [len(block)])
            self._run_alone(requests[at], outcome, started_ns, sizes[at])
            at += 1
            if at == len(requests) or self._is_late(started_ns):
                return at
        return at

    def _part(
        self, requests: Sequence[Received], at: int, started_ns: int
    ) -> tuple[Sequence[Received], Write]:
        """Returns the next batch of a block, and how its replies are sent.

        Of a block that the daemon was waiting for, it is the first half, and is answered at once. So the peer
        need not wait while the other half runs, nor the daemon while the peer sends the next requests: to
        wait costs as much as a few brief requests.
        """
        if not at and started_ns - self._turns.busy_until_ns > IDLE_NS:
            return requests[: min(len(requests) // 2, BATCH_REQUESTS)], self._sender.write_at_once
        return requests[at : at + BATCH_REQUESTS], self._sender.write

    def _is_late(self, started_ns: int) -> bool:
        """Whether others have to run before the next request of a block."""
        return self.until_ns - started_ns > self._turns.run_ns

    def _run_alone(
        self, request: Received, outcome: Outcome | None, started_ns: int, request_bytes: int
    ) -> None:
        """Run a request that is in no batch, unless it ran with this outcome.

        Its reply is sent at once, or it gets a slot in the queue.
        """
        if not self.slots:  # so nothing keeps it from running now
            ready = self._outcome_of(request) if outcome is None else outcome
            if not isinstance(ready, PENDING):
                self._reply(request, ready, started_ns)
                return
            outcome = ready
        slot = ReplySlot(type(request), started_ns, request_bytes, silent=bool(request.oneway))
        self._queue.append(slot)
        if outcome is None:
            self._run_or_defer(slot, request)
        else:
            self._settle(slot, outcome)
        self.until_ns = time.perf_counter_ns()

    def _reply(self, request: Received, results: Results | Long | Refusal, started_ns: int) -> None:
        """Send the reply of a request that nothing is queued before."""
        kind = type(request)
        data = self._replies.message(kind, results)
        self.until_ns = now_ns = time.perf_counter_ns()
        self._server.counts.of(kind).observe(1, now_ns - started_ns)
        if not request.oneway:
            self._sender.write(data)

    def _run_batch(
        self, batch: Sequence[Received], started_ns: int, write: Write
    ) -> tuple[int, Outcome | None]:
        """Run brief requests and write their replies, up to the first that does not belong to a batch.

        Returns how many were answered; and the outcome of the next, if it ran too, and waits or is long.
        """
        if len(batch) > 1 and (replies := self._run_alike(batch)):
            write(encode_replies(replies))
            self.until_ns = time.perf_counter_ns()
            self._server.counts.of(type(batch[0])).observe(len(replies), self.until_ns - started_ns)
            return len(replies), None
        replies = []
        ready, session = self._ready, self.session
        outcome: Any = None
        ran = 0
        for request in batch:
            run = ready.get(type(request))
            if run is None or request.upgrade:  # type: ignore[union-attr]  # what is ready is a Request
                break
            try:
                outcome = run(session, request.parameters)  # type: ignore[union-attr]
            except RequestError as error:
                reply: AnyReply = self._replies.refusal(type(request), error)
            else:
                kind = outcome.__class__
                if kind is Decided or kind is Later or kind is Long:
                    break
                reply = Reply(outcome)
            outcome = None
            ran += 1
            if not request.oneway:
                replies.append(reply)
        if replies:
            write(encode_replies(replies))
        if ran:
            done = batch if ran == len(batch) else batch[:ran]
            self.until_ns = now_ns = time.perf_counter_ns()
            self._server.counts.observe(done, now_ns - started_ns)
        return ran, outcome

    def _run_alike(self, batch: Sequence[Any]) -> list[AnyReply]:
        """Run a batch of one method by one call; returns the replies of those that were ready."""
        kind = type(batch[0])
        run_several = self._ready_batches.get(kind)
        if run_several is None:
            return []
        parameters = [it.parameters for it in batch if type(it) is kind and not (it.oneway or it.upgrade)]
        if len(parameters) < len(batch):
            return []
        return [Reply(results) for results in run_several(self.session, parameters)]

    def _run_or_defer(self, slot: ReplySlot, request: Received) -> None:
        """Run a request behind others, or defer it; its slot is filled at once if its results are ready."""
        outcome: Outcome | Refusal
        try:
            operation = self._permitted(request)
            if operation.in_order and self._in_order.must_wait(operation):
                self._in_order.defer(slot, request, operation)  # type: ignore[arg-type]  # it was decoded
                return
            outcome = operation.run(self.session, request.parameters)  # type: ignore[union-attr]
        except RequestError as error:
            outcome = self._replies.refusal(slot.kind, error)
        self._settle(slot, outcome)

    def _outcome_of(self, request: Received) -> Outcome | Refusal:
        """Run any one request; returns its outcome, or its refusal."""
        try:
            operation = self._permitted(request)
            return operation.run(self.session, request.parameters)  # type: ignore[union-attr]
        except RequestError as error:
            return self._replies.refusal(type(request), error)

    def _permitted(self, request: Received) -> Operation:
        """Returns the operation of a request. Raises RequestError if it may not run, after all checks."""
        if isinstance(request, RequestError):
            raise request
        operation = self._ready_operations.get(type(request))
        if operation is not None and not request.upgrade:
            return operation
        operation = self._server.operation_of(type(request))
        if self.session.role < operation.role:
            raise PermissionDenied(operation.role.label)
        if request.upgrade:
            raise InvalidParameter("upgrade", "expected false: no method upgrades a connection")
        if operation.streams and (request.oneway or not request.more):
            raise ExpectedMore  # a stream without a reader would never end
        if self._server.draining and (operation.changes or operation.streams):
            raise ShuttingDown
        return operation

    # Outcomes

    def _settle(self, slot: ReplySlot, outcome: Outcome | Refusal) -> None:
        """Handle the outcome of a request; its reply is set, and sent by the caller if it may be first."""
        # 1. It is done, and its reply waits with others.
        if isinstance(outcome, Decided):
            self._decided.add(slot, outcome)
        # 2. It waits: the slot is filled when the future is done.
        elif isinstance(outcome, Later):
            pending = outcome.pending
            if not isinstance(pending, asyncio.Future):
                pending = self._server.spawn(pending, outcome.cancellable)
            slot.future = pending
            operation = self._server.operation_of(slot.kind)
            if operation.in_order:
                self._in_order.begin(slot, operation)
            pending.add_done_callback(partial(self._on_done, slot, outcome.results))
        # 3. It is a stream: the slot stays the head of the queue until the connection closes.
        elif isinstance(outcome, Stream):
            slot.stream = outcome
            self._sender.poll_stream()
        # 4. It is done.
        else:
            self._sender.set_reply(slot, outcome)

    def _on_done(
        self, slot: ReplySlot, results: Callable[[Any], Outcome], future: "asyncio.Future[Any]"
    ) -> None:
        """A future is done: handle its outcome, and run what was deferred until then."""
        slots, sender = self.slots, self._sender
        if not slots:  # the connection is closed
            report_bug(self._server, future)
            return
        outcome: Outcome | Refusal
        try:
            try:
                outcome = results(future.result())
            except asyncio.CancelledError:
                outcome = self._replies.refusal(slot.kind, ShuttingDown())
            except RequestError as error:
                outcome = self._replies.refusal(slot.kind, error)
            self._in_order.end(slot)
            if isinstance(outcome, PENDING):
                self._settle(slot, outcome)
            else:
                sender.set_reply(slot, outcome)
            while (deferred := self._in_order.next()) is not None:
                slot, request = deferred
                self._settle(slot, self._outcome_of(request))
        except Exception as error:
            self._server.fail(error)
            return
        if len(slots) > 1:
            sender.send_soon()  # buckets are served several at once
        else:
            sender.send_ready()

    # The end

    def give_up_waiting(self) -> None:
        """The server stops: refuse what waits, except requests that are done and only await their reply."""
        self._in_order.clear()
        refused = False
        for slot in self._queue.waiting():
            if slot.is_decided:
                continue
            if slot.future is None:  # a stream, or deferred
                self._sender.close_stream(slot)
                self._sender.set_reply(slot, self._replies.refusal(slot.kind, ShuttingDown()))
                refused = True
            else:
                slot.future.cancel()
        if refused:
            self._sender.send_ready()

    def abort(self) -> None:
        """The connection is closed: cancel what waits."""
        self._in_order.clear()
        self._decided.clear()
        for slot in self._sender.close():
            if slot.future is not None:
                slot.future.cancel()
