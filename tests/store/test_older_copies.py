# SPDX-License-Identifier: GPL-2.0-only
"""A member that is an older copy is called that, whatever its age; one that lost power never is."""

from random import Random
from typing import Literal

import pytest

from bcached.errors import DeviceError, SetRefused
from bcached.store.check.checker import check_set
from bcached.store.reading.set_reader import read_set
from instruments.devices.failing_device import FailingDevice, Fault
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.used_set import fresh_devices, open_set

# How many entries there were when the copy was made.
AGES: list[Literal["fresh"] | int] = ["fresh", 1, 2, 40, 600]
ENTRIES = 900  # more than the rings hold


def named(images: list[bytes]) -> list[MemoryDevice]:
    devices = [MemoryDevice.holding(image) for image in images]
    for number, device in enumerate(devices):
        device.path = f"d{number}"
    return devices


async def lives_of(members: int) -> dict[str | int, list[bytes]]:
    """The images of a set when it had so many entries; AGES, and the last ones."""
    devices = await fresh_devices(*[530] * members)
    images: dict[str | int, list[bytes]] = {"fresh": [device.image() for device in devices]}
    opened = await open_set(devices)
    for seq in range(1, ENTRIES + 1):
        if seq > 1:
            await opened.journal.commit()
        if seq in AGES or seq == ENTRIES:
            images[seq] = [device.image() for device in devices]
    return images


async def refusal(devices: list[MemoryDevice]) -> str:
    with pytest.raises(SetRefused) as refused:
        await read_set(devices)
    return str(refused.value)


@pytest.mark.parametrize("members", [2, 3])
async def test_a_member_is_told_to_be_an_older_copy_of_any_age(members: int) -> None:
    images = await lives_of(members)
    await read_set(named(images[ENTRIES]))
    for member in range(members):
        for age in AGES:
            devices = named([*images[ENTRIES]])
            devices[member] = named(images[age])[member]
            said = await refusal(devices)
            found = (await check_set(devices)).findings
            assert said.startswith((f"d{member}: ", f"set at d{member}: "))
            if age == "fresh":
                assert (
                    "an older copy from before the first run, but the other members of its set are in use"
                    in said
                )
                assert "set-members" in found.counts
                continue
            expected = (
                f"is an older copy of member {member}: its newest journal entry is {age}, but {ENTRIES} on d"
            )
            assert expected in said
            assert f", {ENTRIES - age} later; " in said
            assert [finding.problem for finding in found.listed if finding.rule == "member-older"] == [said]
            assert not found.sound


async def test_copies_of_all_members_of_one_moment_are_a_set() -> None:
    images = await lives_of(2)
    for age in AGES:
        await open_set(named(images[age]))


@pytest.mark.parametrize("members", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
async def test_a_set_that_loses_power_again_and_again_is_never_taken_for_older(
    members: int, seed: int
) -> None:
    """In each life the first entry reaches some of the members and not others."""
    random = Random(seed)
    devices = await fresh_devices(*[530] * members)
    await (await open_set(devices)).journal.commit()
    for _ in range(40):
        failing = {random.randrange(members)} | {m for m in range(members) if random.random() < 0.4}
        given = [
            FailingDevice(device, Fault("write", 1, lasting=True)) if member in failing else device
            for member, device in enumerate(devices)
        ]
        opened = await open_set(given)
        with pytest.raises(DeviceError):
            await opened.journal.commit()
        assert (await check_set(devices)).findings.counts["member-older"] == 0
    await (await open_set(devices)).journal.commit()


async def test_a_member_and_its_copy_are_told_with_their_ages() -> None:
    images = await lives_of(1)
    for older, newer in ((2, 600), (600, ENTRIES), (40, 40), ("fresh", 40)):
        for first, second in ((older, newer), (newer, older)):
            devices = named([images[first][0], images[second][0]])
            said = await refusal(devices)
            (finding,) = (await check_set(devices)).findings.listed
            assert (finding.rule, finding.problem) == ("set-members", said)
            assert said.startswith("d1 and d0: both are member 0 of set ")
            if "fresh" in (older, newer) or older == newer:
                assert "one of them is a copy of the other, or they are one device under two names" in said
            else:
                path = "d0" if first == older else "d1"
                assert (
                    f"{path} is an older copy: its newest journal entry is {older}, but {newer} on d" in said
                )


async def test_one_member_of_several_given_twice_is_told() -> None:
    images = await lives_of(2)
    said = await refusal(named([images[600][1], images[ENTRIES][1]]))
    assert "both are member 1 of set " in said
    assert f"d0 is an older copy: its newest journal entry is 600, but {ENTRIES} on d1, 300 later" in said
