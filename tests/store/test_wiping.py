# SPDX-License-Identifier: GPL-2.0-only
"""Wiping: every byte of the buckets is zero, durably, and no byte beside them is touched."""

import pytest

from bcached.state.buckets.geometry import Geometry
from bcached.store.wiping import wipe_buckets
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.recording_device import RecordingDevice


@pytest.mark.parametrize("bucket_sectors", [8, 128, 8192])
async def test_buckets_are_zero_to_the_last_byte_and_nothing_else_is_touched(bucket_sectors: int) -> None:
    geometry = Geometry(
        bucket_count=8, first_bucket=1, bucket_sectors=bucket_sectors, block_sectors=8, journal_bucket_count=3
    )
    bucket = geometry.bucket_bytes
    device = MemoryDevice(8 * bucket)
    device.disk.contents[:] = b"\xa5" * device.size_bytes
    recorder = await RecordingDevice.over(device)
    await wipe_buckets(recorder, geometry, range(1, 4))
    image = device.image()
    assert not any(image[bucket : 4 * bucket])
    assert set(image[:bucket]) == set(image[4 * bucket :]) == {0xA5}
    assert recorder.log.entries[-1].kind == "flush"
    assert recorder.log.is_durable(recorder.log.entries[0])
    assert "discard" not in {entry.kind for entry in recorder.log.entries}
