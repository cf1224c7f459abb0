# SPDX-License-Identifier: GPL-2.0-only
"""Prios and gens on the device: a chain of buckets, found from its head in the journal.

A chain is only ever written to fresh buckets, whole, and becomes the valid one when a journal entry names
its head. The writes themselves need no flush: the journal's flush covers them.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from bcached.device.block_device import BlockDevice
from bcached.device.run_all import run_all
from bcached.errors import BadField
from bcached.format.prio_set import PrioSet
from bcached.state.buckets.geometry import Geometry

WRITES_IN_FLIGHT = 4
PACK_IN_THREAD_BYTES = 128 << 10  # above, packing and its checksum would hold the loop for too long


@dataclass(frozen=True, slots=True, eq=False)
class PrioChain:
    """What a chain on disk says of every bucket, and its own buckets."""

    buckets: list[int]
    seq: int
    prios: npt.NDArray[np.uint16]
    gens: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, placed: Sequence[tuple[int, PrioSet]], bucket_count: int) -> "PrioChain":
        """Returns a whole chain, given each set with its bucket."""
        return cls(
            [bucket for bucket, _ in placed],
            placed[0][1].seq,
            np.concatenate([prio_set.prios for _, prio_set in placed])[:bucket_count],
            np.concatenate([prio_set.gens for _, prio_set in placed])[:bucket_count],
        )


async def follow_chain(
    device: BlockDevice, geometry: Geometry, head: int, set_magic: int
) -> AsyncIterator[tuple[int, PrioSet]]:
    """Follow a chain from its head to its exact length: yields the sets, each with its bucket.

    Raises FormatError at the first that is wrong. The last set's next_bucket means nothing (Kernel: leaves
    the head of the previous chain in it).
    """
    buckets: list[int] = []
    bucket, seq = head, 0
    for index in range(geometry.prio_bucket_count):
        where = f"{device.path} bucket {bucket}, prio set {index} of {geometry.prio_bucket_count}"
        if not geometry.first_bucket <= bucket < geometry.bucket_count or bucket in geometry.journal_buckets:
            expected = f"a bucket of {geometry.journal_buckets.stop} to {geometry.bucket_count - 1}"
            raise BadField("prio set", where, expected, bucket)
        if bucket in buckets:
            raise BadField("prio set", where, "a chain without a loop", f"bucket {bucket} again")
        raw = await device.read(geometry.byte_of(bucket), geometry.metadata_bytes)
        prio_set = PrioSet.parse(raw, set_magic, where)
        # Kernel: does not check this. A set of another write is sound, too, but has gens of another time.
        if buckets and prio_set.seq != seq:
            raise BadField("prio set", f"{where}, seq", seq, prio_set.seq)
        yield bucket, prio_set
        buckets.append(bucket)
        bucket, seq = prio_set.next_bucket, prio_set.seq


async def write_chain(
    device: BlockDevice,
    geometry: Geometry,
    set_magic: int,
    seq: int,
    buckets: list[int],
    prios: npt.NDArray[np.uint16],
    gens: npt.NDArray[np.uint8],
) -> None:
    """Write one chain, its last set first; gens are of one instant, prios may move meanwhile."""
    assert len(buckets) == geometry.prio_bucket_count

    async def write_set(index: int) -> None:
        start = index * geometry.prios_per_bucket
        stop = min(start + geometry.prios_per_bucket, geometry.bucket_count)
        following = buckets[index + 1] if index + 1 < len(buckets) else 0
        prio_set = PrioSet(seq, following, prios[start:stop].copy(), gens[start:stop])
        if geometry.metadata_bytes > PACK_IN_THREAD_BYTES:
            raw = await asyncio.to_thread(prio_set.pack, set_magic, geometry.metadata_bytes)
        else:
            raw = prio_set.pack(set_magic, geometry.metadata_bytes)
        await device.write(geometry.byte_of(buckets[index]), raw)

    await run_all((partial(write_set, index) for index in reversed(range(len(buckets)))), WRITES_IN_FLIGHT)
