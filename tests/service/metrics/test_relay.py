# SPDX-License-Identifier: GPL-2.0-only
"""One daemon answers for the other sets of its host, whose metrics are on Unix sockets."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from bcached.service.listening import bind_metrics
from bcached.service.metrics.server import MetricsServer
from instruments.time.patience import patience


def named(name: str) -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge(name, "text", registry=registry)
    return registry


@asynccontextmanager
async def serving(name: str, listen: str, runtime_directory: str = "") -> AsyncIterator[MetricsServer]:
    server = MetricsServer(named(name), runtime_directory=runtime_directory)
    await server.serve(bind_metrics(listen))
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def two_sets(folder: Path) -> AsyncIterator[str]:
    """The daemon without a name, whose socket it yields, and that of the set named fast."""
    (folder / "bcached-fast").mkdir()
    socket = folder / "m"
    async with (
        serving("unnamed", f"unix:{socket}", str(folder / "bcached")),
        serving("fast", f"unix:{folder}/bcached-fast/metrics"),
    ):
        yield str(socket)


async def ask(path: str, target: str, *fields: str, method: str = "GET") -> tuple[str, bytes]:
    """The first line and the body of a response."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write("\r\n".join([f"{method} {target} HTTP/1.1", *fields, "", ""]).encode())
        async with patience(60):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return head.split(b"\r\n")[0].decode(), body
    finally:
        writer.close()


async def test_the_metrics_of_a_named_set_are_passed_on(tmp_path: Path) -> None:
    async with two_sets(tmp_path) as path:
        status, body = await ask(path, "/sets/fast/metrics")
        assert (status, b"\nfast 0.0\n" in body, b"unnamed" in body) == ("HTTP/1.1 200 OK", True, False)
        _, packed = await ask(path, "/sets/fast/metrics?x=y", "Accept-Encoding: gzip")
        assert gzip.decompress(packed) == body
        assert await ask(path, "/sets/fast/metrics", method="HEAD") == ("HTTP/1.1 200 OK", b"")
        assert b"unnamed 0.0" in (await ask(path, "/metrics"))[1]


async def test_a_set_that_is_not_served_is_a_bad_gateway(tmp_path: Path) -> None:
    async with two_sets(tmp_path) as path:
        status, body = await ask(path, "/sets/slow/metrics")
        assert status == "HTTP/1.1 502 Bad Gateway"
        assert body == f"{tmp_path}/bcached-slow/metrics: No such file or directory\n".encode()


@pytest.mark.parametrize("name", ["", "..", "../fast", "a/b", ".fast", "%2e", "x" * 65, "\u00e9"])
async def test_only_names_of_sets_are_looked_for(name: str, tmp_path: Path) -> None:
    async with two_sets(tmp_path) as path:
        assert (await ask(path, f"/sets/{name}/metrics"))[0] == "HTTP/1.1 404 Not Found"


async def test_one_that_ends_without_an_answer_is_a_bad_gateway_and_a_scraper_need_not_wait(
    tmp_path: Path,
) -> None:
    (tmp_path / "bcached-odd").mkdir()
    connected = asyncio.Semaphore(0)
    peers: list[asyncio.StreamWriter] = []

    def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer)
        connected.release()

    odd = await asyncio.start_unix_server(answer, tmp_path / "bcached-odd/metrics")
    async with serving("unnamed", f"unix:{tmp_path}/m", str(tmp_path / "bcached")) as server, odd:
        asking = asyncio.ensure_future(ask(f"{tmp_path}/m", "/sets/odd/metrics"))
        await connected.acquire()
        peers[0].close()
        assert (await asking)[0] == "HTTP/1.1 502 Bad Gateway"
        asking = asyncio.ensure_future(ask(f"{tmp_path}/m", "/sets/odd/metrics"))
        await connected.acquire()
        asking.cancel()
        async with patience(60):
            while server._connections:
                await asyncio.sleep(0.001)
        peers[1].close()
