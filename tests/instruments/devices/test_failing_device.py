# SPDX-License-Identifier: GPL-2.0-only
"""A failing device fails when it is told to, and otherwise does not."""

import errno

import pytest

from bcached.errors import DeviceError, FlushFailed
from instruments.devices.failing_device import FailingDevice, Fault, Verb
from instruments.devices.memory_device import MemoryDevice

ONES = b"\x01" * 1024


async def call(device: FailingDevice, verb: Verb) -> None:
    match verb:
        case "read":
            await device.read(0, 1024)
        case "write":
            await device.write(0, ONES)
        case "flush":
            await device.flush()
        case "discard":
            await device.discard(0, 1024)


@pytest.mark.parametrize("verb", ["read", "write", "discard"])
async def test_only_the_named_call_fails(verb: Verb) -> None:
    device = FailingDevice(MemoryDevice(4096), Fault(verb, 2))
    await call(device, verb)
    with pytest.raises(DeviceError, match="Input/output error"):
        await call(device, verb)
    await call(device, verb)
    assert len(device.fired) == 1
    assert device.calls[verb] == 3


async def test_a_lasting_fault_stays() -> None:
    device = FailingDevice(MemoryDevice(4096), Fault("read", 2, lasting=True))
    await call(device, "read")
    for _ in range(3):
        with pytest.raises(DeviceError):
            await call(device, "read")


async def test_a_fault_has_the_errno_it_was_given_and_leaves_the_bytes_alone() -> None:
    device = FailingDevice(MemoryDevice(4096), Fault("write", 1, errno.ENOSPC))
    with pytest.raises(DeviceError, match="cannot write 1024 bytes at 0: No space left on device"):
        await call(device, "write")
    assert await device.read(0, 1024) == bytes(1024)


async def test_a_short_write_leaves_its_beginning() -> None:
    device = FailingDevice(MemoryDevice(4096), Fault("write", 1, short_bytes=512))
    with pytest.raises(DeviceError, match="expected 1024 bytes, found 512"):
        await call(device, "write")
    assert await device.read(0, 1024) == ONES[:512] + bytes(512)


@pytest.mark.parametrize("later", ["write", "flush", "discard"])
async def test_after_a_failed_flush_only_reads_work(later: Verb) -> None:
    device = FailingDevice(MemoryDevice(4096), Fault("flush", 1))
    await call(device, "write")
    with pytest.raises(FlushFailed):
        await device.flush()
    with pytest.raises(FlushFailed):
        await call(device, later)
    assert await device.read(0, 1024) == ONES


async def test_a_durable_write_that_fails_is_as_fatal() -> None:
    device = FailingDevice(MemoryDevice(4096), Fault("write", 1))
    with pytest.raises(FlushFailed, match="durably"):
        await device.write(0, ONES, durable=True)
    with pytest.raises(FlushFailed):
        await device.write(0, ONES)
