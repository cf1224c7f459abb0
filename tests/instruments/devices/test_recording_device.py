# SPDX-License-Identifier: GPL-2.0-only
"""The log knows a drive's rule: a flush covers what was complete when it was issued."""

import asyncio
from random import Random

import pytest

from bcached.errors import DeviceError
from instruments.devices.durability_log import DurabilityLog
from instruments.devices.failing_device import FailingDevice, Fault
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.recording_device import RecordingDevice

OLD, NEW, NEWER = (bytes([value]) * 512 for value in (1, 2, 3))


@pytest.fixture
def log() -> DurabilityLog:
    return DurabilityLog(OLD * 8)


def test_a_write_without_a_flush_is_uncertain(log: DurabilityLog) -> None:
    log.complete(log.issue_write(512, NEW, durable=False))
    assert log.durable_bytes(512, 512) is None
    assert log.possible_bytes(512, 512) == [{OLD, NEW}]
    assert log.durable_bytes(0, 512) == OLD


def test_a_flush_issued_after_completion_makes_a_write_durable(log: DurabilityLog) -> None:
    write = log.issue_write(512, NEW, durable=False)
    log.complete(write)
    flush = log.issue("flush")
    before = log.position
    assert not log.is_durable(write)
    log.complete(flush)
    assert log.is_durable(write)
    assert log.durable_bytes(0, 1024) == OLD + NEW
    assert log.durable_bytes(512, 512, before) is None  # the past stays as it was


def test_a_flush_issued_before_completion_covers_nothing(log: DurabilityLog) -> None:
    write = log.issue_write(512, NEW, durable=False)
    flush = log.issue("flush")
    log.complete(write)
    log.complete(flush)
    assert not log.is_durable(write)
    log.complete(log.issue("flush"))
    assert log.is_durable(write)


def test_a_flush_that_overtakes_a_later_one_takes_nothing_back(log: DurabilityLog) -> None:
    early = log.issue("flush")
    write = log.issue_write(512, NEW, durable=False)
    log.complete(write)
    log.complete(log.issue("flush"))
    log.complete(early)
    assert log.is_durable(write)


def test_a_failed_flush_covers_nothing(log: DurabilityLog) -> None:
    write = log.issue_write(512, NEW, durable=False)
    log.complete(write)
    log.fail(log.issue("flush"))
    assert not log.is_durable(write)


def test_a_durable_write_needs_no_flush_and_covers_no_other(log: DurabilityLog) -> None:
    log.complete(log.issue_write(0, NEW, durable=False))
    durable = log.issue_write(512, NEW, durable=True)
    assert log.durable_bytes(512, 512) is None
    log.complete(durable)
    assert log.durable_bytes(512, 512) == NEW
    assert log.durable_bytes(0, 512) is None


def test_a_durable_write_hides_what_ended_before_it_and_not_what_overlapped(log: DurabilityLog) -> None:
    overlapping = log.issue_write(512, NEW, durable=False)
    log.complete(log.issue_write(512, NEWER, durable=True))
    log.complete(overlapping)
    assert log.possible_bytes(512, 512) == [{NEW, NEWER}]
    log.complete(log.issue_write(512, OLD, durable=True))
    assert log.durable_bytes(512, 512) == OLD


def test_a_failed_write_is_uncertain_until_it_is_written_over(log: DurabilityLog) -> None:
    log.fail(log.issue_write(512, NEW, durable=True))
    assert log.possible_bytes(512, 512) == [{OLD, NEW}]
    log.complete(log.issue("flush"))
    assert log.possible_bytes(512, 512) == [{OLD, NEW}]
    log.complete(log.issue_write(512, NEWER, durable=True))
    assert log.durable_bytes(512, 512) == NEWER


def test_discarded_bytes_are_anything_even_after_a_flush(log: DurabilityLog) -> None:
    log.complete(log.issue("discard", 512, 1024))
    assert log.possible_bytes(512, 512) == [{OLD, None}]
    log.complete(log.issue("flush"))
    assert log.possible_bytes(512, 512) == [{None}]
    assert log.durable_bytes(512, 512) is None
    log.complete(log.issue_write(512, NEW, durable=True))
    assert log.durable_bytes(512, 512) == NEW


def test_an_image_after_a_cut_holds_what_is_certain_and_some_of_the_rest(log: DurabilityLog) -> None:
    log.complete(log.issue_write(0, NEW, durable=True))
    log.complete(log.issue_write(512, NEW * 3, durable=False))
    images = {log.image_after_cut(Random(seed)) for seed in range(200)}
    assert all(image[:512] == NEW and image[2048:] == OLD * 4 for image in images)
    assert len(images) == 8  # three sectors, each old or new


def test_an_entry_tells_of_itself_in_one_line(log: DurabilityLog) -> None:
    entry = log.issue_write(512, NEW, durable=True)
    assert str(entry).startswith("0..in flight: durable write of 512 at 512 ")
    log.complete(entry)
    assert str(entry).startswith("0..1: ")
    assert str(log.issue("flush")) == "2..in flight: flush"


async def test_a_recording_device_logs_overlapping_operations_in_order() -> None:
    device = await RecordingDevice.over(MemoryDevice(4096))
    await asyncio.gather(device.write(0, NEW), device.flush(), device.discard(512, 512))
    kinds = [(entry.kind, entry.issued, entry.ended) for entry in device.log.entries]
    assert kinds == [("write", 0, 3), ("flush", 1, 4), ("discard", 2, 5)]
    assert device.log.durable_bytes(0, 512) is None
    await device.flush()
    assert device.log.durable_bytes(0, 512) == await device.read(0, 512) == NEW


async def test_a_recording_starts_from_the_bytes_that_are_there() -> None:
    device = await RecordingDevice.over(MemoryDevice.holding(OLD * 4))
    assert device.log.durable_bytes(0, 2048) == OLD * 4


async def test_what_was_written_is_logged_as_it_was_at_the_call() -> None:
    device = await RecordingDevice.over(MemoryDevice(4096))
    buffer = bytearray(NEW)
    await device.write(0, buffer, durable=True)
    buffer[:] = NEWER
    assert device.log.durable_bytes(0, 512) == NEW


async def test_a_failure_below_is_logged_and_passed_on() -> None:
    device = await RecordingDevice.over(FailingDevice(MemoryDevice(4096), Fault("write", 1)))
    with pytest.raises(DeviceError):
        await device.write(0, NEW)
    assert device.log.entries[0].failed
    assert device.log.possible_bytes(0, 512) == [{bytes(512), NEW}]
