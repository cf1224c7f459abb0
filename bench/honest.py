# SPDX-License-Identifier: GPL-2.0-only
"""What an honest client does beside a greedy one, one call after the other, and how long each took."""

import json
import socket
from collections.abc import Callable
from time import perf_counter

SECONDS_MAX = 5.0
CALLS = 2000

Replies = dict[str, list[list[object]]]


def message(method: str, **parameters: object) -> bytes:
    """A request."""
    return json.dumps({"method": f"io.bcached.{method}", "parameters": parameters}).encode() + b"\0"


def lookup(number: int) -> dict[str, object]:
    """The range of one of 256 extents that are stored."""
    return {"inode": 0, "offset": number % 256 * 8, "sectors": 8}


def ask(connection: socket.socket, request: bytes) -> Replies:
    """The results of one request. Raises RuntimeError for an error."""
    connection.sendall(request)
    reply = b""
    while not reply.endswith(b"\0"):
        more = connection.recv(1 << 20)
        if not more:
            raise RuntimeError("the daemon closed the connection of the honest client")
        reply += more
    document = json.loads(reply[:-1])
    if "error" in document:
        raise RuntimeError(f"the honest client was refused: {document}")
    answer: Replies = document["parameters"]
    return answer


def timed(call: Callable[[int], object]) -> list[float]:
    """Seconds of each of some calls, or of fewer if they take long; sorted."""
    took: list[float] = []
    ends = perf_counter() + SECONDS_MAX
    while len(took) < CALLS and (began := perf_counter()) < ends:
        call(len(took))
        took.append(perf_counter() - began)
    return sorted(took)


def lookups(path: str, _: str) -> list[float]:
    """Look-ups."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        return timed(lambda number: ask(connection, message("Allocator.Lookup", **lookup(number))))


def buckets(path: str, _: str) -> list[float]:
    """A bucket, taken and freed."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)

        def take(_: int) -> None:
            key = ask(connection, message("Allocator.AllocateBucket", timeout_ms=60_000))["key"]
            ask(connection, message("Allocator.FreeBucket", key=key))

        return timed(take)


def scrapes(_: str, metrics_path: str) -> list[float]:
    """Scrapes, each on a connection of its own."""

    def scrape(_: int) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(metrics_path)
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            head = connection.recv(1 << 16)
            if b" 200 " not in head[:20]:
                raise RuntimeError(f"the scrape was refused: {head[:80]!r}")
            while connection.recv(1 << 16):
                pass

    return timed(scrape)
