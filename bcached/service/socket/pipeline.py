"""Runs the requests of a connection in the order sent and sends the replies in the same order.

1. Brief requests that can be answered at once run in batches, without a suspension, and their replies are
written by one call; of many, the first few are sent ahead, so that the peer handles them in parallel.
2. All others run one by one. A request that has to wait takes a slot in the reply queue; later requests
still run, and their replies queue behind that slot.
3. Only in-order requests are deferred: a change while an earlier in-order change or read is outstanding, a
read while a change is. The reply of a change that is made may come later still.
"""

import asyncio
import time
from collections import deque
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
from bcached.service.socket.access import Role
from bcached.service.socket.backlog import lengths
from bcached.service.socket.method import (
    BatchHandler,
    Handler,
    Later,
    Long,
    Operation,
    Outcome,
    Session,
    Stream,
)
from bcached.service.socket.reply_queue import REQUESTS_BEHIND_MAX, ReplyQueue, ReplySlot
from bcached.service.socket.request_counts import RequestCounts
from bcached.wire.codec import (
    AnyReply,
    Continued,
    Refusal,
    Reply,
    encode_replies,
    encode_reply,
)
from bcached.wire.messages import REPLY_BYTES_MAX, Results
from bcached.wire.methods import ALLOCATOR, METHODS, Request

EARLY_REPLIES = 8  # that are sent ahead of twice as many or more
BATCH_REQUESTS = 256  # requests answered by one write; back-pressure is checked between batches

INTERFACE_OF = {method.request: method.interface for method in METHODS.values()}

Received = Request | RequestError  # the error is for a message that could not be decoded


class PipelineServer(Protocol):
    """What a pipeline needs of its server."""

    counts: RequestCounts
    draining: bool

    def operation_of(self, kind: type[Request]) -> Operation:
        """Returns the operation of a request's class."""

    def ready_operations(self, role: Role) -> dict[type, Operation]:
        """Returns the brief operations that a role may run now without further checks."""

    def spawn(self, coroutine: Any, cancellable: bool) -> "asyncio.Future[Any]":
        """Run a coroutine as a task of the server; returns a future, which cancels it only if cancellable."""

    def fail(self, error: Exception) -> None:
        """Report a bug: the daemon stops."""


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
        self._server = server
        self.is_write_paused = False
        self.write: Callable[[bytes], None] = _discard
        self._on_progress = on_progress
        self._queue = ReplyQueue()
        self.slots = self._queue.slots  # replies not sent yet, in order
        self._changing: ReplySlot | None = None  # of the in-order change that is still to be made
        self._reading: set[ReplySlot] = set()  # of the in-order reads that are still to be answered
        self._deferred: deque[tuple[ReplySlot, Request]] = deque()  # in-order requests behind them
        self._ready: dict[type, Handler] = {}
        self._ready_several: dict[type, BatchHandler] = {}
        self.set_role(session.role)
        self._ticking: asyncio.TimerHandle | None = None

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
        ready = self._server.ready_operations(role)
        self._ready = {kind: operation.run for kind, operation in ready.items()}
        self._ready_several = {
            kind: operation.run_several
            for kind, operation in ready.items()
            if operation.run_several is not None
        }

    def answer(self, requests: Sequence[Received], started_ns: int, block: bytes) -> int:
        """Run the requests of a block until all have run or we are held; returns how many ran."""
        queue = self._queue
        at = 0
        sizes: list[int] = []
        while at < len(requests) and not self.is_write_paused:
            if not queue.slots and (count := self._answer_brief(requests, at, started_ns, block)):
                at += count
            elif queue.is_full:
                break
            else:
                sizes = sizes or lengths(block)
                self._answer_one(requests[at], started_ns, sizes[at])
                at += 1
        return at

    def _answer_brief(self, requests: Sequence[Received], at: int, started_ns: int, block: bytes) -> int:
        """Run a batch of brief requests and write their replies; returns how many ran."""
        early = at == 0 and len(requests) >= 2 * EARLY_REPLIES
        end = EARLY_REPLIES if early else at + BATCH_REQUESTS
        batch = requests[at:end] if at or len(requests) > end else requests
        alike = self._answer_alike(batch, started_ns) if len(batch) > 1 else 0
        return alike or self._answer_batch(batch, started_ns, at, block)

    def _answer_batch(self, batch: Sequence[Received], started_ns: int, at: int, block: bytes) -> int:
        """Run up to a request that is not brief, or is long or waits (included); returns how many ran."""
        ready, session = self._ready, self.session
        replies: list[AnyReply] = []
        answered = 0
        last: Later | Long | None = None
        for request in batch:
            run = ready.get(type(request))
            if run is None or request.upgrade:  # type: ignore[union-attr]  # a class in `ready` is a Request
                break
            try:
                outcome: Any = run(session, request.parameters)  # type: ignore[union-attr]
            except RequestError as error:
                reply: AnyReply = self._refusal(type(request), error)
            else:
                kind = outcome.__class__
                if kind is Later or kind is Long:
                    last = outcome
                    break
                reply = Reply(outcome)
            answered += 1
            if not request.oneway:
                replies.append(reply)
        if replies:
            self.write(encode_replies(replies))
        if answered:
            done = batch if answered == len(batch) else batch[:answered]
            self._server.counts.observe(done, time.perf_counter_ns() - started_ns)
        if last is None:
            return answered
        self._take(batch[answered], last, started_ns, lengths(block)[at + answered])
        return answered + 1

    def _answer_alike(self, batch: Sequence[Any], started_ns: int) -> int:
        """Run a batch of one method by one call; returns how many were ready and ran."""
        kind = type(batch[0])
        run_several = self._ready_several.get(kind)
        if run_several is None:
            return 0
        parameters = [it.parameters for it in batch if type(it) is kind and not (it.oneway or it.upgrade)]
        if len(parameters) < len(batch):
            return 0
        results = run_several(self.session, parameters)
        if results:
            self.write(encode_replies([Reply(each) for each in results]))
            self._server.counts.of(kind).observe(len(results), time.perf_counter_ns() - started_ns)
        return len(results)

    def _answer_one(self, request: Received, started_ns: int, size: int) -> None:
        """Run any one request; its reply is sent at once or queued."""
        try:
            operation = self._permitted(request)
            if operation.in_order and (self._deferred or self._must_wait(operation)):
                self._deferred.append((self._new_slot(request, started_ns, size), request))  # type: ignore[arg-type]
                return
            outcome = operation.run(self.session, request.parameters)  # type: ignore[union-attr]
        except RequestError as error:
            self._reply(request, encode_reply(self._refusal(type(request), error)), started_ns)
        else:
            self._take(request, outcome, started_ns, size)

    def _take(self, request: Received, outcome: Outcome, started_ns: int, size: int) -> None:
        """Handle the outcome of a request."""
        if isinstance(outcome, Later | Stream):
            self._await(self._new_slot(request, started_ns, size), outcome)
        else:
            self._reply(request, self._encoded(type(request), outcome), started_ns)

    def _reply(self, request: Received, reply: msgspec.Raw, started_ns: int) -> None:
        """Send a reply, or queue it behind those still to come."""
        kind = type(request)
        self._server.counts.of(kind).observe(1, time.perf_counter_ns() - started_ns)
        if request.oneway:
            return
        if self._queue.slots:
            self._queue.append(ReplySlot(kind, started_ns, reply=reply))
        else:
            self.write(encode_replies([reply]))

    def _permitted(self, request: Received) -> Operation:
        """Returns the operation of a request. Raises RequestError if it may not run, after all checks."""
        if isinstance(request, RequestError):
            raise request
        operation = self._server.operation_of(type(request))
        if self.session.role < operation.role:
            raise PermissionDenied(operation.role.label)
        if request.upgrade:
            raise InvalidParameter("upgrade", "no method of this service upgrades a connection")
        if operation.streams and (
            request.oneway or not request.more
        ):  # a stream without a reader would never end
            raise ExpectedMore
        if self._server.draining and (operation.changes or operation.streams):
            raise ShuttingDown
        return operation

    # Waiting

    def give_up_waiting(self) -> None:
        """The server stops: refuse what waits, except requests that are done and only await their reply."""
        self._deferred.clear()
        for slot in self._queue.waiting():
            if slot.future is None:
                self._stop_ticking()
                self._fill(slot, encode_reply(self._refusal(slot.kind, ShuttingDown())))
            elif not slot.is_decided:
                slot.future.cancel()

    def abort(self) -> None:
        """The peer is gone: cancel what waits."""
        self.write = _discard
        self._on_progress = _nothing  # break the reference cycle: the collector rarely runs
        self._stop_ticking()
        self._deferred.clear()
        for slot in self._queue.clear():
            if slot.future is not None:
                slot.future.cancel()

    def _new_slot(self, request: Received, started_ns: int, size: int) -> ReplySlot:
        slot = ReplySlot(type(request), started_ns, size, silent=bool(request.oneway))
        self._queue.append(slot)
        return slot

    def _await(self, slot: ReplySlot, outcome: Later | Stream) -> None:
        """Fill a slot when its outcome arrives."""
        if isinstance(outcome, Stream):
            slot.stream = outcome
            self._tick(slot)
            return
        pending = outcome.pending
        if not isinstance(pending, asyncio.Future):
            pending = self._server.spawn(pending, outcome.cancellable)
        slot.future, slot.is_decided = pending, outcome.is_decided
        if not outcome.is_decided:
            self._keep_in_order(slot)
        pending.add_done_callback(partial(self._on_done, slot, outcome.results))

    def _keep_in_order(self, slot: ReplySlot) -> None:
        operation = self._server.operation_of(slot.kind)
        if operation.in_order and operation.changes:
            self._changing = slot
        elif operation.in_order:
            self._reading.add(slot)

    def _must_wait(self, operation: Operation) -> bool:
        return self._changing is not None or (operation.changes and bool(self._reading))

    def _on_done(
        self, slot: ReplySlot, results: Callable[[Any], Outcome], future: "asyncio.Future[Any]"
    ) -> None:
        """A future is done: fill its slot, or wait for the next outcome."""
        if not self._queue.slots:  # the peer is gone
            self._note_failure(future)
            return
        outcome: Any = None
        try:
            outcome = results(future.result())
            reply = None if isinstance(outcome, Later) else self._encoded(slot.kind, outcome)
        except asyncio.CancelledError:
            reply = encode_reply(self._refusal(slot.kind, ShuttingDown()))
        except RequestError as error:
            reply = encode_reply(self._refusal(slot.kind, error))
        except Exception as error:
            self._server.fail(error)
            return
        if self._changing is slot:
            self._changing = None
        self._reading.discard(slot)
        if reply is None:
            self._await(slot, outcome)
        else:
            self._fill(slot, reply)
        self._run_deferred()

    def _note_failure(self, future: "asyncio.Future[Any]") -> None:
        """The peer is gone and gets no reply; report a bug all the same."""
        error = None if future.cancelled() else future.exception()
        if isinstance(error, Exception) and not isinstance(error, RequestError):
            self._server.fail(error)

    def _run_deferred(self) -> None:
        """Run put-off requests, up to the next one that is too early."""
        while self._deferred and not self._must_wait(self._server.operation_of(self._deferred[0][0].kind)):
            slot, request = self._deferred.popleft()
            try:
                outcome = self._permitted(request).run(self.session, request.parameters)
                if isinstance(outcome, Later | Stream):
                    self._await(slot, outcome)
                    continue
                reply = self._encoded(slot.kind, outcome)
            except RequestError as error:
                reply = encode_reply(self._refusal(slot.kind, error))
            except Exception as error:
                self._server.fail(error)
                return
            self._fill(slot, reply)

    def _fill(self, slot: ReplySlot, reply: msgspec.Raw) -> None:
        self._server.counts.of(slot.kind).observe(1, time.perf_counter_ns() - slot.started_ns)
        ready = self._queue.fill(slot, reply)
        if ready:
            self.write(encode_replies(ready))
        if (head := self._queue.head) is not None and head.stream is not None and self._ticking is None:
            self._tick(head)
        self._on_progress()

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
        if news is not None and not slot.silent:
            self.write(encode_replies([Continued(news)]))
        self._ticking = asyncio.get_running_loop().call_later(slot.stream.interval_s, self._tick, slot)

    def _stop_ticking(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    # Replies

    def _encoded(self, kind: type, results: Results | Long) -> msgspec.Raw:
        """Returns the encoded reply, or the refusal if it is too long to be sent."""
        reply = encode_reply(Reply(results.results if isinstance(results, Long) else results))
        if len(reply) < REPLY_BYTES_MAX:
            return reply
        return encode_reply(self._refusal(kind, LimitExceeded("reply_bytes", len(reply))))

    def _refusal(self, kind: type, error: RequestError) -> Refusal:
        """Returns the error under the name of the interface that was called."""
        self._server.counts.of(kind).errors += 1
        name = error.NAME
        if name.startswith(f"{ALLOCATOR}."):
            name = f"{INTERFACE_OF.get(kind, ALLOCATOR)}.{name.rpartition('.')[2]}"
        return Refusal(name, error.fields)


def _nothing() -> None:
    """Ignore progress."""


def _discard(_: bytes) -> None:
    """Discard bytes: the peer is not connected yet, or not any more."""
