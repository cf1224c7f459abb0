# SPDX-License-Identifier: GPL-2.0-only
"""Prio chains: written whole and last set first, read exactly as far as they go."""

import numpy as np
import pytest

from bcached.errors import BadField, DeviceError, FormatError
from bcached.format.prio_set import PrioSet
from bcached.state.buckets.geometry import Geometry
from bcached.store.prio_chain import PrioChain, write_chain
from instruments.devices.failing_device import FailingDevice, Fault
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.recording_device import RecordingDevice
from instruments.samples.read_back import read_chain

COUNT, BUCKET, MAGIC = 3000, 4096, 0x1234
GEOMETRY = Geometry(
    bucket_count=COUNT, first_bucket=3, bucket_sectors=8, block_sectors=1, journal_bucket_count=8
)
BUCKETS = [700, 20, 2999]  # three sets for 3000 buckets
PRIOS = np.arange(COUNT, dtype=np.uint16)
GENS = (np.arange(COUNT) % 251).astype(np.uint8)


async def written(buckets: list[int] = BUCKETS, seq: int = 5) -> RecordingDevice:
    recorder = await RecordingDevice.over(MemoryDevice(COUNT * BUCKET))
    await write_chain(recorder, GEOMETRY, MAGIC, seq, buckets, PRIOS, GENS)
    return recorder


async def read(device: RecordingDevice | MemoryDevice, head: int = BUCKETS[0]) -> PrioChain:
    return await read_chain(device, GEOMETRY, head, MAGIC)


async def rewrite(device: RecordingDevice, index: int, **fields: int) -> None:
    """One set of the chain with other fields."""
    at = BUCKETS[index] * BUCKET
    there = PrioSet.parse(await device.read(at, BUCKET), MAGIC, "here")
    values = {"seq": there.seq, "next_bucket": there.next_bucket, **fields}
    await device.write(at, PrioSet(prios=there.prios, gens=there.gens, **values).pack(MAGIC, BUCKET))


async def test_what_was_written_is_read() -> None:
    chain = await read(await written())
    assert (chain.buckets, chain.seq) == (BUCKETS, 5)
    assert np.array_equal(chain.prios, PRIOS)
    assert np.array_equal(chain.gens, GENS)


async def test_the_last_set_is_begun_first_and_each_is_written_whole() -> None:
    entries = (await written()).log.entries
    assert [entry.offset // BUCKET for entry in entries] == BUCKETS[::-1]
    assert {(entry.kind, entry.length, entry.durable) for entry in entries} == {("write", BUCKET, False)}


async def test_what_the_last_set_says_of_a_next_one_means_nothing() -> None:
    device = await written()
    for junk in (BUCKETS[0], 0, 1 << 60):
        await rewrite(device, 2, next_bucket=junk)
        assert (await read(device)).buckets == BUCKETS


@pytest.mark.parametrize("next_bucket", [0, 2, 3, 10, COUNT, 1 << 60])
async def test_a_next_set_where_none_can_be_is_refused(next_bucket: int) -> None:
    device = await written()
    await rewrite(device, 0, next_bucket=next_bucket)
    with pytest.raises(
        BadField, match=f"prio set 1 of 3: expected a bucket of 11 to 2999, found {next_bucket}"
    ):
        await read(device)


@pytest.mark.parametrize("head", [0, 3, COUNT])
async def test_a_head_where_no_set_can_be_is_refused(head: int) -> None:
    with pytest.raises(BadField, match=f"prio set 0 of 3: expected a bucket of 11 to 2999, found {head}"):
        await read(await written(), head)


@pytest.mark.parametrize(("index", "back_to"), [(0, 0), (1, 0), (1, 1)])
async def test_a_loop_is_refused(index: int, back_to: int) -> None:
    device = await written()
    await rewrite(device, index, next_bucket=BUCKETS[back_to])
    with pytest.raises(BadField, match=f"a chain without a loop, found bucket {BUCKETS[back_to]} again"):
        await read(device)


@pytest.mark.parametrize("index", [0, 1, 2])
async def test_a_torn_set_is_refused(index: int) -> None:
    device = await written()
    await device.write(BUCKETS[index] * BUCKET + 2048, bytes(512) if index < 2 else b"\xff" * 512)
    with pytest.raises(FormatError, match=f"prio set {index} of 3"):
        await read(device)


async def test_a_set_of_another_write_is_refused() -> None:
    device = await written()
    await rewrite(device, 1, seq=4)
    with pytest.raises(BadField, match="prio set 1 of 3, seq: expected 5, found 4"):
        await read(device)


async def test_a_failed_write_is_told_when_no_other_is_under_way_any_more() -> None:
    inner = await RecordingDevice.over(MemoryDevice(COUNT * BUCKET))
    failing = FailingDevice(inner, Fault("write", 2))
    with pytest.raises(DeviceError, match="cannot write"):
        await write_chain(failing, GEOMETRY, MAGIC, 5, BUCKETS, PRIOS, GENS)
    assert all(entry.ended is not None for entry in inner.log.entries)
