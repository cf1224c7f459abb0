# SPDX-License-Identifier: GPL-2.0-only
"""Processor time of the daemon for each committed key, at random positions, with many keys in the index.

The client leases whole buckets beforehand and commits from their fronts, as `Cache` does; nothing is written
to them. All threads of the daemon count, and so does what it writes of journal and leaves meanwhile. The last
cases open the set again with less memory than its leaves take.
"""

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from bench.daemon import Daemon, call, daemon, make_image
from bench.requests import EXTENT_SECTORS
from bench.table import Report

COUNT = 1_000_000
BUCKET, BUCKET_SECTORS = "512k", 1024
MORE_BYTES = 4 << 30  # of the image, for nodes and so that nothing is ever short
SLOT_SECTORS = 1 << 17  # a name's range in Cache
POSITIONS = 1 << 44
FILL_MESSAGE = 500
MEASURED = 100_000
TIGHT_MEASURED = 100_000  # twice what waits for leaves at most
TIGHT_BYTES_A_KEY = 11  # 32 MiB for 3 million keys: a third of their leaves
RECEIVE_BYTES = 1 << 18
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Shape:
    """How the keys are sent: how many in a message, how many messages under way, and the conditions."""

    name: str
    keys: int = 64
    depth: int = 4
    connections: int = 1
    versions: bool = False
    if_absent: bool = False
    replaces: bool = False
    again: bool = False  # positions that have keys already
    at_most: float | None = None  # microseconds a key


SHAPES = (
    Shape("messages of 64", at_most=8.0),
    Shape("messages of 64, overwriting", again=True),
    Shape("messages of 64, versions and replaces", versions=True, replaces=True, at_most=8.0),
    Shape("the same, overwriting", versions=True, replaces=True, again=True),
    Shape("messages of 64, if_absent", if_absent=True, at_most=8.0),
    Shape("messages of 256", keys=256),
    Shape("one a message, 64 under way", keys=1, depth=64),
    Shape("64 clients, each waits for one", keys=1, depth=1, connections=64),
)
TIGHT = Shape("messages of 64, a third of the leaves in memory", at_most=100.0)
TIGHT_SHAPES = (
    TIGHT,
    Shape("the same, versions and replaces", versions=True, replaces=True, at_most=100.0),
    Shape("the same, overwriting", versions=True, replaces=True, again=True, at_most=100.0),
    Shape("the same, if_absent", if_absent=True, at_most=100.0),
)


class Committer:
    """A connection that commits keys of buckets it has leased."""

    def __init__(self, path: str, inode: int, positions: Iterator[int], shape: Shape, count: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(120)
        self.socket.connect(path)
        self.inode = inode
        places = self._lease(-(-count // (BUCKET_SECTORS // EXTENT_SECTORS)))
        keys = [self._key(next(positions), *next(places)) for _ in range(count)]
        self.messages = [
            _message(shape, inode, keys[at : at + shape.keys]) for at in range(0, count, shape.keys)
        ]
        self.depth = shape.depth
        self.sent = self.answered = 0

    def _lease(self, buckets: int) -> Iterator[tuple[int, int]]:
        """The sectors of whole buckets, from their fronts, and the gens."""
        requests = b'{"method":"io.bcached.Allocator.AllocateBucket","parameters":{"timeout_ms":60000}}\0'
        pointers = []
        for begin in range(0, buckets, 64):
            part = min(64, buckets - begin)
            self.socket.sendall(requests * part)
            replies = self._replies(part)
            pointers += [json.loads(reply)["parameters"]["key"]["pointers"][0] for reply in replies]
        for pointer in pointers:
            for sector in range(0, BUCKET_SECTORS, EXTENT_SECTORS):
                yield pointer["sector"] + sector, pointer["gen"]

    def _replies(self, count: int) -> list[bytes]:
        received = b""
        while received.count(b"\0") < count:
            received += self.socket.recv(RECEIVE_BYTES)
        return received.split(b"\0")[:count]

    def _key(self, position: int, sector: int, gen: int) -> dict[str, Any]:
        pointer = {"device": 0, "sector": sector, "gen": gen}
        return {
            "inode": self.inode,
            "offset": position * SLOT_SECTORS,
            "sectors": EXTENT_SECTORS,
            "dirty": False,
            "pointers": [pointer],
        }

    @property
    def is_done(self) -> bool:
        return self.answered == len(self.messages)

    def send(self) -> None:
        """Send as many messages as may be under way."""
        until = min(self.answered + self.depth, len(self.messages))
        if until > self.sent:
            self.socket.sendall(b"".join(self.messages[self.sent : until]))
            self.sent = until

    def receive(self) -> None:
        """Count the replies that have come."""
        data = self.socket.recv(RECEIVE_BYTES)
        if not data or b'"error"' in data or b"false" in data:
            raise RuntimeError(f"a bad reply: {data[:300]!r}")
        self.answered += data.count(b"\0")


def _message(shape: Shape, inode: int, keys: list[dict[str, Any]]) -> bytes:
    parameters: dict[str, Any] = {"keys": keys, "durable": False, "timeout_ms": 60000}
    if shape.versions:
        parameters["versions"] = True
    if shape.if_absent:
        parameters["if_absent"] = True
    if shape.replaces:
        parameters["replaces"] = [
            {"inode": inode, "offset": key["offset"], "sectors": SLOT_SECTORS} for key in keys
        ]
    request = {"method": "io.bcached.Allocator.Commit", "parameters": parameters}
    return json.dumps(request, separators=(",", ":")).encode() + b"\0"


def processor_s(server: Daemon) -> float:
    """Seconds of processor that all threads of a daemon have used."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def commit_all(server: Daemon, inode: int, positions: Iterator[int], shape: Shape, count: int) -> float:
    """Microseconds of processor a key, the last journal entry included."""
    part = count // shape.connections // shape.keys * shape.keys
    connections = [Committer(server.path, inode, positions, shape, part) for _ in range(shape.connections)]
    before = processor_s(server)
    for connection in connections:
        connection.send()
    while left := [connection for connection in connections if not connection.is_done]:
        for connection in left:  # in turn: all of them have requests under way
            connection.receive()
        for connection in left:
            connection.send()
    call(server.path, "io.bcached.Allocator.Flush")
    spent = processor_s(server) - before
    for connection in connections:
        connection.socket.close()
    return spent / (part * shape.connections) * 1e6


class Positions:
    """Random slots, and those that were given out before."""

    def __init__(self) -> None:
        self._random = Random(1)
        self._used: list[int] = []

    def of(self, shape: Shape) -> Iterator[int]:
        """As a shape asks for them."""
        return self.again() if shape.again else self.new()

    def new(self) -> Iterator[int]:
        while True:
            self._used.append(self._random.randrange(POSITIONS))
            yield self._used[-1]

    def again(self) -> Iterator[int]:
        while True:
            yield self._random.choice(self._used)


def run(report: Report, folder: Path, count: int = COUNT) -> None:
    """All shapes on one set, then one that has too little memory."""
    more = len(SHAPES) * MEASURED + (1 + len(TIGHT_SHAPES)) * TIGHT_MEASURED
    make_image(folder, BUCKET, (count + more) * EXTENT_SECTORS * 512 + MORE_BYTES)
    positions = Positions()
    found: list[tuple[Shape, float]] = []
    with daemon(folder) as server:
        inode = call(server.path, "io.bcached.Admin.CreateVolume", label="costs")["inode"]
        fill = commit_all(server, inode, positions.new(), Shape("fill", FILL_MESSAGE), count)
        found += [
            (shape, commit_all(server, inode, positions.of(shape), shape, MEASURED)) for shape in SHAPES
        ]
    config = folder / "bcached.toml"
    config.write_text(config.read_text() + f"[index]\nmemory_bytes = {count * TIGHT_BYTES_A_KEY}\n")
    with daemon(folder) as server:
        commit_all(server, inode, positions.new(), TIGHT, TIGHT_MEASURED)  # until leaves are read for them
        for shape in TIGHT_SHAPES:
            found.append((shape, commit_all(server, inode, positions.of(shape), shape, TIGHT_MEASURED)))
    report.heading(f"Processor of the daemon a committed key, {count:,} keys in the index (us)")
    report.table(("", "us a key"), [(f"fill, {FILL_MESSAGE} a message", f"{fill:.1f}")])
    report.table(("", "us a key"), [(shape.name, f"{cost:.1f}") for shape, cost in found])
    for shape, cost in found:
        if shape.at_most is not None:
            report.target(shape.name, "us of processor a key", cost, at_most=shape.at_most)
    report.keep("costs", [asdict(shape) | {"us_a_key": cost} for shape, cost in found])
