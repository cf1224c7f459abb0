"""Serves GET /metrics on the event loop: as much HTTP as a scrape needs, and no more.

A scrape takes its snapshot in one go and renders it in slices between which the loop serves others, for the
rendering of all metrics would hold it for several milliseconds. Every connection is bounded: in what it may
send, in how long it may take, and in how many there may be.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from bcached.errors import ConfigError
from bcached.service.listening import bind_unix

REQUEST_BYTES_MAX = 8192
CONNECTIONS_MAX = 32
TIMEOUT_S = 10.0  # for all of a connection: the request, the rendering, the reader at the other end
SLICE_S = 0.001
END_OF_OPENMETRICS = b"# EOF\n"


class MetricsServer:
    """Listens where it is told; addresses says where that is."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.addresses: list[str] = []
        self._servers: list[asyncio.Server] = []
        self._own_path: str | None = None
        self._connections: set[Scrape] = set()

    async def listen(self, where: str, inherited: list[socket.socket]) -> None:
        """Listen on the sockets systemd passed, else on "host:port" or "unix:/path"; "" is nowhere."""
        loop = asyncio.get_running_loop()
        if inherited:
            for passed in inherited:
                self._add(await loop.create_server(self._connected, sock=passed))
        elif where.startswith("unix:"):
            self._own_path = where.removeprefix("unix:")
            bound = bind_unix(self._own_path, 0o660)
            self._add(await loop.create_unix_server(self._connected, sock=bound))
        elif where:
            host, _, port = where.rpartition(":")
            try:
                self._add(await loop.create_server(self._connected, host.strip("[]"), int(port)))
            except OSError as error:
                raise ConfigError(
                    f"metrics.listen: cannot listen on {where}: {error.strerror or error}"
                ) from None

    async def close(self) -> None:
        """Stop listening and drop whoever is connected."""
        for connection in [*self._connections]:
            connection.abort()
        if self._own_path is not None and self._servers:
            with suppress(OSError):
                os.unlink(self._own_path)
        for server in self._servers:
            server.close()
            await server.wait_closed()

    def _connected(self) -> "Scrape":
        return Scrape(self.registry, self._connections)

    def _add(self, server: asyncio.Server) -> None:
        self._servers.append(server)
        self.addresses += [told(bound.getsockname()) for bound in server.sockets]


def told(address: object) -> str:
    """An address as one would type it."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"
    return f"unix:{address}"


class Scrape(asyncio.Protocol):
    """One connection, one request, one answer."""

    def __init__(self, registry: CollectorRegistry, connections: "set[Scrape]") -> None:
        self._registry, self._connections = registry, connections
        self._received = bytearray()
        self._answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless there are too many."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not derived from it
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.call_later(TIMEOUT_S, self.abort)
        if len(self._connections) >= CONNECTIONS_MAX:
            self.abort()
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._deadline.cancel()
        self._connections.discard(self)

    def abort(self) -> None:
        """Drop it."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Gather the request's head; what comes after it does not matter."""
        if self._answering:
            return
        self._received += data
        if b"\r\n\r\n" in self._received or b"\n\n" in self._received:
            self._answering = True
            self._answer(bytes(self._received).decode("latin-1"))
        elif len(self._received) > REQUEST_BYTES_MAX:
            self._answering = True
            self._reply(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def eof_received(self) -> bool:
        """Whether to stay, for it may have asked already and listen still."""
        return self._answering

    def _answer(self, head: str) -> None:
        first, *lines = head.splitlines()
        words = first.split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            self._reply(HTTPStatus.BAD_REQUEST)
        elif words[1].partition("?")[0] != "/metrics":
            self._reply(HTTPStatus.NOT_FOUND, b"the metrics are at /metrics\n")
        elif words[0] not in ("GET", "HEAD"):
            self._reply(HTTPStatus.METHOD_NOT_ALLOWED, b"", "Allow: GET, HEAD")
        else:
            accepts = [line.partition(":")[2] for line in lines if line.lower().startswith("accept:")]
            encode, kind = choose_encoder(",".join(accepts))
            rendering = Rendering(self._registry, encode)
            self._render(rendering, kind, head_only=words[0] == "HEAD")

    def _render(self, rendering: "Rendering", kind: str, head_only: bool) -> None:
        if self._transport.is_closing():
            return
        if not rendering.advance(SLICE_S):
            self._loop.call_soon(self._render, rendering, kind, head_only)
            return
        body = b"".join(rendering.done) + (END_OF_OPENMETRICS if "openmetrics" in kind else b"")
        self._reply(HTTPStatus.OK, body, f"Content-Type: {kind}", head_only=head_only)

    def _reply(self, status: HTTPStatus, body: bytes = b"", *headers: str, head_only: bool = False) -> None:
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
        self._transport.close()


class Rendering:
    """The families of one instant on their way to bytes, a few at a time."""

    def __init__(self, registry: CollectorRegistry, encode: Callable[[Any], bytes]) -> None:
        self.done: list[bytes] = []
        self._families = iter(registry.collect())  # lazy: made from the snapshot one by one
        self._encode = encode

    def advance(self, seconds: float) -> bool:
        """Render for so long; True once all is done."""
        until = time.monotonic() + seconds
        for family in self._families:
            self.done.append(self._encode(OneFamily(family)).removesuffix(END_OF_OPENMETRICS))
            if time.monotonic() > until:
                return False
        return True


class OneFamily:
    """What an encoder takes for a registry: something that can be collected."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        """The one family."""
        yield self._family
