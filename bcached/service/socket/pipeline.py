"""Requests run in the order sent, replies given in the same order, whatever has to wait in between.

Brief requests that can be answered at once are run in batches: one after the other without a suspension,
their replies written by one call; where there are many, the first few go out ahead, so that the peer works on
them while we work on the others. All else goes one by one. A request that has to wait takes a slot in the
reply queue; what follows it still runs, and its reply queues up behind that slot. Only what has to run in
order is put off: a change while anything before it is still to be made or found, a question while a change
is. The reply of a change that is made may come later still.
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
from bcached.service.socket.method import Later, Long, Operation, Outcome, Run, RunSeveral, Session, Stream
from bcached.service.socket.reply_queue import REQUESTS_BEHIND_MAX, ReplyQueue, Slot
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

EARLY_REPLIES = 8  # that go out ahead of twice as many or more
BATCH_REQUESTS = 256  # requests answered by one write; whether the peer reads is asked between batches

INTERFACES = {method.request: method.interface for method in METHODS.values()}

Asked = Request | RequestError  # the error stands for a message that was none


class Server(Protocol):
    """What a conversation needs of the server it belongs to."""

    counts: RequestCounts
    draining: bool

    def operation_of(self, kind: type[Request]) -> Operation:
        """What a request of that class asks for."""

    def ready_operations(self, role: Role) -> dict[type, Operation]:
        """The brief operations that a role may run now, without further question."""

    def carry_out(self, coroutine: Any, for_asker: bool) -> "asyncio.Future[Any]":
        """Run a coroutine as a task of the server's; a future that cancels it just if it is for its asker."""

    def break_down(self, error: Exception) -> None:
        """Note a bug: the daemon is to stop."""


class Conversation:
    """What one connection asked and has not been told yet.

    on_progress is called when something that waited has been answered. For the owner to set: write, which
    sends bytes at once, when there is somebody to send them to; is_stuck while the peer does not read.
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
        self.slots = self._queue.slots  # of what waits
        self._changing: Slot | None = None  # of the change in order that is still to be made
        self._asking: set[Slot] = set()  # of the questions in order that are still to be answered
        self._put_off: deque[tuple[Slot, Request]] = deque()  # in order behind them
        self._ready: dict[type, Run] = {}
        self._ready_several: dict[type, RunSeveral] = {}
        self.take_role(session.role)
        self._ticking: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        return not self._queue.slots

    @property
    def held_bytes(self) -> int:
        """About how much memory takes what waits."""
        return self._queue.held_bytes

    @property
    def room(self) -> int:
        """How many requests may run before the queue is full, if all of them have to wait."""
        return max(1, REQUESTS_BEHIND_MAX + 1 - len(self._queue.slots))

    @property
    def is_held(self) -> bool:
        """Whether nothing more may be run for now."""
        return self.is_stuck or self._queue.is_full

    def take_role(self, role: Role) -> None:
        """Go on in this role, under the rules that hold now."""
        self.session.role = role
        ready = self._server.ready_operations(role)
        self._ready = {kind: operation.run for kind, operation in ready.items()}
        self._ready_several = {
            kind: operation.run_several
            for kind, operation in ready.items()
            if operation.run_several is not None
        }

    def answer(self, requests: Sequence[Asked], started_ns: int, block: bytes) -> int:
        """Run requests, which came as that block, until all have run or we are held; how many did."""
        queue = self._queue
        at = 0
        sizes: list[int] = []
        while at < len(requests) and not self.is_stuck:
            if not queue.slots and (count := self._answer_brief(requests, at, started_ns, block)):
                at += count
            elif queue.is_full:
                break
            else:
                sizes = sizes or lengths(block)
                self._answer_one(requests[at], started_ns, sizes[at])
                at += 1
        return at

    def _answer_brief(self, requests: Sequence[Asked], at: int, started_ns: int, block: bytes) -> int:
        """Run a batch of brief requests and write their replies; how many were run."""
        early = at == 0 and len(requests) >= 2 * EARLY_REPLIES
        end = EARLY_REPLIES if early else at + BATCH_REQUESTS
        batch = requests[at:end] if at or len(requests) > end else requests
        alike = self._answer_alike(batch, started_ns) if len(batch) > 1 else 0
        return alike or self._answer_batch(batch, started_ns, at, block)

    def _answer_batch(self, batch: Sequence[Asked], started_ns: int, at: int, block: bytes) -> int:
        """Run requests up to one that is not brief, or is long or must wait (included); how many were run."""
        ready, session = self._ready, self.session
        replies: list[AnyReply] = []
        answered = 0
        last: Later | Long | None = None
        for request in batch:
            run = ready.get(type(request))
            if run is None or request.upgrade:  # type: ignore[union-attr]  # what is ready is a Request
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
        """Run a batch as one if all of it asks for the same; how many were ready and have run."""
        kind = type(batch[0])
        run_several = self._ready_several.get(kind)
        if run_several is None:
            return 0
        asked = [it.parameters for it in batch if type(it) is kind and not (it.oneway or it.upgrade)]
        if len(asked) < len(batch):
            return 0
        results = run_several(self.session, asked)
        if results:
            self.write(encode_replies([Reply(each) for each in results]))
            self._server.counts.of(kind).observe(len(results), time.perf_counter_ns() - started_ns)
        return len(results)

    def _answer_one(self, request: Asked, started_ns: int, size: int) -> None:
        """Run one request, whatever it is; its reply goes out at once or queues up."""
        try:
            operation = self._permitted(request)
            if operation.in_order and (self._put_off or self._is_too_early(operation)):
                self._put_off.append((self._new_slot(request, started_ns, size), request))  # type: ignore[arg-type]
                return
            outcome = operation.run(self.session, request.parameters)  # type: ignore[union-attr]
        except RequestError as error:
            self._reply(request, encode_reply(self._refusal(type(request), error)), started_ns)
        else:
            self._take(request, outcome, started_ns, size)

    def _take(self, request: Asked, outcome: Outcome, started_ns: int, size: int) -> None:
        """Go on with what running a request has come to."""
        if isinstance(outcome, Later | Stream):
            self._await(self._new_slot(request, started_ns, size), outcome)
        else:
            self._reply(request, self._encoded(type(request), outcome), started_ns)

    def _reply(self, request: Asked, reply: msgspec.Raw, started_ns: int) -> None:
        """Send a reply, or queue it up behind those still to come."""
        kind = type(request)
        self._server.counts.of(kind).observe(1, time.perf_counter_ns() - started_ns)
        if request.oneway:
            return
        if self._queue.slots:
            self._queue.append(Slot(kind, started_ns, reply=reply))
        else:
            self.write(encode_replies([reply]))

    def _permitted(self, request: Asked) -> Operation:
        """What one request asks for, or why it may not be run; with every question asked."""
        if isinstance(request, RequestError):
            raise request
        operation = self._server.operation_of(type(request))
        if self.session.role < operation.role:
            raise PermissionDenied(operation.role.label)
        if request.upgrade:
            raise InvalidParameter("upgrade", "no method of this service upgrades a connection")
        if operation.streams and (request.oneway or not request.more):  # a stream for nobody would never end
            raise ExpectedMore
        if self._server.draining and (operation.changes or operation.streams):
            raise ShuttingDown
        return operation

    # Waiting

    def give_up_waiting(self) -> None:
        """The server stops: what waits is told so, except what is done already and will soon be told."""
        self._put_off.clear()
        for slot in self._queue.waiting():
            if slot.future is None:
                self._stop_ticking()
                self._fill(slot, encode_reply(self._refusal(slot.kind, ShuttingDown())))
            elif not slot.is_decided:
                slot.future.cancel()

    def break_off(self) -> None:
        """The peer is gone: whatever waits gives its turn up."""
        self.write = _to_nobody
        self._on_progress = _nothing  # no circle of references is left: idle, Python looks for none
        self._stop_ticking()
        self._put_off.clear()
        for slot in self._queue.clear():
            if slot.future is not None:
                slot.future.cancel()

    def _new_slot(self, request: Asked, started_ns: int, size: int) -> Slot:
        slot = Slot(type(request), started_ns, size, silent=bool(request.oneway))
        self._queue.append(slot)
        return slot

    def _await(self, slot: Slot, outcome: Later | Stream) -> None:
        """Have a slot filled with what is still to come."""
        if isinstance(outcome, Stream):
            slot.stream = outcome
            self._tick(slot)
            return
        pending = outcome.pending
        if not isinstance(pending, asyncio.Future):
            pending = self._server.carry_out(pending, outcome.for_asker)
        slot.future, slot.is_decided = pending, outcome.is_decided
        if not outcome.is_decided:
            self._keep_in_order(slot)
        pending.add_done_callback(partial(self._arrived, slot, outcome.results))

    def _keep_in_order(self, slot: Slot) -> None:
        operation = self._server.operation_of(slot.kind)
        if operation.in_order and operation.changes:
            self._changing = slot
        elif operation.in_order:
            self._asking.add(slot)

    def _is_too_early(self, operation: Operation) -> bool:
        return self._changing is not None or (operation.changes and bool(self._asking))

    def _arrived(
        self, slot: Slot, results: "Callable[[Any], Results | Later]", future: "asyncio.Future[Any]"
    ) -> None:
        """A future is done: its slot has its reply, or waits for the next one."""
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
            self._server.break_down(error)
            return
        if self._changing is slot:
            self._changing = None
        self._asking.discard(slot)
        if reply is None:
            self._await(slot, outcome)
        else:
            self._fill(slot, reply)
        self._run_put_off()

    def _note_failure(self, future: "asyncio.Future[Any]") -> None:
        """Nobody is told what has come of a request; a bug is one all the same."""
        error = None if future.cancelled() else future.exception()
        if isinstance(error, Exception) and not isinstance(error, RequestError):
            self._server.break_down(error)

    def _run_put_off(self) -> None:
        """Run what waited for its turn, up to the next one that is too early."""
        while self._put_off and not self._is_too_early(self._server.operation_of(self._put_off[0][0].kind)):
            slot, request = self._put_off.popleft()
            try:
                outcome = self._permitted(request).run(self.session, request.parameters)
                if isinstance(outcome, Later | Stream):
                    self._await(slot, outcome)
                    continue
                reply = self._encoded(slot.kind, outcome)
            except RequestError as error:
                reply = encode_reply(self._refusal(slot.kind, error))
            except Exception as error:
                self._server.break_down(error)
                return
            self._fill(slot, reply)

    def _fill(self, slot: Slot, reply: msgspec.Raw) -> None:
        self._server.counts.of(slot.kind).observe(1, time.perf_counter_ns() - slot.started_ns)
        ready = self._queue.fill(slot, reply)
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

    def _encoded(self, kind: type, results: Results | Long) -> msgspec.Raw:
        """A reply encoded now, or the refusal that it is too long to be sent."""
        reply = encode_reply(Reply(results.results if isinstance(results, Long) else results))
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


def _nothing() -> None:
    """Take no note of progress."""


def _to_nobody(_: bytes) -> None:
    """Nobody is connected, not yet or not any more."""
