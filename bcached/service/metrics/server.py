# SPDX-License-Identifier: GPL-2.0-only
"""Serves /metrics and the pages beside it on the event loop, with as much HTTP as a scrape needs.

A scrape takes its snapshot at once and renders it in slices between which the loop serves requests: rendering
all metrics would hold it for several milliseconds. One slice runs in each iteration of the loop, however many
scrapes there are. The bytes and the time of a connection are bounded, and so is the number of connections.
"""

import asyncio
import socket
from collections import deque

from prometheus_client import CollectorRegistry

from bcached.service.listening import BACKLOG
from bcached.service.metrics.probes import Page, Probes
from bcached.service.metrics.scrape import Scrape, Stage

CONNECTIONS_MAX = 32
SLICE_S = 0.001


class MetricsServer:
    """Serves listening sockets, whose addresses are in `addresses`."""

    def __init__(
        self, registry: CollectorRegistry, probes: Probes | None = None, runtime_directory: str = ""
    ) -> None:
        self.registry = registry
        self._runtime_directory = runtime_directory
        self._probes = probes or Probes()
        self.addresses: list[str] = []
        self._servers: list[asyncio.Server] = []
        self._connections: set[Scrape] = set()
        self._to_render: deque[Scrape] = deque()

    async def serve(self, listeners: list[socket.socket]) -> None:
        """Serve these listening sockets, and own them from here on."""
        loop = asyncio.get_running_loop()
        for listener in listeners:
            create = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
            self._add(await create(self._connected, sock=listener, backlog=BACKLOG))

    async def close(self) -> None:
        """Stop listening and close all connections."""
        for connection in [*self._connections]:
            connection.abort()
        for server in self._servers:
            server.close()
            await server.wait_closed()

    # For connections

    def admit(self, scrape: Scrape) -> None:
        """Register a new connection; above the limit the one that was idle longest is closed."""
        if len(self._connections) >= CONNECTIONS_MAX:
            idlest = min(self._connections, key=lambda it: (it.stage == Stage.RENDERING, it.last_active_s))
            self._connections.remove(idlest)
            idlest.give_way()
        self._connections.add(scrape)

    def forget(self, scrape: Scrape) -> None:
        """Remove a closed connection."""
        self._connections.discard(scrape)

    def render_soon(self, scrape: Scrape) -> None:
        """Queue it for rendering."""
        self._to_render.append(scrape)
        if len(self._to_render) == 1:
            asyncio.get_running_loop().call_soon(self._render)

    def page(self, path: str) -> Page:
        """Returns the page at a path beside the metrics."""
        return self._probes.page(path)

    def path_of_set(self, name: str) -> str:
        """Returns the path of the socket with the metrics of bcached@NAME, as its unit names it."""
        return f"{self._runtime_directory}-{name}/metrics"

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
        self.addresses += [address_text(bound.getsockname()) for bound in server.sockets]


def address_text(address: object) -> str:
    """Returns an address in the form of the configuration."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"
    return f"unix:{address}"
