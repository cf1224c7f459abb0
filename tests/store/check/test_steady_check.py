# SPDX-License-Identifier: GPL-2.0-only
"""A check of a set that is being written: what passes is no finding, and what stays is one."""

from collections.abc import Sequence

import pytest

from bcached.errors import SetRefused
from bcached.store.check import steady_check
from bcached.store.check.checker import NodeRead, check_set
from bcached.store.check.steady_check import READINGS_MAX, SteadyCheck, check_steadily
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.image_builder import ImageBuilder, two_levels
from instruments.time.virtual_time import in_virtual_time


class ChangingDevice(MemoryDevice):
    """Shows one image after the other, the next with each reading; the last one stays."""

    images: Sequence[bytes] = ()
    readings = 0

    async def read(self, offset: int, length: int) -> bytes:
        if (offset, length) == (4096, 4096):  # the superblock: a reading begins
            self.disk.contents[:] = self.images[min(self.readings // 2, len(self.images) - 1)]
            self.readings += 1
        return await super().read(offset, length)


def image(*damaged: int, seq: int = 1) -> bytes:
    """A set in which some of three leaves are damaged."""
    builder = ImageBuilder()
    root, leaves = two_levels(builder)
    builder.finish(root, 1, [[] for _ in range(seq)])
    for number in damaged:
        builder.flip(builder.byte_of(leaves[number]) + 40)
    return bytes(builder.images[0])


async def check(*images: bytes, in_use: bool = True) -> SteadyCheck:
    device = ChangingDevice(len(images[0]), path="disk0")
    device.images = images
    return await check_steadily([device], in_use=in_use)


def rules(found: SteadyCheck) -> list[str]:
    return [finding.rule for finding in found.checked.findings.listed]


@in_virtual_time
async def test_what_is_not_there_again_is_no_finding() -> None:
    found = await check(image(1), image())
    assert (rules(found), found.checked.findings.sound) == ([], True)
    assert (found.readings, found.passing) == (2, 1)


@in_virtual_time
async def test_a_new_place_each_time_is_no_finding_either() -> None:
    found = await check(image(0), image(1), image(2))
    assert (rules(found), found.readings) == ([], 2)


@in_virtual_time
async def test_what_stays_is_a_finding_whatever_passes_beside_it() -> None:
    found = await check(image(0, 1), image(1, 2), image(1), image(0, 1))
    assert rules(found) == ["node-damaged"]
    assert not found.checked.findings.sound
    assert (found.readings, found.passing) == (READINGS_MAX, 2)


@in_virtual_time
async def test_a_set_that_is_sound_or_at_rest_is_read_once() -> None:
    assert (await check(image())).readings == 1
    found = await check(image(1), in_use=False)
    assert (rules(found), found.readings) == (["node-damaged"], 1)


@in_virtual_time
async def test_a_set_that_moves_is_in_use_whatever_the_locks_say() -> None:
    found = await check(image(1), image(seq=2), in_use=False)
    assert (rules(found), found.passing) == ([], 1)


@in_virtual_time
async def test_what_cannot_be_checked_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = check_set, 0

    async def sometimes(devices: Sequence[MemoryDevice], node_read: NodeRead) -> object:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise SetRefused("half a superblock")
        return await whole(devices, node_read)

    monkeypatch.setattr(steady_check, "check_set", sometimes)
    found = await check(image())
    assert (rules(found), found.readings) == ([], 3)
    calls = -READINGS_MAX
    with pytest.raises(SetRefused):
        await check(image())
