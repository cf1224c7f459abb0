# SPDX-License-Identifier: GPL-2.0-only
"""Objects by name: `bcached.client.Cache` beside diskcache, LMDB, files, Redis and memcached.

In one process and in eight, values in the page cache, nothing synced: ratios of times within a round. A get
is the median of all, a set the mean of all with the wait until others see them, since commits are gathered.
LMDB neither evicts nor checks what it reads; it and diskcache have one writer at a time; Redis and memcached
keep objects in RAM only, and are asked through a plain socket.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter

from bench.daemon import daemon, make_image
from bench.object_device import against_the_device
from bench.object_processes import in_many_processes
from bench.object_stores import OURS, SET_BYTES, Peer, Store, peers
from bench.table import Report
from bench.zipf import drawn

ROUNDS, LARGE_ROUNDS = 5, 3
COUNTS = {200: 1000, 4096: 1000, 65_536: 250, 1 << 20: 48, 32 << 20: 5}  # names of each size
LARGE = 1 << 20
VERBS = ("set", "get")
LMDB, DISKCACHE, REDIS = "LMDB, no sync", "diskcache Cache", "Redis"
# By (size, verb): how many times our time a peer's must be at least.
TARGETS: dict[tuple[int, str], dict[str, float]] = {
    (200, "get"): {DISKCACHE: 2.5, REDIS: 10, LMDB: 1 / 3},
    (4096, "get"): {DISKCACHE: 2.5, REDIS: 10, LMDB: 1 / 3},
    (65_536, "get"): {DISKCACHE: 2.5},
    (4096, "set"): {DISKCACHE: 2.5},
    (65_536, "set"): {DISKCACHE: 5},
}

Key = tuple[int, str]
Times = dict[str, dict[Key, list[float]]]


def run(report: Report, folder: Path) -> None:
    """Eight processes; then one, with all sizes, all stores in turn; then the device."""
    make_image(folder, "512k", SET_BYTES)
    with daemon(folder) as process, peers(folder, process.path, report.skip) as found:
        in_many_processes(report, found)  # before this process opens any: LMDB may not be opened twice
        report.heading("Objects by name, microseconds a call in one process (in brackets: times ours)")
        stores = [(peer, peer.open()) for peer in found]
        times = measured(stores)
        for _, store in stores:
            store.close()
        for sizes in (tuple(size for size in COUNTS if size < LARGE), tuple(_large())):
            keys = [(size, verb) for size in sizes for verb in VERBS]
            report.table(("", *[f"{verb} {told(size)}" for size, verb in keys]), rows(times, keys))
        _targets(report, times)
    against_the_device(report, folder, _large())
    report.keep("objects", {name: {str(key): own for key, own in one.items()} for name, one in times.items()})


def _large() -> Sequence[int]:
    return [size for size in COUNTS if size >= LARGE]


def told(size: int) -> str:
    """A size as the tables have it."""
    return f"{size >> 20}M" if size >= 1 << 20 else f"{size >> 10}k" if size >= 1 << 10 else f"{size}"


def measured(stores: Sequence[tuple[Peer, Store]]) -> Times:
    """Microseconds a call of each store, size and verb, in each round."""
    times: Times = {peer.name: {(size, verb): [] for size in COUNTS for verb in VERBS} for peer, _ in stores}
    for number in range(-1, ROUNDS):
        for size in COUNTS:
            if size >= LARGE and number >= LARGE_ROUNDS:
                continue
            value, random = os.urandom(size), Random(number)
            for peer, store in stores if number % 2 else reversed(stores):
                found = one_round(store, size, value, random)
                for verb, took in zip(VERBS, found, strict=True):
                    if number >= 0:  # the first one fills, and warms up
                        times[peer.name][size, verb].append(took)
    return times


def one_round(store: Store, size: int, value: bytes, random: Random) -> tuple[float, float]:
    """Microseconds a set and a get, of names drawn by Zipf; each name is there."""
    count = COUNTS[size]
    names = [f"{size}-{number}" for number in range(count)]
    if store.get(names[-1]) is None:
        for name in names:
            store.set(name, value)
        store.settle()
    setting, getting = ([names[one] for one in drawn(count, count, random)] for _ in VERBS)
    sets = timed(lambda: [store.set(name, value) for name in setting] and store.settle()) / count
    gets = median([timed(partial(store.get, name)) for name in getting])
    assert store.get(setting[0]) == value
    return sets, gets


def timed(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return (perf_counter() - began) * 1e6


def ratio(times: Times, name: str, key: Key) -> float:
    """A peer's time as a multiple of ours, of the same round."""
    return median(a / b for a, b in zip(times[name][key], times[OURS][key], strict=True))


def rows(times: Times, keys: Sequence[Key]) -> Iterator[list[str]]:
    for name, own in times.items():
        row = [name]
        for key in keys:
            beside = "" if name == OURS else f" ({ratio(times, name, key):.2f})"
            row.append(f"{median(own[key]):.1f}{beside}")
        yield row


def _targets(report: Report, times: Times) -> None:
    for key, least in TARGETS.items():
        for name, wanted in least.items():
            if name in times:
                what = f"{name}'s time / ours"
                report.target(
                    f"{key[1]} {told(key[0])}", what, ratio(times, name, key), at_least=round(wanted, 2)
                )
