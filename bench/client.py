# SPDX-License-Identifier: GPL-2.0-only
"""The client library, beside a bare round trip on the same daemon: ratios of times within a round.

Bare is a Lookup that was encoded beforehand, sent and received through a plain socket: what a call cannot do
without. The client and the daemon stand on one core, since a wake-up across idle virtual cores costs more
than either has to do. "in RAM" goes through the page cache (`direct=False`), the others to the device.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from compileall import compile_dir
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

import bcached
from bcached.client import BlockingClient, Client
from bench.daemon import daemon, make_image
from bench.table import Report

ROUNDS = 7
CALLS = 400
SET_BYTES = 1 << 30
BLOCK = b"4 kibibytes of a value.".ljust(4096, b".")
SECTORS = len(BLOCK) // 512
OBJECTS = 256
BARE = "bare round trip"
TARGETS = {"lookup": 1.5, "fetch in RAM": 2.0}
LEAST = "msgspec"  # what any client needs
IMPORTS = ("bcached.client", "bcached.client.client")
IMPORT_ROUNDS = 15

Measure = Callable[[], float]


def run(report: Report, folder: Path) -> None:
    """All calls, in turn."""
    make_image(folder, "512k", SET_BYTES)
    with daemon(folder) as process, on_one_core(process.process.pid):
        times = measured(process.path)
    report.heading(
        "The client library, ratio of time a call to a bare round trip (in brackets: microseconds)"
    )
    ratios = {
        name: median(a / b for a, b in zip(own, times[BARE], strict=True)) for name, own in times.items()
    }
    report.table(
        ("", "ratio", "us"),
        [(name, f"{ratios[name]:.2f}", f"({median(own):.1f})") for name, own in times.items()],
    )
    for name, most in TARGETS.items():
        report.target(name, f"/ {BARE}", ratios[name], at_most=most)
    imports = imported()
    beside = {
        name: median(a / b for a, b in zip(imports[name], imports[LEAST], strict=True)) for name in IMPORTS
    }
    report.note(
        f"A process that imports it, beside one that imports {LEAST} only: "
        + "; ".join(f"{name} {ratio:.2f}" for name, ratio in beside.items())
    )
    report.target("import bcached.client", f"/ import {LEAST}", beside["bcached.client"], at_most=2.0)
    report.keep("client", {"us": times, "ratios": ratios, "imports_s": imports, "import_ratios": beside})


@contextmanager
def on_one_core(pid: int) -> Iterator[None]:
    """This process and that one."""
    before = os.sched_getaffinity(0)
    core = {min(before)}
    os.sched_setaffinity(0, core)
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measured(path: str) -> dict[str, list[float]]:
    """Microseconds a call, of each kind in each round; there and back again, so a slow minute hits all."""
    with (
        BlockingClient(path) as direct,
        BlockingClient(path, direct=False) as cached,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        inode = direct.create_volume("client")
        cached.store_many([(inode, SECTORS * number, BLOCK) for number in range(OBJECTS)])
        connection.connect(path)
        measures = {
            BARE: bare(connection, inode),
            "lookup": timed(lambda number: cached.lookup(inode, SECTORS * number, SECTORS)),
            "fetch in RAM": timed(lambda number: cached.fetch(inode, SECTORS * number, SECTORS)),
            "fetch": timed(lambda number: direct.fetch(inode, SECTORS * number, SECTORS)),
            "store in RAM": timed(lambda number: cached.store(inode, SECTORS * number, BLOCK, durable=False)),
            "store": timed(lambda number: direct.store(inode, SECTORS * number, BLOCK, durable=False)),
            "store_many in RAM, of 64": many(cached, inode),
            "asyncio lookup": awaited(path, inode, "lookup"),
            "asyncio fetch in RAM": awaited(path, inode, "fetch"),
        }
        times: dict[str, list[float]] = {name: [] for name in measures}
        for number in range(ROUNDS):
            for name in measures if number % 2 == 0 else reversed(measures):
                times[name].append(measures[name]() * 1e6)
    return times


def timed(call: Callable[[int], object], calls: int = CALLS) -> Measure:
    """Median seconds of a call, after some that do not count."""

    def measure() -> float:
        times = []
        for number in range(-calls // 8, calls):
            began = perf_counter()
            call(number % OBJECTS)
            times.append(perf_counter() - began)
        return median(times[calls // 8 :])

    return measure


def bare(connection: socket.socket, inode: int) -> Measure:
    asked = {"inode": inode, "offset": SECTORS, "sectors": SECTORS}
    message = json.dumps({"method": "io.bcached.Allocator.Lookup", "parameters": asked}).encode() + b"\0"

    def trip(_: int) -> None:
        connection.send(message)
        connection.recv(1 << 16)

    return timed(trip)


def many(client: BlockingClient, inode: int) -> Measure:
    items = [(inode, SECTORS * number, BLOCK) for number in range(64)]
    measure = timed(lambda _: client.store_many(items, durable=False), CALLS // 8)
    return lambda: measure() / len(items)


def awaited(path: str, inode: int, method: str) -> Measure:
    async def measure() -> float:
        times = []
        async with Client(path, direct=False) as client:
            call = getattr(client, method)
            for number in range(-CALLS // 8, CALLS):
                began = perf_counter()
                await call(inode, SECTORS * (number % OBJECTS), SECTORS)
                times.append(perf_counter() - began)
        return median(times[CALLS // 8 :])

    return lambda: asyncio.run(measure())


def imported() -> dict[str, list[float]]:
    """Seconds of a process that imports one module, of each module in each round; compiled, as installed."""
    compile_dir(Path(bcached.__file__).parent, quiet=1)
    times: dict[str, list[float]] = {name: [] for name in (LEAST, *IMPORTS)}
    for _ in range(IMPORT_ROUNDS):
        for name, own in times.items():
            began = perf_counter()
            subprocess.run([sys.executable, "-c", f"import {name}"], check=True)
            own.append(perf_counter() - began)
    return times
