# SPDX-License-Identifier: GPL-2.0-only
"""What every device promises, whatever it is made of."""

import asyncio
from random import Random

import pytest

from bcached.device import BlockDevice
from bcached.errors import DeviceError

KIB = 1024


def pattern(seed: int, length: int) -> bytes:
    return Random(seed).randbytes(length)


async def test_what_was_written_is_read(device: BlockDevice) -> None:
    await device.write(8 * KIB, pattern(1, 12 * KIB))
    await device.write(4096, bytearray(pattern(2, 4 * KIB)), durable=True)
    assert await device.read(4 * KIB, 16 * KIB) == pattern(2, 4 * KIB) + pattern(1, 12 * KIB)
    assert await device.read(0, 4 * KIB) == bytes(4 * KIB)


async def test_any_contiguous_buffer_can_be_written(device: BlockDevice) -> None:
    words = memoryview(bytearray(range(256)) * 16).cast("Q")
    await device.write(0, words)
    await device.write(4096, words.toreadonly(), durable=True)
    assert await device.read(0, 8 * KIB) == bytes(words) * 2


async def test_reads_may_begin_and_end_at_any_sector(device: BlockDevice) -> None:
    content = pattern(3, 16 * KIB)
    await device.write(0, content)
    for offset, length in ((0, 512), (512, 512), (3584, 1024), (4096, 512), (512, 8 * KIB), (7680, 4608)):
        assert await device.read(offset, length) == content[offset : offset + length]


@pytest.mark.parametrize("durable", [False, True])
async def test_an_extent_larger_than_any_buffer_is_moved_whole(device: BlockDevice, durable: bool) -> None:
    content = pattern(4, 3 * KIB * KIB + 4 * KIB)
    await device.write(4 * KIB, content, durable=durable)
    assert await device.read(4 * KIB, len(content)) == content
    assert await device.read(0, 4 * KIB) == bytes(4 * KIB)


async def test_the_last_block_can_be_used_and_nothing_beyond_it(device: BlockDevice) -> None:
    last = device.size_bytes - 4 * KIB
    await device.write(last, pattern(5, 4 * KIB))
    assert await device.read(last, 4 * KIB) == pattern(5, 4 * KIB)
    with pytest.raises(
        DeviceError, match=f"cannot read 8192 bytes at {last}: the device ends at {last + 4096}"
    ):
        await device.read(last, 8 * KIB)
    with pytest.raises(DeviceError, match="cannot write"):
        await device.write(last, bytes(8 * KIB))
    with pytest.raises(DeviceError, match="cannot discard"):
        await device.discard(device.size_bytes, 4 * KIB)
    assert await device.read(last, 4 * KIB) == pattern(5, 4 * KIB)


@pytest.mark.parametrize(("offset", "length"), [(1, 512), (0, 511), (0, 0), (-512, 512)])
async def test_an_extent_not_made_of_sectors_is_a_bug(device: BlockDevice, offset: int, length: int) -> None:
    for call in (
        device.read(offset, length),
        device.write(offset, bytes(length)),
        device.discard(offset, length),
    ):
        with pytest.raises(AssertionError):
            await call


async def test_a_write_below_the_logical_block_is_a_bug(device: BlockDevice) -> None:
    if device.logical_block_bytes == 512:
        await device.write(512, bytes(512))
    else:
        with pytest.raises(AssertionError):
            await device.write(512, bytes(512))


async def test_a_discard_leaves_its_neighbours_alone(device: BlockDevice) -> None:
    content = pattern(6, 64 * KIB)
    await device.write(0, content)
    await device.discard(16 * KIB, 16 * KIB)
    await device.flush()
    assert await device.read(0, 16 * KIB) == content[: 16 * KIB]
    assert await device.read(32 * KIB, 32 * KIB) == content[32 * KIB :]
    # Memory, image files and loop devices all turn to zeros; a real drive promises nothing.
    assert await device.read(16 * KIB, 16 * KIB) == bytes(16 * KIB)
    await device.write(16 * KIB, content[: 4 * KIB])
    assert await device.read(16 * KIB, 4 * KIB) == content[: 4 * KIB]


async def test_a_closed_device_says_so_and_can_be_closed_again(device: BlockDevice) -> None:
    await device.close()
    await device.close()
    for call in (
        device.read(0, 4096),
        device.write(0, bytes(4096)),
        device.write(0, bytes(4096), durable=True),
        device.flush(),
        device.discard(0, 4096),
    ):
        with pytest.raises(DeviceError, match="the device is closed"):
            await call


async def test_overlapping_operations_on_other_extents_do_not_disturb_each_other(device: BlockDevice) -> None:
    """Sixteen workers, each with 32 blocks of its own, against a model; repeatable, since seeded."""
    model = bytearray(await device.read(0, device.size_bytes))

    async def work(worker: int) -> None:
        random = Random(worker)
        home = worker * 128 * KIB
        for _ in range(40):
            offset = home + random.randrange(24) * 4 * KIB
            length = random.randint(1, 8) * 4 * KIB
            match random.choice(["write", "write", "durable", "discard", "read", "flush"]):
                case "read":
                    assert await device.read(offset, length) == model[offset : offset + length]
                case "flush":
                    await device.flush()
                case "discard":
                    model[offset : offset + length] = bytes(length)
                    await device.discard(offset, length)
                case kind:
                    content = random.randbytes(length)
                    model[offset : offset + length] = content
                    await device.write(offset, content, durable=kind == "durable")

    async with asyncio.TaskGroup() as workers:
        for worker in range(16):
            workers.create_task(work(worker))
    assert await device.read(0, device.size_bytes) == bytes(model)


async def test_close_waits_for_what_is_in_flight(device: BlockDevice) -> None:
    content = pattern(7, 1024 * KIB)
    offsets = range(0, device.size_bytes, len(content))
    writes = [asyncio.ensure_future(device.write(offset, content)) for offset in offsets]
    writes.append(asyncio.ensure_future(device.write(0, content, durable=True)))
    writes.append(asyncio.ensure_future(device.flush()))
    await asyncio.sleep(0)
    await asyncio.gather(device.close(), device.close())
    await asyncio.gather(*writes)  # none of them failed


async def test_a_cancelled_write_is_complete_or_never_begun(device: BlockDevice) -> None:
    before, content = bytes(2048 * KIB), pattern(8, 2048 * KIB)
    for attempt in range(12):
        await device.write(0, before)
        write = asyncio.ensure_future(device.write(0, content, durable=attempt % 2 == 0))
        await asyncio.sleep(attempt * 0.0001)
        write.cancel()
        outcome = (await asyncio.gather(write, return_exceptions=True))[0]
        assert outcome is None or isinstance(outcome, asyncio.CancelledError)
        # No patience here: were a thread still writing, this would find a part of it.
        found = await device.read(0, len(content))
        assert found in (before, content)
        assert found == content or outcome is not None
