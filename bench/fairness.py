# SPDX-License-Identifier: GPL-2.0-only
"""What one client notes of another that takes all it can get: the time of its answers before and meanwhile.

The honest client sends one request after the other; the greedy one is a process of 15 connections, or
hundreds, under the same user or another one (which takes root). The daemon has one core, both clients the
other one, where the honest one goes first.
"""

import json
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from bench.daemon import call, daemon, make_image
from bench.peers import CLIENT_CORE, SERVER_CORE
from bench.table import Report

SET_BYTES = 1 << 30
CALLS = 2000
SECONDS_MAX = 8.0
OTHER = "nobody"
P99_MS_MAX = 5.0


@dataclass(frozen=True)
class Greed:
    """What the greedy client does."""

    name: str
    connections: int
    depth: int
    requests: bytes


def message(method: str, **parameters: object) -> bytes:
    return json.dumps({"method": f"io.bcached.{method}", "parameters": parameters}).encode() + b"\0"


def lookup(number: int) -> dict[str, object]:
    return {"inode": 0, "offset": number % 256 * 8, "sectors": 8}


GREED = (
    Greed(
        "2,000 Lookups under way",
        15,
        2000,
        b"".join(message("Allocator.Lookup", **lookup(n)) for n in range(256)),
    ),
    Greed(
        "64 LookupMany of 1,000 under way",
        15,
        64,
        message("Allocator.LookupMany", requests=[lookup(number) for number in range(1000)]),
    ),
    Greed("1 Status under way", 300, 1, message("Admin.Status")),
    Greed("1,000 refused requests under way", 15, 1000, message("Allocator.Lookup", inode=0)),
)


def run(report: Report, folder: Path) -> None:
    """Each kind of greed, by the same user and by another."""
    folder.chmod(0o755)
    make_image(folder, "512k", SET_BYTES)
    users = [None, OTHER] if os.geteuid() == 0 else [None]
    if len(users) == 1:
        report.skip("not root: only the same user's greed is measured")
    rows, kept = [], []
    with environment(), daemon(folder) as process:
        os.sched_setaffinity(process.process.pid, {SERVER_CORE})
        store(process.path)
        for greed in GREED:
            for user in users:
                before = times(process.path)
                with greedy(process.path, greed, user):
                    during = times(process.path)
                who = "the same user" if user is None else "another user"
                rows.append((f"{greed.connections} x {greed.name}", who, *shown(before), *shown(during)))
                kept.append({"greed": greed.name, "user": who, "before_s": before, "during_s": during})
                if user is not None:
                    report.target(greed.name, "p99 ms", at(during, 99), at_most=P99_MS_MAX)
    report.heading("Lookup of one client, one after the other, beside a greedy one: milliseconds")
    columns = ("greedy client", "by", "p50 before", "p99 before", "p50 meanwhile", "p99 meanwhile")
    report.table(columns, rows)
    report.keep("fairness", kept)


@contextmanager
def environment() -> Iterator[None]:
    """Both users may do all, and the socket lets them in."""
    names = json.dumps([pwd.getpwuid(os.geteuid()).pw_name, OTHER])
    settings = {"BCACHED__ACCESS__ADMIN": names, "BCACHED__SOCKET__MODE": "0666"}
    os.environ |= settings
    try:
        yield
    finally:
        for name in settings:
            del os.environ[name]


def store(path: str) -> None:
    """A volume with 256 extents."""
    call(path, "io.bcached.Admin.CreateVolume", label="fairness")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        extents = [lookup(number) for number in range(256)]
        keys = ask(connection, message("Allocator.AllocateMany", requests=extents))["keys"]
        ask(connection, message("Allocator.Commit", keys=[key for one in keys for key in one]))


def ask(connection: socket.socket, request: bytes) -> dict[str, list[list[object]]]:
    connection.sendall(request)
    reply = b""
    while not reply.endswith(b"\0"):
        reply += connection.recv(1 << 20)
    answer: dict[str, list[list[object]]] = json.loads(reply[:-1])["parameters"]
    return answer


def times(path: str) -> list[float]:
    """Seconds of each of some look-ups, or of fewer if they take long; sorted."""
    os.sched_setaffinity(0, {CLIENT_CORE})
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        took: list[float] = []
        ends = perf_counter() + SECONDS_MAX
        while len(took) < CALLS and (began := perf_counter()) < ends:
            ask(connection, message("Allocator.Lookup", **lookup(len(took))))
            took.append(perf_counter() - began)
    return sorted(took)


def at(took: list[float], percent: int) -> float:
    return took[len(took) * percent // 100] * 1e3


def shown(took: list[float]) -> tuple[str, str]:
    return f"{at(took, 50):.2f}", f"{at(took, 99):.2f}"


@contextmanager
def greedy(path: str, greed: Greed, user: str | None) -> Iterator[None]:
    """The greedy client, from when it got its first replies."""
    command = [sys.executable, "-m", "bench.greedy", path, str(greed.connections), str(greed.depth)]
    if user is not None:
        command.append(str(pwd.getpwnam(user).pw_uid))
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.nice(10),  # noqa: PLW1509 (there are no threads)
    )
    try:
        os.sched_setaffinity(process.pid, {CLIENT_CORE})
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(greed.requests)
        process.stdin.close()
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()
