# SPDX-License-Identifier: GPL-2.0-only
"""Traces of requests to a cache, as libCacheSim has them, and a synthetic one.

*.oracleGeneral*, *.bin   u32 time, u64 object, u32 bytes, i64 next access, each little-endian
*.csv                     a header that names the columns; else object and bytes
all else                  an object a line
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

ORACLE_GENERAL = np.dtype([("time", "<u4"), ("object", "<u8"), ("bytes", "<u4"), ("next", "<i8")])
OBJECT_COLUMNS = ("obj_id", "obj-id", "object", "id", "key", "lbn", "obj")
SIZE_COLUMNS = ("obj_size", "obj-size", "size", "bytes", "value_size", "length")
SAME_BYTES = 4096  # of objects whose size a trace does not tell


class Request(NamedTuple):
    """One request: for which object, and how long that is."""

    name: str
    length: int


def requests_of(path: Path) -> list[Request]:
    """Returns the requests of a file. Raises ValueError if it is not a trace."""
    if path.suffix == ".csv":
        return _of_csv(path)
    if path.suffix == ".bin" or "oracleGeneral" in path.name:
        return _of_oracle_general(path)
    return [Request(line.strip(), SAME_BYTES) for line in path.read_text().splitlines() if line.strip()]


def _of_oracle_general(path: Path) -> list[Request]:
    if path.stat().st_size % ORACLE_GENERAL.itemsize:
        raise ValueError(f"{path}: expected records of {ORACLE_GENERAL.itemsize} bytes: is it compressed?")
    rows = np.fromfile(path, ORACLE_GENERAL)
    return [Request(str(name), length) for name, length in zip(*_lists(rows), strict=True)]


def _lists(rows: "np.ndarray[tuple[int], np.dtype[np.void]]") -> tuple[Sequence[int], Sequence[int]]:
    return rows["object"].tolist(), rows["bytes"].tolist()


def _of_csv(path: Path) -> list[Request]:
    with path.open(newline="") as file:
        rows = iter(csv.reader(file))
        header = [name.strip().lower() for name in next(rows)]
        name_at = _column(header, OBJECT_COLUMNS)
        if name_at is None:
            raise ValueError(f"{path}: expected a column {' or '.join(OBJECT_COLUMNS)}, found {header}")
        size_at = _column(header, SIZE_COLUMNS)
        return [
            Request(row[name_at].strip(), SAME_BYTES if size_at is None else int(row[size_at]))
            for row in rows
            if row
        ]


def _column(header: Sequence[str], names: Iterable[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def zipf(requests: int, objects: int, exponent: float, seed: int = 1) -> list[Request]:
    """Returns requests for objects by Zipf, whose lengths are log-normal around 4 KiB."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, objects + 1) ** exponent
    lengths = np.clip(rng.lognormal(np.log(4096), 1.0, objects), 64, 1 << 18).astype(int)
    drawn = rng.choice(objects, requests, p=weights / weights.sum())
    order = rng.permutation(objects)  # so that no name tells how often it is used
    return [Request(f"object {order[one]}", int(lengths[one])) for one in drawn]


def footprint(requests: Iterable[Request]) -> int:
    """Returns the bytes of all objects, each at its longest."""
    longest: dict[str, int] = {}
    for one in requests:
        longest[one.name] = max(longest.get(one.name, 0), one.length)
    return sum(longest.values())
