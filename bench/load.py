# SPDX-License-Identifier: GPL-2.0-only
"""The load: one raw client for all peers, a process of its own for each measurement.

It knows no protocol. It sends requests made beforehand, keeps `depth` of them under way on each of its
connections, and counts the replies by their terminator (NUL for varlink, CRLF for Redis). It costs the same
for all peers, and little: one recv, one count and one send for as many replies as came together. What the
replies said is looked at when the clock has stopped: a peer that answers quickly with errors is no peer.

Commits name what was allocated, so a load of them allocates it all before the clock starts, each connection
its own; that is all of our protocol that is known here.

    python -m bench.load < specification.json      prints {"replies": ..., "elapsed_s": ...}
"""

import json
import os
import selectors
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from itertools import accumulate
from random import Random
from time import perf_counter

from bench.requests import EXTENT_SECTORS

RECEIVE_BYTES = 1 << 16
ALLOCATED_AT_ONCE = 500


@dataclass(frozen=True)
class Load:
    """What to send, how much at once, and when to stop.

    A request is `prefix`, a number, `suffix`; the number begins at `first` (and has as many digits all the
    time) and grows by `step` with each request, so extents follow each other as in a file that is written.
    `{inode}` in the prefix becomes the connection's own of `inodes`.
    """

    path: str
    prefix: str
    suffix: str
    terminator: str
    bad: str  # what a reply must not contain
    connections: int
    depth: int
    requests: int  # in all
    limit_s: float
    core: int
    step: int = 8
    first: int = 10_000_000
    numbered: bool = True
    inodes: tuple[int, ...] = tuple(range(10, 74))
    shuffled: bool = False  # the numbers in no order, the same each time
    commits: bool = False  # a request is a commit of the extent at its number


@dataclass(frozen=True)
class Measured:
    """How many replies came in which time."""

    replies: int
    elapsed_s: float

    @property
    def rate(self) -> float:
        """Replies a second."""
        return self.replies / self.elapsed_s


class Connection:
    """One socket and how far it is with its requests."""

    def __init__(self, load: Load, number: int) -> None:
        self.requests = load.requests // load.connections
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(load.limit_s * 4 + 10)
        self.socket.connect(load.path)
        inode = load.inodes[number % len(load.inodes)]
        numbers = [load.first + load.step * index for index in range(self.requests)]
        if load.shuffled:
            Random(number).shuffle(numbers)
        if load.commits:
            texts = self._commits(inode, numbers)
        else:
            prefix = load.prefix.replace("{inode}", str(inode))
            texts = [f"{prefix}{it if load.numbered else ''}{load.suffix}".encode() for it in numbers]
        self.bounds = list(accumulate(map(len, texts), initial=0))
        self.buffer = memoryview(b"".join(texts))
        self.terminator = load.terminator.encode()
        self.sent = self.answered = 0
        self.received: list[bytes] = []
        self.half = b""

    def send(self, count: int) -> None:
        """Send the next requests, at most `count`."""
        until = min(self.sent + count, self.requests)
        self.socket.sendall(self.buffer[self.bounds[self.sent] : self.bounds[until]])
        self.sent = until

    def _commits(self, inode: int, offsets: list[int]) -> list[bytes]:
        """Allocate an extent at each offset; the commits of them."""
        texts = []
        for begin in range(0, len(offsets), ALLOCATED_AT_ONCE):
            asked = [
                {"inode": inode, "offset": offset, "sectors": EXTENT_SECTORS}
                for offset in offsets[begin : begin + ALLOCATED_AT_ONCE]
            ]
            call = {"method": "io.bcached.Allocator.AllocateMany", "parameters": {"requests": asked}}
            self.socket.sendall(json.dumps(call).encode() + b"\0")
            reply = b""
            while not reply.endswith(b"\0"):
                reply += self.socket.recv(RECEIVE_BYTES)
            for keys in json.loads(reply[:-1])["parameters"]["keys"]:
                commit = {"method": "io.bcached.Allocator.Commit", "parameters": {"keys": keys}}
                texts.append(json.dumps(commit, separators=(",", ":")).encode() + b"\0")
        return texts

    def receive(self) -> int:
        """Take what has come; how many replies ended in it."""
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the peer closed the connection")
        self.received.append(data)
        if (cut := len(self.terminator) - 1) == 0:
            count = data.count(self.terminator)
        else:  # which may have come in parts
            data = self.half + data
            count = data.count(self.terminator)
            self.half = data[-cut:]
        self.answered += count
        return count


def run(load: Load) -> Measured:
    """Do it, in this process, on its core."""
    os.sched_setaffinity(0, {load.core})
    connections = [Connection(load, number) for number in range(load.connections)]
    drive = _drive_one if len(connections) == 1 else _drive_many
    started = perf_counter()
    drive(connections, load.depth, started + load.limit_s)
    elapsed_s = perf_counter() - started
    for connection in connections:
        answers = b"".join(connection.received)
        if (at := answers.find(load.bad.encode())) >= 0:
            raise RuntimeError(f"a bad reply: {answers[max(at - 50, 0) : at + 200]!r}")
        connection.socket.close()
    return Measured(sum(connection.answered for connection in connections), elapsed_s)


def _drive_one(connections: list[Connection], depth: int, until: float) -> None:
    (connection,) = connections
    connection.send(depth)
    while connection.answered < connection.sent:
        count = connection.receive()
        if perf_counter() < until:
            connection.send(count)


def _drive_many(connections: list[Connection], depth: int, until: float) -> None:
    with selectors.EpollSelector() as selector:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(depth)
        open_count = len(connections)
        while open_count:
            for entry, _ in selector.select():
                connection = entry.data
                count = connection.receive()
                if perf_counter() < until:
                    connection.send(count)
                open_count -= connection.answered == connection.sent


def measure(load: Load) -> Measured:
    """The same in a process that ends with it: what it held is then free without any grace."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=json.dumps(asdict(load)),
        capture_output=True,
        text=True,
        check=False,
        timeout=load.limit_s * 5 + 60,
    )
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip().splitlines()[-1]}")
    return Measured(**json.loads(done.stdout))


if __name__ == "__main__":
    json.dump(asdict(run(Load(**json.load(sys.stdin)))), sys.stdout)
