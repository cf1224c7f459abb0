# SPDX-License-Identifier: GPL-2.0-only
"""One lru invalidation that fills free_inc, beside the seed's heap in C on the same columns.

Ours runs as the allocator task runs it, in slices on a loop. A hold is the time in which nothing else gets
the loop: from one slice's begin to its end. It is told on the clock, and in processor time, which leaves out
what the neighbours on a shared machine took.
"""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time

import numpy as np
import uvloop

from bcached.runtime.coordination.slices import run_sliced
from bcached.set_state import Replacement
from bcached.state.buckets.bucket_table import BucketTable, State
from bcached.state.buckets.geometry import INITIAL_PRIO, Geometry
from bcached.state.buckets.member_buckets import MemberBuckets
from bench.alloc_heap import AllocHeap, compiler
from bench.table import Report

MILLION = 1 << 20
ROUNDS = 5
SLICE_S = 0.001  # the default of gc.slice_ms
BUCKET_SECTORS = 1024
MIN_PRIO = 1000


@dataclass(frozen=True)
class Pass:
    """One size and kind of set: medians of the rounds, and the worst hold of all of them."""

    bucket_count: int
    prios: str
    ours_ms: float
    c_ms: float | None
    ratio: float | None  # C's time in ours: above 1, we are faster
    hold_clock_ms: float
    hold_processor_ms: float


def full_set(bucket_count: int, prios: str) -> MemberBuckets:
    """A set in which every bucket holds cached data."""
    member = MemberBuckets(Geometry(bucket_count, 1, BUCKET_SECTORS, 8, 256), 0)
    rng = np.random.default_rng(bucket_count)
    table = member.table
    table.states_array[1:] = State.CLEAN
    table.counts[State.EMPTY], table.counts[State.CLEAN] = 0, bucket_count - 1
    if prios == "random":
        table.prios_array[:] = rng.integers(MIN_PRIO, INITIAL_PRIO + 1, bucket_count)
        table.sectors_array[:] = rng.integers(1, BUCKET_SECTORS + 1, bucket_count)
    else:
        table.prios_array[:] = INITIAL_PRIO
        table.sectors_array[:] = BUCKET_SECTORS
    table.sectors_array[0] = 0
    return member


class Holds:
    """Keeps the longest slice; stands where the daemon has its histogram of slices."""

    def __init__(self) -> None:
        self.clock_s = self.processor_s = 0.0
        self.last = thread_time()

    def observe(self, seconds: float) -> None:
        now = thread_time()
        self.clock_s = max(self.clock_s, seconds)
        self.processor_s = max(self.processor_s, now - self.last)
        self.last = now


async def invalidate(member: MemberBuckets, holds: Holds) -> float:
    """What runtime.allocator does with a member that has to be invalidated; the seconds it took."""
    started = perf_counter()
    found = await run_sliced(member.search(Replacement.LRU, MIN_PRIO), SLICE_S, perf_counter, holds)  # type: ignore[arg-type]
    await run_sliced(member.invalidate(Replacement.LRU, found), SLICE_S, perf_counter, holds)  # type: ignore[arg-type]
    return perf_counter() - started


def weights(table: BucketTable, buckets: np.ndarray) -> np.ndarray:
    prios = table.prios_array[buckets].astype(np.int64) - MIN_PRIO + (INITIAL_PRIO - MIN_PRIO) // 8
    return np.sort(prios * table.sectors_array[buckets])


def measure(bucket_count: int, prios: str, heap: AllocHeap | None) -> Pass:
    """Some rounds, ours and C in turn, each on the columns as they were."""
    member = full_set(bucket_count, prios)
    before = Columns(member.table)
    ours: list[float] = []
    c: list[float] = []
    longest: list[Holds] = []
    for _ in range(ROUNDS):
        if heap is not None:
            started = perf_counter()
            expected = heap.invalidate(member.table, member.geometry, MIN_PRIO)
            c.append(perf_counter() - started)
            before.restore(member.table)
        longest.append(Holds())
        ours.append(uvloop.run(invalidate(member, longest[-1])))
        victims = np.array(member.free_inc.buckets)
        before.restore(member.table)
        assert len(victims) == member.geometry.free_inc_capacity
        if heap is not None:
            assert np.array_equal(weights(member.table, victims), weights(member.table, expected))
        member.free_inc.buckets.clear()
    ratio = median(b / a for a, b in zip(ours, c, strict=True)) if c else None
    return Pass(
        bucket_count,
        prios,
        median(ours) * 1e3,
        median(c) * 1e3 if c else None,
        ratio,
        max(holds.clock_s for holds in longest) * 1e3,
        max(holds.processor_s for holds in longest) * 1e3,
    )


class Columns:
    """What a pass changes, as it was before."""

    def __init__(self, table: BucketTable) -> None:
        names = ("states_array", "gens_array", "prios_array", "sectors_array", "pins_array")
        self.copies = {name: getattr(table, name).copy() for name in names}
        self.counts = list(table.counts)

    def restore(self, table: BucketTable) -> None:
        for name, copy in self.copies.items():
            getattr(table, name)[:] = copy
        table.counts = list(self.counts)
        table.distance_index = table.distance_disk = 0


def run(report: Report) -> None:
    """All sizes, with prios at random and all the same."""
    report.heading("One lru invalidation of a whole free_inc, every bucket clean")
    with tempfile.TemporaryDirectory() as folder:
        heap = AllocHeap(Path(folder)) if compiler() else None
        if heap is None:
            report.skip("no cc: the seed's heap in C is not measured")
        passes = [
            measure(millions * MILLION, prios, heap)
            for millions in (1, 4, 16)
            for prios in ("random", "equal")
        ]
    report.table(
        ("buckets", "prios", "ours ms", "C heap ms", "C / ours", "longest hold ms", "of it processor"),
        [
            (
                f"{it.bucket_count >> 20} M",
                it.prios,
                f"{it.ours_ms:.1f}",
                "-" if it.c_ms is None else f"{it.c_ms:.1f}",
                "-" if it.ratio is None else f"{it.ratio:.2f}",
                f"{it.hold_clock_ms:.2f}",
                f"{it.hold_processor_ms:.2f}",
            )
            for it in passes
        ],
    )
    for it in passes:
        name = f"invalidation of {it.bucket_count >> 20} M, {it.prios} prios"
        if it.ratio is not None:
            report.target(name, "C / ours", it.ratio, at_least=1.0)
        report.target(name, "longest hold, processor ms", it.hold_processor_ms, at_most=5.0)
    report.keep("invalidation", [asdict(it) for it in passes])
