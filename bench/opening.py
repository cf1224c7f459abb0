# SPDX-License-Identifier: GPL-2.0-only
"""What a bucket costs: bytes of the daemon's memory, and time until the daemon is ready.

The daemon is the real one, on a sparse image of 64 KiB buckets; its memory is what /proc says after it has
become ready, less that of a daemon with a small set. "first" opens a fresh image (everything is written for
the first time), "again" opens it after a clean stop (everything is read): the quickest of some times, for a
neighbour can only make it slower.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench.daemon import daemon, make_image
from bench.table import Report

BUCKET_BYTES = 1 << 16
SMALL, SIZES = 1 << 14, (1 << 20, 4 << 20)
AGAIN = 5


@dataclass(frozen=True)
class Opening:
    """A set of one size."""

    bucket_count: int
    first_s: float
    again_s: float
    resident_bytes: int
    peak_bytes: int


def measure(folder: Path, bucket_count: int) -> Opening:
    make_image(folder, str(BUCKET_BYTES), bucket_count * BUCKET_BYTES)
    with daemon(folder) as first:
        first_s = first.ready_s
    again_s, resident, peak = [], [], []
    for _ in range(AGAIN):
        with daemon(folder) as again:
            again_s.append(again.ready_s)
            resident.append(again.memory("VmRSS"))
            peak.append(again.memory("VmHWM"))
    (folder / "cache.img").unlink()
    return Opening(bucket_count, first_s, min(again_s), int(median(resident)), int(median(peak)))


def run(report: Report, folder: Path) -> None:
    """A small set, then a million buckets, then four."""
    report.heading("Memory a bucket, and time to open")
    small, *large = [measure(folder, bucket_count) for bucket_count in (SMALL, *SIZES)]
    rows = [
        ("16 k", f"{small.first_s:.2f}", f"{small.again_s:.2f}", "", f"{small.resident_bytes >> 20} MiB", "")
    ]
    for it in large:
        more = it.bucket_count - small.bucket_count
        each = (it.resident_bytes - small.resident_bytes) / more
        peak = (it.peak_bytes - small.peak_bytes) / more
        rows.append(
            (
                f"{it.bucket_count >> 20} M",
                f"{it.first_s:.2f}",
                f"{it.again_s:.2f}",
                f"{it.again_s - small.again_s:.2f}",
                f"{each:.1f} a bucket",
                f"{peak:.1f} a bucket",
            )
        )
        report.target(f"memory at {it.bucket_count >> 20} M buckets", "bytes a bucket", each, at_most=24.0)
    report.table(("buckets", "first s", "again s", "more than 16 k", "resident", "at its peak"), rows)
    report.keep("opening", [asdict(it) for it in (small, *large)])
