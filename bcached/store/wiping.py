# SPDX-License-Identifier: GPL-2.0-only
"""Zeroing whole buckets, so that former contents are never read from them."""

from bcached.device.block_device import BlockDevice
from bcached.state.buckets.geometry import Geometry

CHUNK_BYTES = 1 << 20


async def wipe_buckets(device: BlockDevice, geometry: Geometry, buckets: range) -> None:
    """Write zeros over all of these buckets, and flush.

    Zeros are written, not discarded: what a discarded sector reads as is undefined. Zeroing first blocks is
    not enough for a journal: behind a new first entry the reader would go on to old ones.
    """
    zeros = bytes(CHUNK_BYTES)
    end = geometry.byte_of(buckets.stop)
    for offset in range(geometry.byte_of(buckets.start), end, CHUNK_BYTES):
        await device.write(offset, memoryview(zeros)[: min(CHUNK_BYTES, end - offset)])
    await device.flush()
