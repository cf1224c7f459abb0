# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel lets pass without a word, and what is wrong all the same.

A gen on disk ahead of a pointer makes that pointer stale: the kernel then simply does not see what it
points to. A bucket with two owners shows only when one of them overwrites the other's. So these are
looked for on the image itself, before the kernel gets it.
"""

from collections.abc import Iterator
from pathlib import Path

from . import images
from .images import Entry, Reader, Superblock

PRIO_HEADER_BYTES = 40
PRIO_BYTES = 3  # a prio of 16 bits, a gen of 8
PRIO_SET_BYTES_MAX = 4 << 20
GENS_AHEAD_MAX = 96  # further, and the kernel warns


def silent_faults(path: Path) -> list[str]:
    """The faults of an image in use, in words; a fresh one has nothing to be wrong yet."""
    layout, entries = images.superblock(path), images.journal(path)
    if not layout.synchronous or not entries:
        return []
    newest = entries[-1]
    return [*faults_of_gens(path, layout, newest), *faults_of_places(path, layout, newest)]


def faults_of_gens(path: Path, layout: Superblock, newest: Entry) -> Iterator[str]:
    """Pointers may be ahead of the gens on disk, by no more than the kernel takes; never behind."""
    gens = gens_on_disk(path, layout, newest.prio_bucket)
    for name, pointer in (("root", newest.root), ("uuid table", newest.uuid_table)):
        bucket = pointer.sector * images.SECTOR // layout.bucket_bytes
        if bucket >= layout.bucket_count:
            continue  # told as a fault of its place
        ahead = (pointer.gen - gens[bucket]) % 256
        if ahead > GENS_AHEAD_MAX:
            yield f"the {name}'s gen is {pointer.gen}, its bucket's gen on disk is {gens[bucket]}"


def faults_of_places(path: Path, layout: Superblock, newest: Entry) -> Iterator[str]:
    """No bucket belongs to two, and none is outside the device or before the first."""
    owners: dict[int, str] = {}
    per_bucket = layout.bucket_bytes // images.SECTOR
    owned = [
        *(("journal", bucket) for bucket in layout.journal_buckets),
        *(("prios", bucket) for bucket in prio_chain(path, layout, newest.prio_bucket)),
        ("root", newest.root.sector // per_bucket),
        ("uuid table", newest.uuid_table.sector // per_bucket),
    ]
    for name, bucket in owned:
        if not layout.first_bucket <= bucket < layout.bucket_count:
            yield f"bucket {bucket} of the {name} is out of range"
        if bucket in owners:
            yield f"bucket {bucket} belongs to {owners[bucket]} and {name}"
        owners[bucket] = name


def prio_set_bytes(layout: Superblock) -> int:
    """The bytes of a prio set."""
    return min(layout.bucket_bytes, PRIO_SET_BYTES_MAX)


def prio_chain(path: Path, layout: Superblock, head: int) -> list[int]:
    """The buckets of the chain; its length follows from the device's, the last link means nothing."""
    per_set = (prio_set_bytes(layout) - PRIO_HEADER_BYTES) // PRIO_BYTES
    chain = [head]
    while len(chain) * per_set < layout.bucket_count:
        header = images.read_at(path, chain[-1] * layout.bucket_bytes, PRIO_HEADER_BYTES)
        chain.append(Reader(header).u64(32))
    return chain


def gens_on_disk(path: Path, layout: Superblock, head: int) -> bytes:
    """Every bucket's gen, bucket 0 first."""
    gens = bytearray()
    size = prio_set_bytes(layout)
    per_set = (size - PRIO_HEADER_BYTES) // PRIO_BYTES
    for bucket in prio_chain(path, layout, head):
        raw = images.read_at(path, bucket * layout.bucket_bytes, size)
        gens += raw[PRIO_HEADER_BYTES + 2 : PRIO_HEADER_BYTES + per_set * PRIO_BYTES : PRIO_BYTES]
    return bytes(gens[: layout.bucket_count])
