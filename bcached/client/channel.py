# SPDX-License-Identifier: MIT
"""The connection under an asyncio client: an exchange on a transport.

Requests made in the same iteration of the loop are sent by one write: to pipeline, make several calls before
awaiting the first.
"""

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Iterable
from typing import Any, TypeVar, cast

from bcached.client.connecting import connecting
from bcached.client.forks import end_in_children
from bcached.client.hang_up_watch import Settles, hang_up_watch
from bcached.client.protocol.exchange import CLOSED, Call, Exchange
from bcached.errors import ConnectionLost

T = TypeVar("T")

RECEIVE_BYTES = 1 << 16
CLOSING_S = 1.0  # how long a daemon may take to read the last requests


class Channel(asyncio.BufferedProtocol):
    """The client's end of one connection; `lost` is done, with None, once it is closed.

    Six of its methods are the transport's callbacks.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._exchange = Exchange(path)
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._reason = "closed by the daemon"  # why it ended, for the callers, unless another reason is known
        self._transport: asyncio.Transport | None = None  # while it is open
        self._descriptor = -1  # the transport's
        self._is_flushing = False  # a flush is scheduled
        self._received = memoryview(bytearray(RECEIVE_BYTES))
        self._writable: asyncio.Future[None] | None = None  # done when the daemon has read; None if it reads
        self._writing_lock = asyncio.Lock()  # held by the first caller that waits for that
        self._hang_ups = select.epoll()  # a thread may ask it, too

    @classmethod
    async def open(cls, path: str, patience_s: float = 0.0) -> "Channel":
        """Returns a connection. Raises ConnectionLost if no daemon is reached within patience_s."""
        connected = await connect(path, patience_s)
        try:
            channel = cls(path)
            await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=connected)
        except BaseException as error:
            connected.close()
            if isinstance(error, OSError):
                raise ConnectionLost(path, error.strerror or str(error)) from None
            raise
        end_in_children(channel)
        return channel

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open, according to the kernel, even if the loop has not run lately."""
        try:
            return self._transport is not None and not self._hang_ups.poll(0)
        except ValueError:  # closed
            return False

    def settle_at_end(self, one: Settles) -> None:
        """Have what ends with the connection settled when it ends, also while the loop is blocked."""
        if self._descriptor >= 0:
            hang_up_watch.add(self._descriptor, one)
        self.lost.add_done_callback(lambda _: one.settle())  # it was connected, by its transport, until then

    async def ask(self, call: Call[T]) -> T:
        """Returns the call's result or raises its error. A result for a cancelled task is undone."""
        if self._writable is not None or self._writing_lock.locked():
            async with self._writing_lock:  # or a later call would overtake those that wait for the transport
                while self._writable is not None:
                    await asyncio.shield(self._writable)
                answered = self.send(call)
        else:
            answered = self.send(call)
        try:
            await answered
        except asyncio.CancelledError:
            self.abandon(call)
            raise
        return call.outcome()

    def send(self, call: Call[Any]) -> "asyncio.Future[None]":
        """Send a call; returns a future that is done when the call has a reply."""
        self._exchange.ask(call)
        self._flush_soon()
        return self._waiter_of(call)

    async def news(self, call: Call[Any]) -> bool:
        """Wait for replies to a call that was sent; returns False if it has ended."""
        if not call.news and not call.is_settled:
            await self._waiter_of(call)
        return bool(call.news)

    def abandon(self, call: Call[Any]) -> None:
        """Drop a call whose caller stopped waiting."""
        self._exchange.abandon(call)
        if self._exchange.outgoing:
            self._flush_soon()

    def send_oneway(self, message: bytes) -> None:
        """Send a oneway request; ignored without a connection."""
        self._exchange.send_oneway(message)
        self._flush_soon()

    async def close(self) -> None:
        """Close the connection and wait for its end. What cannot be sent within CLOSING_S is dropped."""
        if self._transport is not None:
            self._reason = CLOSED
            self._flush()
            self._transport.close()
        await asyncio.wait([self.lost], timeout=CLOSING_S)
        self.abort()
        await asyncio.shield(self.lost)

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def end_in_child(self) -> None:
        """In a child process: put /dev/null in place of its copy, which the transport may close."""
        self._hang_ups.close()
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                os.dup2(nothing, self._descriptor, inheritable=False)
                os.close(nothing)

    def _waiter_of(self, call: Call[Any]) -> "asyncio.Future[None]":
        call.waiter = self._loop.create_future()
        return cast("asyncio.Future[None]", call.waiter)

    def _flush_soon(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        data = self._exchange.to_send()
        # Nothing is written to a closed peer: that would end the connection before its last replies are read.
        if data and self._transport is not None and self.is_connected:
            self._transport.write(data)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._descriptor = transport.get_extra_info("socket").fileno()
        # No event requested: EPOLLHUP (both directions shut) is always reported.
        self._hang_ups.register(self._descriptor, 0)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Returns the receive buffer: the loop would allocate a larger one for each reply."""
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        """Pass every complete reply to its call."""
        _wake(self._exchange.receive(bytes(self._received[:nbytes])))
        if self._exchange.outgoing:  # releases of what was granted to abandoned calls
            self._flush_soon()
        if self._exchange.broken:
            self._reason = self._exchange.broken
            self.abort()

    def pause_writing(self) -> None:
        """The daemon reads more slowly than we send: the next caller waits."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Continue sending."""
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake all waiting callers."""
        if exc is not None:
            self._reason = (isinstance(exc, OSError) and exc.strerror) or str(exc)
        self._transport = None
        hang_up_watch.forget(self._descriptor)  # before the transport closes it
        self._hang_ups.close()
        self._descriptor = -1
        self.resume_writing()
        _wake(self._exchange.end(self._reason))
        self.lost.set_result(None)


async def connect(path: str, patience_s: float = 0.0) -> socket.socket:
    """Returns a connected socket; patience_s is how long to wait for a daemon that is not running."""
    attempts = connecting(path, patience_s)
    try:
        while True:  # noqa: ASYNC110 - no event says that another process has accepted
            await asyncio.sleep(next(attempts))
    except StopIteration as made:
        connected: socket.socket = made.value
        return connected
    finally:
        attempts.close()


def _wake(calls: Iterable[Call[Any]]) -> None:
    for call in calls:
        if call.waiter is not None and not call.waiter.done():
            call.waiter.set_result(None)
