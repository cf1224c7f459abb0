# SPDX-License-Identifier: GPL-2.0-only
"""Priorities and gens of a range of buckets, as one bucket of the prio chain holds them.

     0 csum (over all that follows, slack too)    8 magic ^ set_magic    16 seq    24 version u32, unused
    32 next_bucket: the chain's next; undefined in the last               40 entries: prio u16, gen u8

Entry k of the chain's set i belongs to bucket i * prios_per_bucket + k, counted from bucket 0.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcached.errors import BadChecksum, BadField, BadMagic
from bcached.format.checksum import Buffer, crc64_we
from bcached.format.magic import PSET
from bcached.format.sizes import metadata_bytes

HEADER = struct.Struct("<QQQI4xQ")
assert HEADER.size == 40
ENTRY: np.dtype[Any] = np.dtype([("prio", "<u2"), ("gen", "u1")])
assert ENTRY.itemsize == 3
NAME = "prio set"


def prios_per_bucket(size_bytes: int) -> int:
    """Returns how many buckets one prio set of size_bytes covers."""
    return (size_bytes - HEADER.size) // ENTRY.itemsize


def prio_bucket_count(bucket_count: int, bucket_sectors: int) -> int:
    """Returns how many buckets one prio chain of a device takes."""
    return -(-bucket_count // prios_per_bucket(metadata_bytes(bucket_sectors)))


def claimed_seq(raw: Buffer, set_magic: int) -> int | None:
    """Returns the seq that the beginning of a bucket claims; None if it is no prio set of this set."""
    _, magic, seq, _, _ = HEADER.unpack_from(raw)
    return int(seq) if magic == PSET ^ set_magic else None


@dataclass(frozen=True, slots=True, eq=False)
class PrioSet:
    """One set of the chain. When parsed, as many entries as fit, also behind the device's last bucket."""

    seq: int
    next_bucket: int
    prios: NDArray[np.uint16]
    gens: NDArray[np.uint8]

    def pack(self, set_magic: int, size_bytes: int) -> bytearray:
        """Returns the set as it is on disk, zeros behind its entries."""
        count = len(self.prios)
        assert len(self.gens) == count <= prios_per_bucket(size_bytes)
        raw = bytearray(size_bytes)
        HEADER.pack_into(raw, 0, 0, PSET ^ set_magic, self.seq, 0, self.next_bucket)
        entries = np.frombuffer(raw, dtype=ENTRY, count=count, offset=HEADER.size)
        entries["prio"] = self.prios
        entries["gen"] = self.gens
        struct.pack_into("<Q", raw, 0, crc64_we(memoryview(raw)[8:]))
        return raw

    @classmethod
    def parse(cls, raw: Buffer, set_magic: int, where: str) -> "PrioSet":
        """Returns the set in raw, which is all that a bucket uses for it: the checksum covers all of raw."""
        if len(raw) <= HEADER.size:
            raise BadField(NAME, f"{where}, size", f"more than {HEADER.size} bytes", len(raw))
        csum, magic, seq, _, next_bucket = HEADER.unpack_from(raw)
        actual = crc64_we(memoryview(raw)[8:])
        if actual != csum:
            raise BadChecksum(NAME, where, f"{actual:#018x}", f"{csum:#018x}")
        if magic != PSET ^ set_magic:
            raise BadMagic(NAME, where, f"{PSET ^ set_magic:#018x}", f"{magic:#018x}")
        entries = np.frombuffer(raw, dtype=ENTRY, count=prios_per_bucket(len(raw)), offset=HEADER.size)
        return cls(
            seq=seq,
            next_bucket=next_bucket,
            prios=np.ascontiguousarray(entries["prio"]),
            gens=np.ascontiguousarray(entries["gen"]),
        )
