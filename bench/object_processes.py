# SPDX-License-Identifier: GPL-2.0-only
"""Eight processes on each store, nine gets to a set; calls a second of all together."""

import os
from collections.abc import Sequence
from random import Random
from statistics import median
from time import perf_counter

from bench.object_stores import OURS, Peer
from bench.table import Report
from bench.zipf import drawn

PROCESSES, NAMES, LENGTH = 8, 1000, 4096
CALLS = 6000  # of each: with a quarter of that, most of the names are read by a process for the first time
ROUNDS = 3
FANOUT = "diskcache FanoutCache"
AT_LEAST = 3.0


def in_many_processes(report: Report, peers: Sequence[Peer]) -> None:
    """Each store in turn, in each round."""
    report.heading(f"{PROCESSES} processes, {LENGTH} bytes, 90 % gets: calls a second (in brackets: of ours)")
    rates: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for number in range(ROUNDS):
        for peer in peers if number % 2 else reversed(peers):
            rates[peer.name].append(rate(peer, number))
    shares = {
        name: median(a / b for a, b in zip(own, rates[OURS], strict=True)) for name, own in rates.items()
    }
    report.table(
        ("", "calls a second", ""),
        [(name, f"{median(own):,.0f}", f"({shares[name]:.2f})") for name, own in rates.items()],
    )
    if FANOUT in rates:
        found = 1 / shares[FANOUT]
        report.target("8 processes, 90 % gets", f"our rate / {FANOUT}'s", found, at_least=AT_LEAST)
    report.keep("objects_processes", rates)


def rate(peer: Peer, seed: int) -> float:
    """Calls a second, from when all are ready until the last is done."""
    start, begin = os.pipe()
    children = [_forked(peer, seed * PROCESSES + number, start, begin) for number in range(PROCESSES)]
    os.close(start)
    for _, ready in children:
        assert os.read(ready, 1) == b"r", f"{peer.name}: a process has failed"
    began = perf_counter()
    os.close(begin)  # which all of them wait for
    for pid, ready in children:
        _, status = os.waitpid(pid, 0)
        os.close(ready)
        assert status == 0, f"{peer.name}: a process has failed"
    return PROCESSES * CALLS / (perf_counter() - began)


def _forked(peer: Peer, seed: int, start: int, begin: int) -> tuple[int, int]:
    """A child that works once `start` has ended; returns its pid, and where it says that it is ready."""
    ready, say = os.pipe()
    pid = os.fork()
    if pid:
        os.close(say)
        return pid, ready
    os.close(begin)
    status = 1
    try:
        _work(peer, Random(seed), start, say)
        status = 0
    finally:
        os._exit(status)
    raise AssertionError("unreachable")


def _work(peer: Peer, random: Random, start: int, say: int) -> None:
    store, value = peer.open(), random.randbytes(LENGTH)
    names = [f"shared-{number}" for number in drawn(CALLS, NAMES, random)]
    calls = [(name, random.random() < 0.9) for name in names]
    os.write(say, b"r")
    for name, is_get in calls if not os.read(start, 1) else ():
        if not is_get or store.get(name) is None:
            store.set(name, value)
    store.settle()
