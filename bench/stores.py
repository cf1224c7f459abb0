# SPDX-License-Identifier: GPL-2.0-only
"""Stores that are libraries: one writer, a transaction for each commit, each durable before the next begins.

    python -m bench.stores KIND FOLDER LIMIT_S      KIND: sqlite, lmdb; prints commits a second

However many clients wait for a commit, such a store makes one after the other, so this rate is theirs at any
number of clients; nothing is taken off for bringing the requests to the writer.
"""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from time import perf_counter

from bench.requests import VALUE_BYTES

VALUE = b"v" * VALUE_BYTES
MAP_BYTES = 1 << 30
KINDS = {"sqlite": "SQLite WAL FULL", "lmdb": "LMDB sync"}


@contextmanager
def sqlite(folder: Path) -> Iterator[Callable[[int], None]]:
    store = sqlite3.connect(folder / "store.sqlite", isolation_level=None)
    try:
        store.execute("PRAGMA journal_mode = WAL")
        store.execute("PRAGMA synchronous = FULL")
        store.execute("CREATE TABLE IF NOT EXISTS keys (number INTEGER PRIMARY KEY, value BLOB)")

        def commit(number: int) -> None:
            store.execute("INSERT OR REPLACE INTO keys VALUES (?, ?)", (number, VALUE))

        yield commit
    finally:
        store.close()


@contextmanager
def lmdb(folder: Path) -> Iterator[Callable[[int], None]]:
    import lmdb as library  # noqa: PLC0415 (it may not be there)

    with library.open(str(folder / "store.lmdb"), map_size=MAP_BYTES, sync=True, subdir=False) as store:

        def commit(number: int) -> None:
            with store.begin(write=True) as transaction:
                transaction.put(number.to_bytes(8, "big"), VALUE)

        yield commit


def run(kind: str, folder: Path, limit_s: float) -> float:
    """Commits a second, in this process."""
    with {"sqlite": sqlite, "lmdb": lmdb}[kind](folder) as commit:
        commit(0)
        began = now = perf_counter()
        for number in count(1):
            commit(number)
            now = perf_counter()
            if now - began >= limit_s:
                break
    return number / (now - began)


def measure(kind: str, folder: Path, limit_s: float) -> float:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "bench.stores", kind, str(folder), str(limit_s)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


def lmdb_is_here() -> bool:
    return find_spec("lmdb") is not None


if __name__ == "__main__":
    print(run(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])))
