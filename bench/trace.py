# SPDX-License-Identifier: GPL-2.0-only
"""A trace replayed through `Cache` on a set a tenth of its footprint, beside an exact LRU of the same bytes.

Each request is a get, and a set after a miss. The LRU has all bytes of the device for values; the set has its
metadata, headers and padding of objects, reserves, and buckets that are reclaimed whole.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bcached.client import Cache
from bench.daemon import daemon, make_image
from bench.exact_lru import ExactLru
from bench.table import Report
from bench.trace_files import Request, footprint, requests_of, zipf

SHARE = 10
BUCKETS_MIN = 1024
BUCKET_BYTES = [1 << shift for shift in range(19, 13, -1)]  # 512k to 16k
SYNTHETIC = (200_000, 60_000, 0.9)  # requests, objects, exponent
AT_LEAST = 0.85  # of the LRU's hit ratio


class Replayed(NamedTuple):
    """Hits of both."""

    requests: int
    hits: int
    hit_bytes: int
    lru_hits: int
    lru_hit_bytes: int
    set_bytes: int
    footprint: int


def run(report: Report, folder: Path, paths: Sequence[Path]) -> None:
    """Each trace, or a synthetic one."""
    report.heading(f"Traces on a set of 1/{SHARE} of their footprint: hit ratios, by requests and by bytes")
    traces = {path.name: requests_of(path) for path in paths} or {"zipf 0.9": zipf(*SYNTHETIC)}
    found = {name: replayed(requests, folder) for name, requests in traces.items()}
    report.table(
        ("", "requests", "footprint", "set", "Cache", "LRU", "ratio", "Cache, bytes", "LRU, bytes"),
        [row(name, traces[name], one) for name, one in found.items()],
    )
    for name, one in found.items():
        report.target(name, "hit ratio / exact LRU's", one.hits / max(1, one.lru_hits), at_least=AT_LEAST)
    report.keep("trace", {name: one._asdict() for name, one in found.items()})


def row(name: str, requests: Sequence[Request], one: Replayed) -> list[str]:
    wanted = sum(request.length for request in requests)
    return [
        name,
        f"{one.requests:,}",
        f"{one.footprint >> 20:,}M",
        f"{one.set_bytes >> 20:,}M",
        f"{one.hits / one.requests:.3f}",
        f"{one.lru_hits / one.requests:.3f}",
        f"{one.hits / max(1, one.lru_hits):.2f}",
        f"{one.hit_bytes / wanted:.3f}",
        f"{one.lru_hit_bytes / wanted:.3f}",
    ]


def set_size(footprint_bytes: int) -> tuple[int, int]:
    """Returns the bytes of a set and of its buckets; those are smaller in a small set."""
    wanted = max(footprint_bytes // SHARE, BUCKETS_MIN * BUCKET_BYTES[-1])
    bucket = next(one for one in BUCKET_BYTES if wanted // one >= BUCKETS_MIN)
    return wanted // bucket * bucket, bucket


def replayed(requests: Sequence[Request], folder: Path) -> Replayed:
    """Replay a trace through both."""
    whole = footprint(requests)
    set_bytes, bucket = set_size(whole)
    lru, hits, lru_hits, hit_bytes, lru_hit_bytes = ExactLru(set_bytes), 0, 0, 0, 0
    filler = os.urandom(max(one.length for one in requests))
    make_image(folder, str(bucket), set_bytes)
    with daemon(folder) as process, Cache(process.path, "trace") as cache:
        for one in requests:
            if lru.access(one):
                lru_hits += 1
                lru_hit_bytes += one.length
            value = cache.get(one.name)
            if value is None:
                cache.set(one.name, filler[: one.length])
            else:
                assert value == filler[: len(value)], f"{one.name}: another value than was stored"
                hits += 1
                hit_bytes += one.length
    return Replayed(len(requests), hits, hit_bytes, lru_hits, lru_hit_bytes, set_bytes, whole)
