# SPDX-License-Identifier: MIT
"""The connection under a blocking client: an exchange on a plain socket, for any number of threads.

A thread sends its request and then waits for its reply. One of the waiting threads is the leader: it alone
reads the socket, and wakes the threads whose replies have arrived. When it has its own it passes the lead on.
So requests of several threads are pipelined.

An exception may be raised at any instruction of the main thread (Ctrl-C, a signal handler). Its call is then
abandoned, and its reply is not taken for another call's. Only within a step, that is, while bytes are written
to the socket, or were read and not passed on, does it end the connection.
"""

import contextlib
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable
from threading import Lock, RLock, get_ident
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from bcached.client.connecting import connecting
from bcached.client.forks import end_in_children
from bcached.client.hang_up_watch import Settles, hang_up_watch
from bcached.client.protocol.exchange import CLOSED, Call, Exchange
from bcached.errors import ConnectionLost, is_of_a_handler

P = ParamSpec("P")
T = TypeVar("T")

RECEIVE_BYTES = 1 << 16
SEND_FLAGS = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
PASSED_ON = 0xFF  # begins the receive buffer, unless that holds bytes to be passed on: no text begins with it
INTERRUPTED = "it was interrupted in the middle of a message or a change"


class SocketChannel:
    """The client's end of one connection. stop_is_loss: as of Exchange."""

    def __init__(self, path: str, patience_s: float = 0.0, *, stop_is_loss: bool = False) -> None:
        self.path = path
        # No event requested: EPOLLHUP is always reported. Closed before the socket, so that it never says of
        # another file with the socket's descriptor that it is open.
        self._hang_ups = _epoll(path)
        try:
            self._socket = connect(path, patience_s)
        except BaseException:
            self._hang_ups.close()
            raise
        self._socket.setblocking(True)  # for the leader
        self._hang_ups.register(self._socket, 0)
        self._exchange = Exchange(path, stop_is_loss=stop_is_loss)
        self._lock = RLock()  # of all that follows; reentrant: a signal handler may report reads, or close
        self._received = memoryview(bytearray([PASSED_ON]) * RECEIVE_BYTES)  # the leader's
        self._unsent = b""
        self._lead: Call[Any] | None = None  # the leader's call
        self._leader = 0  # its thread
        self._queued: dict[Call[Any], Lock] = {}  # calls that wait for a reply, or for the lead
        self._in_step = 0  # the thread that is within a step
        self._is_closed = False
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)
        end_in_children(self)

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open, according to the kernel."""
        try:
            return self._exchange.end_reason is None and not self._hang_ups.poll(0)
        except ValueError:  # closed
            return False

    @property
    def hang_ups(self) -> Callable[[float], object]:
        """Returns a function that returns something once the connection has ended, or raises ValueError."""
        return self._hang_ups.poll

    def settle_at_end(self, one: Settles) -> None:
        """Have what ends with the connection settled when it ends, also while no call is made."""
        hang_up_watch.add(self._socket.fileno(), one)

    def ask(self, call: Call[T]) -> T:
        """Returns the call's result or raises its error."""
        self.refuse_within_another()
        try:
            self._send(call)
            self._wait(call)
            return call.outcome()
        except BaseException:
            self._give_up(call)
            raise

    def send(self, *calls: Call[Any]) -> None:
        """Send calls together; `news` waits for their replies."""
        self.refuse_within_another()
        try:
            self._send(*calls)
            with self._lock:
                self._hand_on(calls[0])
        except BaseException:
            for call in calls:
                self._give_up(call)
            raise

    def news(self, call: Call[Any]) -> bool:
        """Wait for replies to a call that was sent; returns False if it has ended."""
        self.refuse_within_another()
        try:
            self._wait(call)
        except BaseException:
            self._give_up(call)
            raise
        return bool(call.news)

    def take_arrived(self, within_s: float = 0.0) -> bool:
        """Pass what has arrived, or does in time, to its calls; returns False if another thread does that."""
        with self._lock:
            is_free = self._lead is None and not self._in_step and not self._is_closed
            if is_free and self._readable.poll(within_s * 1000):
                self._step(self._take_arrived)
            return is_free

    def send_oneway(self, message: bytes) -> None:
        """Send a oneway request; ignored without a connection."""
        with self._lock:
            self._exchange.send_oneway(message)
            if not self._in_step:
                self._step(self._push)

    def end_interrupted(self) -> None:
        """End the connection: its user was interrupted in the middle of a change."""
        with self._lock:
            self._end(INTERRUPTED)

    def close(self) -> None:
        """Close the connection; the calls of waiting threads raise an error."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            hang_up_watch.forget(self._socket.fileno())
            if not self._in_step:  # else a signal handler calls this, and what was sent is unknown
                self._step(self._push)
            self._end(CLOSED)
            self._hang_ups.close()
            if self._lead is None:  # else the leader closes it, once it does not read it any more
                self._socket.close()

    def end_in_child(self) -> None:
        """In a child process: close its copies."""
        self._hang_ups.close()
        self._socket.close()

    # Steps, run with the lock held

    def _step(self, step: Callable[P, None], *arguments: P.args, **named: P.kwargs) -> None:
        """Run a step completely, or end the connection: what was sent or received would be unknown."""
        try:
            self._in_step = get_ident()
            step(*arguments, **named)
        except BaseException:
            self._end(INTERRUPTED)
            raise
        finally:
            self._in_step = 0

    def _push(self) -> None:
        """Send what the socket takes; nothing to a closed peer, so that its last replies are read."""
        data = self._unsent + self._exchange.to_send()
        if not data:
            return
        try:
            self._unsent = data[self._socket.send(data, SEND_FLAGS) :]
        except BlockingIOError:
            self._unsent = data
        except OSError as error:
            if is_of_a_handler(error):
                raise
            self._unsent = b""

    def _take_arrived(self) -> None:
        """Read what has arrived, and pass it on."""
        try:
            length = self._read(socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._push()
        else:
            self._pass_on(length)

    def _read(self, flags: int = 0) -> int:
        """Read into the buffer; returns how many bytes, none at the connection's end."""
        try:
            return self._socket.recv_into(self._received, 0, flags)
        except OSError as error:
            if isinstance(error, BlockingIOError) or is_of_a_handler(error):
                raise
            with self._lock:
                self._end(error.strerror or str(error))
            return 0

    def _pass_on(self, length: int) -> None:
        """Pass what was read to the calls."""
        exchange = self._exchange
        answered = exchange.receive(bytes(self._received[:length]))
        self._received[0] = PASSED_ON
        if self._queued:
            self._wake(answered)
        if exchange.broken or not length:
            self._end(exchange.broken or "closed by the daemon")
        if self._unsent or exchange.outgoing:  # also releases for abandoned calls
            self._step(self._push)

    def _end(self, reason: str) -> None:
        self._unsent = b""
        self._exchange.end(reason)
        self._wake(list(self._queued))  # all: an interruption may have prevented an earlier wake-up
        with contextlib.suppress(OSError):  # the peer closed first
            self._socket.shutdown(socket.SHUT_RDWR)  # which wakes the leader, too

    # A call

    def _send(self, *calls: Call[Any]) -> None:
        with self._lock:
            try:  # a step, like those above
                self._in_step = this = get_ident()
                for call in calls:
                    self._exchange.ask(call)
                self._push()
                self._in_step = 0
            except BaseException:
                self._end(INTERRUPTED)
                self._in_step = 0
                raise
            if self._lead is None:
                self._leader = this
                self._lead = calls[0]
        if self._unsent:
            self._send_the_rest(calls[0])

    def _send_the_rest(self, call: Call[Any]) -> None:
        """Continue until all is sent; the daemon may wait for its replies to be read first."""
        poll = select.poll()
        while True:
            with self._lock:
                if not self._unsent:
                    return
                reads = self._lead is call
                poll.register(self._socket, select.POLLOUT | select.POLLIN if reads else select.POLLOUT)
            poll.poll()
            with self._lock:
                if self._unsent:
                    self._step(self._take_arrived if reads else self._push)

    def _wait(self, call: Call[Any]) -> None:
        """Wait until the call is settled or has a reply."""
        while not call.is_settled and not call.news:
            if self._lead is not call:
                self._queue_or_lead(call)
                continue
            length = self._read()  # interrupted within, nothing was read; behind it, the buffer tells
            with self._lock:
                exchange = self._exchange
                has_more_to_do = self._queued or self._unsent or exchange.outgoing
                if has_more_to_do or not exchange.receive_reply(call, bytes(self._received[:length])):
                    self._pass_on(length)
                self._received[0] = PASSED_ON
                if call.is_settled or call.news:
                    self._hand_on(call)
                    return
        with self._lock:
            self._hand_on(call)

    def _queue_or_lead(self, call: Call[Any]) -> None:
        """Take the lead, or wait for a reply or for the lead."""
        with self._lock:
            if self._lead is None:
                self._leader, self._lead = get_ident(), call
            if self._lead is call or call.is_answered:
                return
            wake_up = self._queued[call] = Lock()
            wake_up.acquire()
        wake_up.acquire()  # released by _wake
        self._queued.pop(call, None)

    def _hand_on(self, call: Call[Any]) -> None:
        """Pass the lead, if this call has it or none does, to another waiting call."""
        if self._lead is not call and self._lead is not None:
            return
        self._lead = None
        if self._is_closed:
            self._socket.close()
        if self._queued:
            for wake_up in list(self._queued.values()):
                if wake_up.locked():  # else its thread is awake already
                    wake_up.release()
                    return

    def _wake(self, calls: Iterable[Call[Any]]) -> None:
        for call in calls:
            wake_up = self._queued.get(call)
            if wake_up is not None and wake_up.locked():
                wake_up.release()

    def _give_up(self, call: Call[Any]) -> None:
        """The call has raised: it was refused, or its thread interrupted."""
        with self._lock:
            self._queued.pop(call, None)  # it must not be made the leader
            if self._lead is call and self._received[0] != PASSED_ON:
                self._end(INTERRUPTED)
            self._exchange.abandon(call)
            self._hand_on(call)
            self._step(self._push)

    def refuse_within_another(self) -> None:
        """Raises RuntimeError in a signal handler whose own thread is using the client.

        If this thread is within no other call, a second interruption hit the clean-up of the first, which is
        completed here.
        """
        has_lock: bool = self._lock._is_owned()  # type: ignore[attr-defined]  # noqa: SLF001 - as in threading
        lead = self._lead
        if lead is None and not self._in_step and not has_lock:
            return
        this = get_ident()
        leads = lead is not None and self._leader == this
        if not has_lock and self._in_step != this and not leads:
            return
        if has_lock or self._is_within_a_call(sys._getframe(2)):  # noqa: SLF001 - this is what it is for
            raise RuntimeError(f"{self.path}: called while this thread is in the middle of another call")
        with self._lock:
            if self._in_step == this:
                self._end(INTERRUPTED)
                self._in_step = 0
            if lead is not None and leads:
                self._give_up(lead)

    def _is_within_a_call(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code in ENTRANCES and frame.f_locals.get("self") is self:
                return True
            frame = frame.f_back
        return False


ENTRANCES = {
    one.__code__
    for one in (
        SocketChannel.ask,
        SocketChannel.send,
        SocketChannel.news,
        SocketChannel.take_arrived,
        SocketChannel.send_oneway,
        SocketChannel.close,
    )
}


def _epoll(path: str) -> select.epoll:
    try:
        return select.epoll()
    except OSError as error:  # no descriptor is left
        raise ConnectionLost(path, error.strerror or str(error)) from None


def connect(path: str, patience_s: float = 0.0) -> socket.socket:
    """Returns a connected socket; patience_s is how long to wait for a daemon that is not running."""
    attempts = connecting(path, patience_s)
    try:
        while True:
            time.sleep(next(attempts))
    except StopIteration as made:
        connected: socket.socket = made.value
        return connected
    finally:
        attempts.close()
