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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.daemon import call, daemon, make_image
from bench.honest import ask, buckets, lookup, lookups, message, scrapes
from bench.peers import CLIENT_CORE, SERVER_CORE
from bench.table import Report

SET_BYTES = 320 << 20  # 640 buckets
PINNED_FROM = 1 << 20  # the first sector of the data that is there to be pinned
BUCKET_SECTORS = 1024
OTHER = "nobody"
P99_MS_MAX = 5.0
TAKEN_BACK_MS_MAX = 13_000.0  # the patience, then the grace of restart_grace_s: the greedy process still runs
SCRAPE_MS_MAX = 100.0
FOREVER_MS = 300_000
HALF_SENT = b"GET /metrics HTTP/1.1\r\nX-Never: \0"


@dataclass(frozen=True)
class Greed:
    """What the greedy client does, and what of the honest one is measured meanwhile.

    begin: how many replies each connection has had when the measurement begins. others_only: by another user
    only, since a user is not protected from itself. on_metrics: it scrapes. p99_ms_max: the target.
    """

    name: str
    connections: int
    depth: int
    requests: bytes
    honest: Callable[[str, str], list[float]] = lookups
    begin: int = 1
    others_only: bool = False
    on_metrics: bool = False
    p99_ms_max: float = P99_MS_MAX


TAKE = message("Allocator.AllocateBucket", timeout_ms=FOREVER_MS)
PINS = b"".join(
    message(
        "Allocator.Lookup", inode=0, offset=PINNED_FROM + n * BUCKET_SECTORS, sectors=BUCKET_SECTORS, pin=True
    )
    for n in range(500)
)
WATCH = message("Monitor.Watch", interval_ms=100).replace(b'{"m', b'{"more": true, "m', 1)
NEVER = 1 << 40  # replies: it begins when its time is up
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
    Greed(
        "buckets held, 1 waited for",
        15,
        1,
        TAKE,
        buckets,
        begin=NEVER,
        others_only=True,
        p99_ms_max=TAKEN_BACK_MS_MAX,
    ),
    Greed("300 waiting requests", 15, 300, TAKE, begin=NEVER, others_only=True),
    Greed(
        "300 waiting requests, beside one that waits",
        15,
        300,
        TAKE,
        buckets,
        begin=NEVER,
        others_only=True,
        p99_ms_max=TAKEN_BACK_MS_MAX,
    ),
    Greed("pins of everything", 15, 16, PINS, buckets, begin=500, others_only=True),
    Greed("a watcher", 15, 1, WATCH),
    Greed("a half-sent scrape, beside look-ups", 15, 1, HALF_SENT, begin=NEVER, on_metrics=True),
    Greed(
        "a half-sent scrape, beside scrapes",
        15,
        1,
        HALF_SENT,
        scrapes,
        begin=NEVER,
        on_metrics=True,
        p99_ms_max=SCRAPE_MS_MAX,
    ),
)


def run(report: Report, folder: Path) -> None:
    """Each kind of greed, by the same user and by another."""
    folder.chmod(0o755)
    make_image(folder, "512k", SET_BYTES)
    users = [None, OTHER] if os.geteuid() == 0 else [None]
    if len(users) == 1:
        report.skip("not root: only the same user's greed is measured")
    rows, kept = [], []
    metrics = str(folder / "metrics.sock")
    with environment(metrics), daemon(folder) as process:
        os.sched_setaffinity(process.process.pid, {SERVER_CORE})
        os.sched_setaffinity(0, {CLIENT_CORE})
        os.chmod(metrics, 0o666)
        store(process.path)
        for greed in GREED:
            for user in users[1:] if greed.others_only else users:
                before = greed.honest(process.path, metrics)
                with greedy(metrics if greed.on_metrics else process.path, greed, user):
                    during = greed.honest(process.path, metrics)
                who = "the same user" if user is None else "another user"
                rows.append((f"{greed.connections} x {greed.name}", who, *shown(before), *shown(during)))
                kept.append({"greed": greed.name, "user": who, "before_s": before, "during_s": during})
                if user is not None:
                    judge(report, greed, at(before, 99), at(during, 99))
    report.heading("One client, one call after the other, beside a greedy one: milliseconds")
    columns = ("greedy client", "by", "p50 before", "p99", "longest", "p50 meanwhile", "p99", "longest")
    report.table(columns, rows)
    report.keep("fairness", kept)


def judge(report: Report, greed: Greed, before_ms: float, during_ms: float) -> None:
    """Compare with the target, unless the machine is too busy for it also without the greedy client."""
    if during_ms > greed.p99_ms_max < 5 * before_ms:
        took = f"p99 is {before_ms:.1f} ms without the greedy client, too"
        report.skip(f"{greed.name}: the machine is busy with something else: {took}")
    else:
        report.target(greed.name, "p99 ms", during_ms, at_most=greed.p99_ms_max)


@contextmanager
def environment(metrics: str) -> Iterator[None]:
    """Both users may do all, and the sockets let them in."""
    names = json.dumps([pwd.getpwuid(os.geteuid()).pw_name, OTHER])
    settings = {"BCACHED__ACCESS__ADMIN": names, "BCACHED__SOCKET__MODE": "0666"}
    settings["BCACHED__METRICS__LISTEN"] = f"unix:{metrics}"
    os.environ |= settings
    try:
        yield
    finally:
        for name in settings:
            del os.environ[name]


def store(path: str) -> None:
    """A volume with 256 extents, and clean data in all other buckets that can be had."""
    call(path, "io.bcached.Admin.CreateVolume", label="fairness")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        extents = [lookup(number) for number in range(256)]
        keys = ask(connection, message("Allocator.AllocateMany", requests=extents))["keys"]
        ask(connection, message("Allocator.Commit", keys=[key for one in keys for key in one]))
        for number in range(SET_BYTES // BUCKET_SECTORS // 512 - 60):
            (key,) = [ask(connection, message("Allocator.AllocateBucket"))["key"]]
            placed = {**key, "inode": 0, "offset": PINNED_FROM + number * BUCKET_SECTORS}  # type: ignore[dict-item]
            ask(connection, message("Allocator.Commit", keys=[placed], durable=False))


def at(took: list[float], percent: int) -> float:
    return took[len(took) * percent // 100] * 1e3


def shown(took: list[float]) -> tuple[str, str, str]:
    return f"{at(took, 50):.2f}", f"{at(took, 99):.2f}", f"{took[-1] * 1e3:.1f}"


@contextmanager
def greedy(path: str, greed: Greed, user: str | None) -> Iterator[None]:
    """The greedy client, from when it got its first replies."""
    command = [
        sys.executable,
        "-m",
        "bench.greedy",
        path,
        *map(str, (greed.connections, greed.depth, greed.begin)),
    ]
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
