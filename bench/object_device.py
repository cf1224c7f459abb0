# SPDX-License-Identifier: GPL-2.0-only
"""Large objects, written durably and read cold, beside fio's direct writes and reads of the same bytes.

fio writes from and reads into one buffer; so each value read here is dropped before the next is read. The
set has the least size at which its reserves, which the kernel's rule makes a part of all buckets, hold more
than one of the larger objects.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

from bcached.client import Cache
from bench.daemon import daemon, fill_holes, make_image
from bench.table import Report

ROUNDS = 3
BYTES = 96 << 20  # in all, a round
IMAGE_BYTES = 8 << 30
AT_LEAST = 0.85

Rates = dict[tuple[str, int], list[tuple[float, float]]]  # (verb, size): ours and fio's, bytes a second


def against_the_device(report: Report, folder: Path, sizes: Sequence[int]) -> None:
    """Each size, both directions, ours and fio's in turn."""
    if shutil.which("fio") is None:
        report.skip("objects: the program fio is not there; nothing is said about the device")
        return
    report.heading("Large objects, the page cache cold: MiB a second, beside fio's direct I/O")
    make_image(folder, "512k", IMAGE_BYTES)
    fill_holes(folder / "cache.img")
    rates: Rates = {(verb, size): [] for size in sizes for verb in ("write", "read")}
    with daemon(folder) as process, Cache(process.path, "cold") as cache:
        for number in range(ROUNDS):
            for size in sizes:
                one_round(cache, folder, size, number, rates)
    report.table(
        ("", "bcached", "fio", "ratio"),
        [
            (
                f"{verb} {size >> 20}M",
                f"{median(a for a, _ in found) / (1 << 20):,.0f}",
                f"{median(b for _, b in found) / (1 << 20):,.0f}",
                f"{median(a / b for a, b in found):.2f}",
            )
            for (verb, size), found in rates.items()
        ],
    )
    for (verb, size), found in rates.items():
        ratio = median(a / b for a, b in found)
        report.target(f"{verb} {size >> 20}M, cold", "our rate / fio's, direct", ratio, at_least=AT_LEAST)
    report.keep("objects_cold", {f"{verb} {size}": found for (verb, size), found in rates.items()})


def one_round(cache: Cache, folder: Path, size: int, number: int, rates: Rates) -> None:
    """Write and read objects of one size; a round has names of its own."""
    value, names = os.urandom(size), [f"{size} {number} {one}" for one in range(BYTES // size)]
    written = BYTES / seconds(lambda: store(cache, names, value))
    rates["write", size].append((written, fio(folder, "write", size)))
    forget(folder / "cache.img")
    read = BYTES / seconds(lambda: fetch(cache, names))
    assert cache.get(names[-1]) == value
    rates["read", size].append((read, fio(folder, "read", size)))


def store(cache: Cache, names: Sequence[str], value: bytes) -> None:
    """Until all are durable."""
    for name in names:
        cache.set(name, value)
    cache.flush()


def fetch(cache: Cache, names: Sequence[str]) -> None:
    for name in names:
        cache.get(name)


def forget(path: Path) -> None:
    """Drop a file's pages from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def fio(folder: Path, direction: str, size: int) -> float:
    """Bytes a second of direct I/O in blocks of one object, on a file beside the image."""
    command = ["fio", "--name=objects", f"--filename={folder}/fio", f"--rw={direction}", f"--bs={size}"]
    command += [f"--size={BYTES}", "--direct=1", "--ioengine=psync", "--output-format=json"]
    command += ["--end_fsync=1"] if direction == "write" else []
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return float(json.loads(done.stdout)["jobs"][0][direction]["bw_bytes"])
