# SPDX-License-Identifier: GPL-2.0-only
"""One connection to the metrics port: one request, one response, and a clean close.

After the response, input is still read for a moment and ignored: if the connection is closed with unread
bytes, the kernel resets it, and the peer may lose the response.
"""

import asyncio
import time
import zlib
from collections.abc import Iterator
from enum import IntEnum
from http import HTTPStatus
from typing import Protocol, cast

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from bcached.service.logs.log import get_logger
from bcached.service.metrics.probes import Page
from bcached.service.metrics.relay import Relay
from bcached.service.metrics.scrape_request import HEAD_BYTES_MAX, Probe, Refused, Relayed, Wanted, parse

TIMEOUT_S = 10.0  # for a whole connection: the request, the rendering, the peer's reading
LINGER_S = 2.0
LINGER_BYTES_MAX = 1 << 16
END_OF_OPENMETRICS = b"# EOF\n"
GZIP_LEVEL = 3  # a tenth of the size for a third of the time that the default takes
GZIP_WINDOW = 31  # zlib's for the format of gzip

log = get_logger(__name__)


class Stage(IntEnum):
    """The stage of a connection."""

    ASKING = 0
    RENDERING = 1
    ANSWERED = 2


class ConnectionOwner(Protocol):
    """What a connection needs of its server."""

    registry: CollectorRegistry

    def admit(self, scrape: "Scrape") -> None:
        """Register a new connection; another one may be closed for it."""

    def forget(self, scrape: "Scrape") -> None:
        """Remove a closed connection."""

    def render_soon(self, scrape: "Scrape") -> None:
        """Call its advance() repeatedly until that returns True."""

    def page(self, path: str) -> Page:
        """Returns the page at one of PROBES."""

    def path_of_set(self, name: str) -> str:
        """Returns the path of the socket with the metrics of bcached@NAME."""


class Scrape(asyncio.Protocol):
    """The daemon's end of one connection."""

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self._received = bytearray()
        self._ignored_bytes = 0
        self._peer_has_ended = False
        self._request: Wanted | None = None
        self._rendering: Rendering | None = None
        self._relay: Relay | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self.stage = Stage.ASKING
        self.last_active_s = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection; another one may be closed for it."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not derived from it
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.call_later(TIMEOUT_S, self.abort)
        self._owner.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove it from the server."""
        self._deadline.cancel()
        if self._lingering is not None:
            self._lingering.cancel()
        self._rendering = None
        if self._relay is not None:
            self._relay.close()
        self._owner.forget(self)

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Collect the request's head; what follows it is ignored."""
        self.last_active_s = time.monotonic()
        if self.stage != Stage.ASKING:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > LINGER_BYTES_MAX:
                self.abort()
            return
        self._received += data[: HEAD_BYTES_MAX + 4 - len(self._received)]
        request = parse(bytes(self._received))
        if isinstance(request, Refused):
            self._refuse(request)
        elif isinstance(request, Probe):
            status, kind, body = self._owner.page(request.path)
            self._reply(status, body, f"Content-Type: {kind}", head_only=request.head_only)
        elif isinstance(request, Relayed):
            self.stage = Stage.RENDERING
            path = self._owner.path_of_set(request.name)
            self._relay = Relay(path, request.request, self._transport.write, self._relayed)
        elif request is not None:
            self._request = request
            self.stage = Stage.RENDERING
            self._rendering = Rendering(self._owner.registry, request)
            self._owner.render_soon(self)

    def eof_received(self) -> bool:
        """Whether to keep the connection open: the peer may have sent its request and still read."""
        self._peer_has_ended = True
        return self.stage == Stage.RENDERING

    def resume_writing(self) -> None:
        """The peer has read the response."""
        self.last_active_s = time.monotonic()

    def give_way(self) -> None:
        """Close for another connection; a peer that has begun a request gets status 503."""
        if self.stage == Stage.ASKING and self._received:
            self._refuse(Refused(HTTPStatus.SERVICE_UNAVAILABLE, b"too many connections\n"))
            self._transport.close()
        else:
            self.abort()

    # Responding

    def advance(self, seconds: float) -> bool:
        """Render for so many seconds, and respond when all is rendered; returns whether it is done."""
        if self._rendering is None or self._request is None or self._transport.is_closing():
            return True
        it = self._request
        try:
            if not self._rendering.advance(seconds):
                return False
        except Exception as error:  # a collector's bug, or an encoder's
            log.exception("metrics cannot be rendered", encoding=it.kind)
            self._refuse(Refused(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error!r}\n".encode()))
            return True
        body = b"".join(self._rendering.done)
        self._rendering = None
        coding = ["Content-Encoding: gzip"] if it.gzip else []
        headers = [f"Content-Type: {it.kind}", "Vary: Accept-Encoding", *coding]
        self._reply(HTTPStatus.OK, body, *headers, head_only=it.head_only)
        return True

    def _relayed(self, error: str) -> None:
        if error:
            self._refuse(Refused(HTTPStatus.BAD_GATEWAY, f"{error}\n".encode()))
        else:
            self._end()

    def _refuse(self, refusal: Refused) -> None:
        self._reply(refusal.status, refusal.body, *([refusal.header] if refusal.header else []))

    def _reply(self, status: HTTPStatus, body: bytes, *headers: str, head_only: bool = False) -> None:
        head = "\r\n".join(
            [
                f"HTTP/1.1 {status.value} {status.phrase}",
                *headers,
                f"Content-Length: {len(body)}",
                "Connection: close",
                "",
                "",
            ]
        )
        self._transport.write(head.encode() + (b"" if head_only else body))
        self._end()

    def _end(self) -> None:
        """All of the response is written."""
        self.stage = Stage.ANSWERED
        self._received.clear()
        if self._peer_has_ended:
            self._transport.close()
        else:
            self._transport.write_eof()
            self._lingering = self._loop.call_later(LINGER_S, self._transport.close)


class Rendering:
    """Renders the families of one snapshot, a few at a time, and compresses each if that is wanted."""

    def __init__(self, registry: CollectorRegistry, request: Wanted) -> None:
        self.done: list[bytes] = []
        self._families = iter(registry.collect())  # lazy: made from the snapshot one by one
        self._encode = request.encode
        self._end = END_OF_OPENMETRICS if "openmetrics" in request.kind else b""
        self._gzip = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_WINDOW) if request.gzip else None

    def advance(self, seconds: float) -> bool:
        """Render for so many seconds; returns whether all is rendered."""
        until = time.monotonic() + seconds
        for family in self._families:
            self._add(self._encode(OneFamily(family)).removesuffix(END_OF_OPENMETRICS))
            if time.monotonic() > until:
                return False
        self._add(self._end)
        if self._gzip is not None:
            self.done.append(self._gzip.flush())
        return True

    def _add(self, part: bytes) -> None:
        self.done.append(part if self._gzip is None else self._gzip.compress(part))


class OneFamily:
    """A registry of one family, as the encoders take it."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        """Yields the one family."""
        yield self._family
