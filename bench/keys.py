# SPDX-License-Identifier: GPL-2.0-only
"""Many keys: inserted in sequence and at random, opened, and collected while somebody allocates.

Inserting is done in a process without a socket (bench.key_filler). Opening is that of the real daemon, less
the time of an empty set. Latencies of Allocate are those one client sees, one request at a time, in turn
without a collection and with one all the time.
"""

import json
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from bench import holds
from bench.daemon import Daemon, daemon, make_image
from bench.daemon import call as call_once
from bench.latency import Caller
from bench.peers import pin
from bench.table import Report

COUNT = 1_000_000
BUCKET = "512k"
EXTENT_BYTES = 4096
MORE_BYTES = 4 << 30  # of the image, for nodes and so that nothing is ever short
ROUNDS = 5
QUIET_S = 2.0
SLICE_MS = 1.0
COLLECTIONS = 20


@dataclass(frozen=True)
class Latencies:
    """Of Allocate, in milliseconds; collections is how many ended meanwhile."""

    median_ms: float
    p999_ms: float
    longest_ms: float
    requests: int
    collections: int
    elapsed_s: float


def fill(folder: Path, order: str, count: int) -> dict[str, Any]:
    make_image(folder, BUCKET, count // 3 * 4 * EXTENT_BYTES + MORE_BYTES)
    command = [sys.executable, "-m", "bench.key_filler", str(folder), order, str(count)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"filling failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def empty(folder: Path) -> tuple[float, int]:
    """How long an empty set takes to open, and its memory."""
    make_image(folder, BUCKET, MORE_BYTES)
    with daemon(folder):
        pass
    with daemon(folder) as server:
        return server.ready_s, server.memory("VmHWM")


def collected(server: Daemon) -> list[tuple[Latencies, Latencies]]:
    """Rounds of latencies without a collection and with one, side by side."""
    pin(server)
    inode = call_once(server.path, "io.bcached.Admin.CreateVolume", label="latency")["inode"]
    rounds = []
    for _ in range(ROUNDS):
        stop = threading.Event()
        threading.Timer(QUIET_S, stop.set).start()
        before = _measure(server.path, inode, stop)
        stop = threading.Event()
        collector = threading.Thread(target=_collect, args=(server.path, stop))
        collector.start()
        during = _measure(server.path, inode, stop)
        collector.join()
        rounds.append((before, during))
    return rounds


def _collect(path: str, stop: threading.Event) -> None:
    """Collect until there are latencies enough for a 99.9th percentile, and at least once."""
    try:
        began = perf_counter()
        while True:
            call_once(path, "io.bcached.Admin.CollectGarbage", wait=True)
            if perf_counter() - began > QUIET_S:
                return
    finally:
        stop.set()


def _measure(path: str, inode: int, stop: threading.Event) -> Latencies:
    state = call_once(path, "io.bcached.Admin.Status")["state"]
    runs = sum(state["gc_runs"].values())
    began = perf_counter()
    with Caller(path, inode) as caller:
        while not stop.is_set():
            caller.allocate_some()
    elapsed_s = perf_counter() - began
    state = call_once(path, "io.bcached.Admin.Status")["state"]
    took = sorted(caller.took_s)
    return Latencies(
        median(took) * 1e3,
        took[len(took) * 999 // 1000] * 1e3,
        took[-1] * 1e3,
        len(took),
        sum(state["gc_runs"].values()) - runs,
        elapsed_s,
    )


def run(report: Report, folder: Path, count: int) -> None:
    """Both orders."""
    report.heading(f"{count:,} keys")
    empty_s, empty_bytes = empty(folder)
    rows, kept = [], []
    for order in ("sequence", "random"):
        filled = fill(folder, order, count)
        with daemon(folder) as first:
            replayed_s = first.ready_s - empty_s
        with daemon(folder) as server:
            opened_s = server.ready_s - empty_s
            peak = server.memory("VmHWM") - empty_bytes
            rounds = collected(server) if order == "random" else []
        held = holds.measure(folder, COLLECTIONS)
        kept.append({**filled, "replayed_s": replayed_s, "opened_s": opened_s, "peak_bytes": peak})
        rows.append(
            (
                order,
                f"{filled['processor_s'] / count * 1e6:.1f}",
                f"{filled['elapsed_s'] / count * 1e6:.1f}",
                f"{filled['node_bytes'] / count:.1f}",
                f"{filled['written_bytes'] / count:.1f}",
                f"{filled['memory_bytes'] / count:.1f}",
                f"{opened_s:.2f}",
                f"{opened_s / count * 1e6:.2f}",
                f"{peak / count:.1f}",
            )
        )
    report.table(
        (
            "order",
            "us of processor a key",
            "us",
            "bytes of nodes",
            "bytes written",
            "in memory",
            "open s",
            "us a key",
            "peak bytes",
        ),
        rows,
    )
    report.keep("keys", kept)
    _tell(report, rounds)
    _tell_holds(report, held)
    report.keep("collection", [[asdict(it) for it in pair] for pair in rounds])


def _tell(report: Report, rounds: list[tuple[Latencies, Latencies]]) -> None:
    report.heading("Allocate, one request at a time, without a collection and with one (ms)")
    report.table(
        ("", "median", "99.9th percentile", "longest", "requests", "collections"),
        [
            (
                name,
                f"{median(it.median_ms for it in side):.3f}",
                f"{median(it.p999_ms for it in side):.2f}",
                f"{median(it.longest_ms for it in side):.2f}",
                f"{sum(it.requests for it in side)}",
                f"{sum(it.collections for it in side)}",
            )
            for name, side in zip(("without", "with"), zip(*rounds, strict=True), strict=True)
        ],
    )
    more = median(during.p999_ms - before.p999_ms for before, during in rounds)
    report.target("99.9th percentile of Allocate", "ms more with a collection", more, at_most=SLICE_MS)


def _tell_holds(report: Report, held: dict[str, dict[str, float]]) -> None:
    report.heading("Holds of the loop, in processor time of its thread (ms)")
    report.table(
        ("", "99th percentile", "longest", "holds"),
        [
            (f"{name} collections", f"{it['p99_ms']:.2f}", f"{it['longest_ms']:.2f}", f"{it['holds']}")
            for name, it in held.items()
        ],
    )
    more = held["with"]["p99_ms"] - held["without"]["p99_ms"]
    report.target("99th percentile of holds", "ms more with a collection", more, at_most=SLICE_MS)
    report.keep("holds", held)
