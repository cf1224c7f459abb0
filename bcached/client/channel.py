"""The connection under a client: requests go out, answers come back in their order.

Requests made in the same turn of the loop go out in one write, so pipelining is nothing but asking several
things before awaiting the first answer.
"""

import asyncio
import select
from collections import deque
from collections.abc import Callable
from typing import cast

import msgspec

from bcached.client.connecting import connect
from bcached.client.refusals import refusal_from
from bcached.errors import ConnectionLost, RequestError
from bcached.wire.codec import REPLY_BYTES_MAX, decode_answer, encode_request
from bcached.wire.framing import Frames
from bcached.wire.methods import Request

CLOSING_S = 1.0  # how long a daemon may take to read what it was told last

Answered = Callable[[bytes], None]


class Call:
    """A request that is waiting: its future, and who hears of further answers or of one nobody awaits."""

    __slots__ = ("continued", "future", "orphaned")

    def __init__(
        self, future: "asyncio.Future[bytes]", continued: Answered | None, orphaned: Answered | None
    ) -> None:
        self.future = future
        self.continued = continued
        self.orphaned = orphaned


class Channel(asyncio.Protocol):
    """The client's end of one connection; `lost` is done, with nothing in it, once it is gone."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._reason = "closed by the daemon"
        self._transport: asyncio.Transport | None = None
        self._frames = Frames(REPLY_BYTES_MAX)
        self._calls: deque[Call] = deque()
        self._outgoing: list[bytes] = []
        self._writable: asyncio.Future[None] | None = None
        self._turn = asyncio.Lock()  # of those who wait for that
        self._poll = select.poll()

    @classmethod
    async def open(cls, path: str, patience_s: float = 0.0) -> "Channel":
        """Connect; ConnectionLost if no daemon is there, nor comes in so long."""
        connected = await connect(path, patience_s)
        channel = cls(path)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=connected)
        except OSError as error:
            connected.close()
            raise ConnectionLost(path, error.strerror or str(error)) from None
        return channel

    @property
    def stands(self) -> bool:
        """Whether the connection is there: the kernel knows, even if the loop has not run for a while."""
        return self._transport is not None and not self._poll.poll(0)

    async def ask(
        self, request: Request, continued: Answered | None = None, orphaned: Answered | None = None
    ) -> bytes:
        """The answer's parameters, or its error raised.

        continued hears the parameters of every answer before the last. orphaned hears of the answer if the
        caller stopped waiting for it: what it grants is not to be lost.
        """
        if self._writable is not None or self._turn.locked():
            async with self._turn:  # or who asks when there is room again would overtake those who wait
                while self._writable is not None:
                    await asyncio.shield(self._writable)
                answer = self.send(request, continued, orphaned)
        else:
            answer = self.send(request, continued, orphaned)
        try:
            return await answer
        except asyncio.CancelledError:
            if orphaned is not None and not answer.cancelled() and answer.exception() is None:
                orphaned(answer.result())  # it came in the moment its caller stopped waiting
            raise

    def send(
        self, request: Request, continued: Answered | None = None, orphaned: Answered | None = None
    ) -> "asyncio.Future[bytes]":
        """Send a request; a future of the answer's parameters."""
        message = encode_request(request)  # first: for what cannot be said no answer will come
        future: asyncio.Future[bytes] = self._loop.create_future()
        if self._transport is None:
            future.set_exception(ConnectionLost(self.path, self._reason))
            return future
        self._calls.append(Call(future, continued, orphaned))
        self._write_soon(message)
        return future

    def tell(self, request: Request) -> None:
        """Send a request that is not answered (oneway); without a connection there is nobody to tell."""
        if self._transport is not None:
            self._write_soon(encode_request(request))

    def _write_soon(self, message: bytes) -> None:
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(message)

    async def close(self) -> None:
        """End the connection; over when it is gone. What cannot be sent soon is not."""
        if self._transport is not None:
            self._reason = "closed by us"
            self._flush()
            self._transport.close()
        await asyncio.wait([self.lost], timeout=CLOSING_S)
        self.abort()
        await asyncio.shield(self.lost)

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        # To one who has gone nothing is written: that would end us before we have read what it said last.
        if self._outgoing and self._transport is not None and self.stands:
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        # No event asked for: what is always told is that both ends are shut.
        self._poll.register(transport.get_extra_info("socket").fileno(), 0)

    def data_received(self, data: bytes) -> None:
        """Give every whole answer to the call it belongs to."""
        try:
            for message in self._frames.feed(data).split(b"\0")[:-1]:
                self._take(message)
            if self._frames.overrun:
                self._reason = f"answer of more than {REPLY_BYTES_MAX} bytes"
                self.abort()
        except msgspec.DecodeError as error:
            self._reason = f"answer is not varlink: {error}"
            self.abort()

    def pause_writing(self) -> None:
        """The daemon reads slower than we ask: whoever asks next waits."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Go on asking."""
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who still waits."""
        if exc is not None:
            self._reason = (isinstance(exc, OSError) and exc.strerror) or str(exc)
        self._transport = None
        self.resume_writing()
        for call in self._calls:
            if not call.future.done():
                call.future.set_exception(ConnectionLost(self.path, self._reason))
        self._calls.clear()
        self.lost.set_result(None)

    def _take(self, message: bytes) -> None:
        answer = decode_answer(message)
        error = refusal_from(answer.error, bytes(answer.parameters)) if answer.error else None
        if not self._calls:  # the daemon speaks first only to say why it will not serve us
            self._reason = str(error) if error else "answer to nothing"
            self.abort()
            return
        call = self._calls[0]
        if answer.continues:
            if call.continued is not None:
                call.continued(bytes(answer.parameters))
            return
        self._calls.popleft()
        self._settle(call, bytes(answer.parameters), error)

    def _settle(self, call: Call, parameters: bytes, error: RequestError | None) -> None:
        if call.future.done():
            if error is None and call.orphaned is not None:
                call.orphaned(parameters)
        elif error is not None:
            call.future.set_exception(error)
        else:
            call.future.set_result(parameters)
