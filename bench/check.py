# SPDX-License-Identifier: GPL-2.0-only
"""What a check of a large set takes, beside reading its metadata and beside the daemon's opening.

The set is sparse (bench.sparse_set): 2 M buckets of 512 KiB, a tebibyte. Each program runs by itself; its
processor time and peak memory are what the system accounts to it; a peak below that of this process, which
starts them, would be this one's, so reading has none.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from bench.daemon import daemon, make_image, tool
from bench.sparse_set import BUCKETS, SparseSet
from bench.table import Report

CHUNK_BYTES = 1 << 20
RATIO_MAX, REPAIR_MAX = 4.0, 2.5
PRIOS_BEHIND = 4096  # a byte of the prios, not of their header
ERRORS_LEFT = 4  # fsck's status


@dataclass(frozen=True)
class Cost:
    """What a run took."""

    name: str
    elapsed_s: float
    processor_s: float
    peak_bytes: int


def measure(name: str, *arguments: str, status: int = 0) -> Cost:
    """Run a program to its end. Raises RuntimeError if it does not end with this status."""
    began = perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    _, ended, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(ended)
    if process.returncode != status:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}")
    return Cost(name, perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def read_plainly(image: Path) -> None:
    """Read every part of an image that takes space: only metadata does."""
    with image.open("rb", buffering=0) as file:
        buffer, end = bytearray(CHUNK_BYTES), file.seek(0, os.SEEK_END)
        position = os.lseek(file.fileno(), 0, os.SEEK_DATA)
        while position < end:
            hole = os.lseek(file.fileno(), position, os.SEEK_HOLE)
            while position < hole:
                position += os.preadv(file.fileno(), [memoryview(buffer)[: hole - position]], position)
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:  # no more data
                return


@contextmanager
def damaged(image: Path, byte: int) -> Iterator[None]:
    """Garble eight bytes of an image for a while."""
    with image.open("r+b", buffering=0) as file:
        before = os.pread(file.fileno(), 8, byte)
        os.pwrite(file.fileno(), bytes(255 - one for one in before), byte)
        yield
        os.pwrite(file.fileno(), before, byte)


def opened(folder: Path) -> Cost:
    """The daemon's opening."""
    with daemon(folder) as server:
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(") ")[2].split()
        processor_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return Cost("the daemon's opening", server.ready_s, processor_s, server.memory("VmHWM"))


def run(report: Report, folder: Path, count: int) -> None:
    """Read, check, rescue -n, repair -n, open."""
    report.heading(f"A check of 1 TiB, 2 M buckets, {count:,} keys")
    make_image(folder, "512k", 1 << 29)  # for the daemon's configuration
    image = folder / "cache.img"
    image.unlink()
    build = [sys.executable, "-m", "bench.sparse_set", str(image), "--keys", str(count)]
    subprocess.run(build, check=True)  # elsewhere, or its memory would count below
    ctl, path = tool("bcachectl"), str(image)
    costs = [
        measure("reading the metadata", sys.executable, "-m", "bench.check", path),
        measure("check", ctl, "check", path),
        measure("rescue -n", ctl, "rescue", "-n", path, "--volume", "0", "--to", str(folder / "volume.img")),
    ]
    with damaged(image, SparseSet(image, BUCKETS, count).first_prio_byte + PRIOS_BEHIND):
        costs.append(measure("repair -n", ctl, "repair", "-n", "--rebuild-prios", path, status=ERRORS_LEFT))
    costs.append(opened(folder))
    image.unlink()
    rows = [(it.name, f"{it.elapsed_s:.2f}", f"{it.processor_s:.2f}", _peak(it)) for it in costs]
    report.table(("", "s", "s of processor", "peak memory"), rows)
    for cost in costs[1:3]:
        ratio = cost.processor_s / costs[-1].processor_s
        report.target(cost.name, "times the daemon's opening", ratio, at_most=RATIO_MAX)
    report.target(
        "repair -n", "times a check", costs[3].processor_s / costs[1].processor_s, at_most=REPAIR_MAX
    )
    report.keep("check", [asdict(it) for it in costs])


def _peak(cost: Cost) -> str:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"{cost.peak_bytes >> 20} MiB" if cost.peak_bytes > own else ""


if __name__ == "__main__":
    read_plainly(Path(sys.argv[1]))
