# SPDX-License-Identifier: GPL-2.0-only
"""Objects by name: `bcached.client.Cache` beside diskcache, LMDB and a file for each name.

All in one process, values in the page cache, nothing synced: ratios of times within a round. LMDB neither
evicts nor checks what it reads; it and diskcache have one writer at a time; a file is written to a temporary
name and renamed.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Protocol

import lmdb

from bcached.client import Cache
from bench.daemon import daemon, make_image
from bench.table import Report

ROUNDS = 5
NAMES = 1000
SET_BYTES = 1 << 30
SIZES = (200, 4096, 65536)
OURS = "bcached"


class Store(Protocol):
    """What is compared."""

    def set(self, name: str, value: bytes, /) -> object: ...
    def get(self, name: str, /) -> object: ...
    def settle(self) -> object: ...


class Ours:
    def __init__(self, cache: Cache) -> None:
        self.set, self.get = cache.set, cache.get
        self.settle = lambda: cache.flush(durable=False)


class Lmdb:
    def __init__(self, folder: Path) -> None:
        self._environment = lmdb.open(str(folder / "lmdb"), map_size=SET_BYTES, sync=False)

    def set(self, name: str, value: bytes) -> None:
        with self._environment.begin(write=True) as transaction:
            transaction.put(name.encode(), value)

    def get(self, name: str) -> object:
        with self._environment.begin() as transaction:
            return transaction.get(name.encode())

    def settle(self) -> None:
        pass


class Files:
    def __init__(self, folder: Path) -> None:
        self._folder = folder / "files"
        self._folder.mkdir()

    def set(self, name: str, value: bytes) -> None:
        path = f"{self._folder}/{name}"
        with open(path + ".new", "wb") as file:
            file.write(value)
        os.rename(path + ".new", path)

    def get(self, name: str) -> bytes:
        with open(f"{self._folder}/{name}", "rb") as file:
            return file.read()

    def settle(self) -> None:
        pass


@contextmanager
def diskcache(folder: Path) -> Iterator[Store]:
    from diskcache import Cache as DiskCache  # noqa: PLC0415 - an optional package

    with DiskCache(str(folder / "diskcache"), size_limit=SET_BYTES) as cache:
        cache.settle = lambda: None
        yield cache


def run(report: Report, folder: Path) -> None:
    """All sizes, all stores in turn."""
    report.heading("Objects by name, microseconds a call (in brackets: times as long as ours)")
    make_image(folder, "512k", SET_BYTES)
    with daemon(folder) as process, Cache(process.path, "bench") as cache:
        stores: dict[str, Store] = {OURS: Ours(cache), "LMDB, no sync": Lmdb(folder), "files": Files(folder)}
        if find_spec("diskcache") is None:
            report.skip("diskcache is not installed: pip install diskcache")
            times = measured(stores)
        else:
            with diskcache(folder) as one:
                times = measured({**stores, "diskcache": one})
        assert cache.stats().misses == 0
    report.table(("", *[f"{verb} {size}" for size in SIZES for verb in ("set", "get")]), rows(times))
    report.keep("objects", {name: {str(key): own for key, own in one.items()} for name, one in times.items()})


Times = dict[str, dict[tuple[int, str], list[float]]]


def measured(stores: dict[str, Store]) -> Times:
    """Microseconds a call of each store, size and verb, in each round."""
    times: Times = {name: {(size, verb): [] for size in SIZES for verb in ("set", "get")} for name in stores}
    for number in range(-1, ROUNDS):
        for size in SIZES:
            value = os.urandom(size)
            for name in stores if number % 2 else reversed(stores):
                sets, gets = one_round(stores[name], size, value)
                if number >= 0:  # the first one warms up
                    times[name][size, "set"].append(sets)
                    times[name][size, "get"].append(gets)
    return times


def one_round(store: Store, size: int, value: bytes) -> tuple[float, float]:
    count = NAMES // 4 if size > 10_000 else NAMES
    names = [f"{size} {number}" for number in range(count)]
    sets = timed(lambda: [store.set(name, value) for name in names] and store.settle()) / count
    gets = timed(lambda: [store.get(name) for name in names]) / count
    assert store.get(names[0]) == value
    return sets, gets


def timed(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return (perf_counter() - began) * 1e6


def rows(times: Times) -> Iterator[list[str]]:
    for name, own in times.items():
        row = [name]
        for key, rounds in own.items():
            ratio = median(a / b for a, b in zip(rounds, times[OURS][key], strict=True))
            row.append(f"{median(rounds):.1f}" + ("" if name == OURS else f" ({ratio:.2f})"))
        yield row
