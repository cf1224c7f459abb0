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

import msgspec

from bcached.errors import (
    ExpectedMore,
    InvalidParameter,
    PermissionDenied,
    RequestError,
    ShuttingDown,
)
from bcached.service.socket.access import Role
from bcached.service.socket.backlog import lengths
from bcached.service.socket.in_order import InOrderRequests
from bcached.service.socket.method import (
    BatchHandler,
    Decided,
    Handler,
    Last,
    Later,
    Long,
    Operation,
    Outcome,
    Session,
    Stream,
)
from bcached.service.socket.pipeline_server import PipelineServer
from bcached.service.socket.replies import Replies
from bcached.service.socket.reply_queue import REQUESTS_BEHIND_MAX, ReplyQueue, ReplySlot
from bcached.wire.codec import (
    AnyReply,
    Continued,
    Refusal,
    Reply,
    encode_replies,
    encode_reply,
)
from bcached.wire.messages import Results
from bcached.wire.methods import Request

EARLY_REQUESTS = 16  # of so many, the replies of the first half may be sent before the second half runs
IDLE_NS = 10_000
BATCH_REQUESTS = 64  # requests answered by one write; back-pressure and time are checked between batches

PENDING = (Decided, Later, Stream)  # outcomes whose replies are sent later

Write = Callable[[bytes], None]
Received = Request | RequestError  # the error is for a message that could not be decoded


class RequestPipeline:
    """The requests of one connection that are not answered yet.

    on_progress is called when a waiting request has been answered. The owner sets `write`, which sends bytes
    at once, while the peer is connected, and `is_write_paused` while the peer does not read.
    """

    def __init__(
        self,
        server: PipelineServer,
        session: Session,
        on_progress: Callable[[], None],
    ) -> None:
        self.session = session
        self.is_write_paused = False
        self.until_ns = 0  # when a request ran last
        self.write: Write = _discard
        self.write_at_once: Write = _discard
        self._server = server
        self._turns = server.turns
        self._replies = Replies(server.counts)
        self._on_progress = on_progress
        self._queue = ReplyQueue()
        self.slots = self._queue.slots  # replies not sent yet, in order
        self._in_order = InOrderRequests()
        # The decided requests whose replies wait, by what they wait for.
        self._decided: dict[asyncio.Future[None], list[tuple[ReplySlot, Results]]] = {}
        # The brief operations that need no check, by request class; the handlers of each, and of several.
        self._ready_operations: dict[type, Operation] = {}
        self._ready: dict[type, Handler] = {}
        self._ready_batches: dict[type, BatchHandler] = {}
        self._sends_soon = False  # `_send_ready` is scheduled
        self._ticking: asyncio.TimerHandle | None = None  # until a stream, the head of the queue, is polled
        self.set_role(session.role)

    def __repr__(self) -> str:
        paused = ", writing is paused" if self.is_write_paused else ""
        return f"<RequestPipeline {self.session.role.label}: {self._queue!r}, {self._in_order!r}{paused}>"

    @property
    def is_idle(self) -> bool:
        """Whether no request waits."""
        return not self._queue.slots

    @property
    def held_bytes(self) -> int:
        """Returns an estimate of the memory of all that waits."""
        return self._queue.held_bytes

    @property
    def free_slots(self) -> int:
        """Returns how many requests may run before the queue is full, if all of them have to wait."""
        return max(1, REQUESTS_BEHIND_MAX + 1 - len(self._queue.slots))

    @property
    def is_blocked(self) -> bool:
        """Whether no more requests may run for now."""
        return self.is_write_paused or self._queue.is_full

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
        queue = self._queue
        sizes: list[int] = []
        at = 0
        while not self.is_write_paused:
            outcome: Outcome | None = None
            if not queue.slots:
                batch, write = requests, self.write
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
            elif queue.is_full:
                return at
            sizes = sizes or lengths(block)
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
            return requests[: min(len(requests) // 2, BATCH_REQUESTS)], self.write_at_once
        return requests[at : at + BATCH_REQUESTS], self.write

    def _is_late(self, started_ns: int) -> bool:
        """Whether others have to run before the next request of a block."""
        return self.until_ns - started_ns > self._turns.run_ns

    def _run_alone(
        self, request: Received, outcome: Outcome | None, started_ns: int, request_bytes: int
    ) -> None:
        """Run a request that is in no batch, unless it ran with this outcome.

        Its reply is sent at once, or it gets a slot in the queue.
        """
        kind, queue = type(request), self._queue
        if not queue.slots:  # so nothing keeps it from running now
            ready = self._outcome_of(request) if outcome is None else outcome
            if not isinstance(ready, PENDING):
                self._reply(request, ready, started_ns)
                return
            outcome = ready
        slot = ReplySlot(kind, started_ns, request_bytes, silent=bool(request.oneway))
        queue.append(slot)
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
            self.write(data)

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
        try:
            operation = self._permitted(request)
        except RequestError as error:
            self._settle(slot, self._replies.refusal(slot.kind, error))
            return
        if operation.in_order and self._in_order.must_wait(operation):
            self._in_order.defer(slot, request, operation)  # type: ignore[arg-type]  # it was decoded
        else:
            self._settle(slot, self._outcome_of(request))

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
        """Handle the outcome of a request."""
        # 1. It is done, and its reply waits with others.
        if isinstance(outcome, Decided):
            slot.is_decided = True
            self._wait_with_others(slot, outcome)
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
            self._tick(slot)
        # 4. It is done.
        else:
            self._fill(slot, self._replies.encoded(slot.kind, outcome))

    def _wait_with_others(self, slot: ReplySlot, outcome: Decided) -> None:
        waiting = self._decided.get(outcome.recorded)
        if waiting is None:
            self._decided[outcome.recorded] = waiting = []
            outcome.recorded.add_done_callback(self._on_recorded)
        waiting.append((slot, outcome.results))

    def _on_recorded(self, recorded: "asyncio.Future[None]") -> None:
        """What decided requests wait for is done: send their replies."""
        failure = recorded.exception()
        waiting = self._decided.pop(recorded, None)
        if waiting is None:  # the connection is closed
            self._report_bug(recorded)
            return
        try:
            if failure is not None and not isinstance(failure, RequestError):
                raise failure
            now_ns, queue, counts = time.perf_counter_ns(), self._queue, self._server.counts
            replies: list[AnyReply] = []
            for slot, results in waiting:
                counts.of(slot.kind).observe(1, now_ns - slot.started_ns)
                if failure is None and slot is queue.slots[0] and not slot.silent:  # nearly always
                    queue.pop_first()
                    replies.append(Reply(results))
                else:
                    outcome = results if failure is None else self._replies.refusal(slot.kind, failure)
                    queue.set_reply(slot, self._replies.encoded(slot.kind, outcome))
            self._send([*replies, *queue.pop_ready()])
        except Exception as error:
            self._server.fail(error)
            return
        self._on_progress()

    def _on_done(
        self, slot: ReplySlot, results: Callable[[Any], Outcome], future: "asyncio.Future[Any]"
    ) -> None:
        """A future is done: handle its outcome, and run what was deferred until then."""
        if not self._queue.slots:  # the connection is closed
            self._report_bug(future)
            return
        outcome: Outcome | Refusal
        is_one_of_several = False
        try:
            try:
                outcome = results(future.result())
            except asyncio.CancelledError:
                outcome = self._replies.refusal(slot.kind, ShuttingDown())
            except RequestError as error:
                outcome = self._replies.refusal(slot.kind, error)
            self._in_order.end(slot)
            if len(self.slots) > 1 and not isinstance(outcome, Decided | Later | Stream):
                is_one_of_several = True
                self._set_reply(slot, self._replies.encoded(slot.kind, outcome))
            else:
                self._settle(slot, outcome)
            while (deferred := self._in_order.next()) is not None:
                slot, request = deferred
                self._settle(slot, self._outcome_of(request))
        except Exception as error:
            self._server.fail(error)
            return
        if is_one_of_several:
            self._send_soon()
        else:
            self._on_progress()

    def _report_bug(self, future: "asyncio.Future[Any]") -> None:
        """The connection is closed, so there is no reply; report a bug all the same."""
        error = None if future.cancelled() else future.exception()
        if isinstance(error, Exception) and not isinstance(error, RequestError):
            self._server.fail(error)

    def _fill(self, slot: ReplySlot, reply: msgspec.Raw) -> None:
        """Queue a reply, and send all that are ready."""
        self._server.counts.of(slot.kind).observe(1, time.perf_counter_ns() - slot.started_ns)
        self._send(self._queue.fill(slot, reply))

    def _set_reply(self, slot: ReplySlot, reply: msgspec.Raw) -> None:
        """Queue a reply; `_send_soon` is to follow."""
        self._server.counts.of(slot.kind).observe(1, time.perf_counter_ns() - slot.started_ns)
        self._queue.set_reply(slot, reply)

    def _send_soon(self) -> None:
        """Send what is ready with what further requests wait for: buckets are served several at once."""
        if not self._sends_soon:
            self._sends_soon = True
            asyncio.get_running_loop().call_soon(self._send_ready)

    def _send_ready(self) -> None:
        self._sends_soon = False
        try:
            self._send(self._queue.pop_ready())
        except Exception as error:
            self._server.fail(error)
            return
        self._on_progress()

    def _send(self, ready: Sequence[AnyReply]) -> None:
        """Send replies, and begin a stream that is then first in the queue."""
        if ready:
            self.write(encode_replies(ready))
        if (head := self._queue.head) is not None and head.stream is not None and self._ticking is None:
            self._tick(head)

    def _tick(self, slot: ReplySlot) -> None:
        """Send a stream's news if its slot is first and the peer reads; poll again after the interval."""
        self._ticking = None
        if slot.stream is None or self._queue.head is not slot:
            return
        try:
            news = None if self.is_write_paused else slot.stream.following()
        except Exception as error:
            self._server.fail(error)
            return
        if isinstance(news, Last):
            self._end_stream(slot)
            self._fill(slot, self._replies.encoded(slot.kind, news.results))
            self._on_progress()
            return
        if news is not None and not slot.silent:
            self.write(encode_replies([Continued(news)]))
        self._ticking = asyncio.get_running_loop().call_later(slot.stream.interval_s, self._tick, slot)

    def _end_stream(self, slot: ReplySlot) -> None:
        if slot.stream is not None:
            slot.stream.close()
            slot.stream = None

    # The end

    def give_up_waiting(self) -> None:
        """The server stops: refuse what waits, except requests that are done and only await their reply."""
        self._in_order.clear()
        refused = False
        for slot in self._queue.waiting():
            if slot.is_decided:
                continue
            if slot.future is None:  # a stream, or deferred
                self._stop_ticking()
                self._end_stream(slot)
                self._fill(slot, encode_reply(self._replies.refusal(slot.kind, ShuttingDown())))
                refused = True
            else:
                slot.future.cancel()
        if refused:
            self._on_progress()

    def abort(self) -> None:
        """The connection is closed: cancel what waits."""
        self.write = self.write_at_once = _discard
        self._on_progress = _nothing  # break the reference cycle: the collector rarely runs
        self._stop_ticking()
        self._in_order.clear()
        self._decided.clear()
        for slot in self._queue.clear():
            self._end_stream(slot)
            if slot.future is not None:
                slot.future.cancel()

    def _stop_ticking(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None


def _nothing() -> None:
    """Ignore progress."""


def _discard(_: bytes) -> None:
    """Discard bytes: the peer is not connected yet, or not any more."""
