# SPDX-License-Identifier: GPL-2.0-only
"""The memory that the index may use if the configuration does not say: what fits the device and the host.

A third of what the memory limit leaves beside all else, and no more than the keys of a full device take. The
limit is that of the control groups, as MemoryMax= of a unit sets it, and at most a quarter of the host's
memory: other programs need some, too.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROGRAM_BYTES = 80 << 20
BUCKET_BYTES, TABLE_BYTES = 512 << 10, 24  # the default size of a bucket, and what each takes in memory
EXTENT_BYTES, KEY_BYTES = 4 << 10, 48  # a page, the usual smallest extent, and what its key takes
LEAST_BYTES = 16 << 20
SHARE = 3  # of what is left; an opening and a reload take the rest for a while
HOST_SHARE = 4


def index_bytes(device_bytes: int, limit_bytes: int, buffer_bytes: int) -> int:
    """Returns the bytes for a set of so large devices, with so much memory for the whole daemon."""
    left = limit_bytes - PROGRAM_BYTES - buffer_bytes - device_bytes // BUCKET_BYTES * TABLE_BYTES
    return max(LEAST_BYTES, min(left // SHARE, device_bytes // EXTENT_BYTES * KEY_BYTES))


def memory_limit(root: Path = Path("/")) -> int:
    """Returns the bytes of memory that this process should use at most."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([host // HOST_SHARE, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    """Yields the limits of this process's control groups at every level, of version 1 or 2."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            elif not controllers:
                top, name = root / "sys/fs/cgroup", "memory.max"
            else:
                continue
            group = top / path.lstrip("/")
            for directory in (group, *group.parents):
                with suppress(OSError, ValueError):  # "max": no limit; a namespace may hide the upper ones
                    yield int((directory / name).read_text())
                if directory == top:
                    break
