"""Serves GET /metrics on the event loop: as much HTTP as a scrape needs, and no more.

A scrape takes its snapshot in one go and renders it in slices between which the loop serves others, for the
rendering of all metrics would hold it for several milliseconds; one slice a turn, however many scrapes there
are. Every connection is bounded: in what it may send, in how long it may take, and in how many there may be.
"""

import asyncio
import os
import socket
from collections import deque
from contextlib import suppress

from prometheus_client import CollectorRegistry

from bcached.errors import ConfigError
from bcached.service.listening import bind_unix
from bcached.service.scrape import Scrape, Stage

CONNECTIONS_MAX = 32
SLICE_S = 0.001


class MetricsServer:
    """Listens where it is told; addresses says where that is."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.addresses: list[str] = []
        self._servers: list[asyncio.Server] = []
        self._own_path: str | None = None
        self._connections: set[Scrape] = set()
        self._to_render: deque[Scrape] = deque()

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

    # What connections call

    def admit(self, scrape: Scrape) -> None:
        """Take note of a new connection; beyond the bound the one that was idle longest gives way."""
        if len(self._connections) >= CONNECTIONS_MAX:
            idlest = min(self._connections, key=lambda it: (it.stage == Stage.RENDERING, it.last_active_s))
            self._connections.remove(idlest)
            idlest.give_way()
        self._connections.add(scrape)

    def forget(self, scrape: Scrape) -> None:
        """Note that a connection is gone."""
        self._connections.discard(scrape)

    def render_soon(self, scrape: Scrape) -> None:
        """Render it, in its turn."""
        self._to_render.append(scrape)
        if len(self._to_render) == 1:
            asyncio.get_running_loop().call_soon(self._render)

    def _render(self) -> None:
        scrape = self._to_render[0]
        if scrape.advance(SLICE_S):
            self._to_render.popleft()
        else:
            self._to_render.rotate(-1)
        if self._to_render:
            asyncio.get_running_loop().call_soon(self._render)

    def _connected(self) -> Scrape:
        return Scrape(self)

    def _add(self, server: asyncio.Server) -> None:
        self._servers.append(server)
        self.addresses += [told(bound.getsockname()) for bound in server.sockets]


def told(address: object) -> str:
    """An address as one would type it."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"
    return f"unix:{address}"
