# SPDX-License-Identifier: GPL-2.0-only
"""The n-th read, write, flush or discard goes wrong, for every n: the set ends with one typed error, or it
stood it; nothing acknowledged is lost, and a later life opens clean. BCACHED_SWEEP=1 leaves none out."""

import errno
import os
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from bcached.errors import BcachedError, DeviceError, DeviceFailed, FlushFailed
from instruments.clients.keeping_client import OwnWriteFailed
from instruments.devices.failing_device import Fault, Verb
from instruments.stories.stories import STORIES, Life, Story
from instruments.time.await_points import AwaitPoints
from instruments.time.virtual_time import run_in_virtual_time

ALL = bool(os.environ.get("BCACHED_SWEEP"))
SOME = (1, 2, 4, 9, 20, 45)
FEW = (2, 40)
FAULTS = {
    "EIO": Fault("read", 0, errno.EIO),
    "ENOSPC": Fault("read", 0, errno.ENOSPC),
    "short": Fault("read", 0, short_bytes=512),
    "EIO for ever": Fault("read", 0, errno.EIO, lasting=True),
}
# A client that cannot write its data knows; one whose keys cannot be read is told, and the set lives on.
OTHERWISE: dict[str, type[BcachedError]] = {"read": DeviceFailed, "write": OwnWriteFailed}
VERBS: list[Verb] = ["read", "write", "flush", "discard"]
every_story = pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())


@every_story
@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("verb", VERBS)
def test_whichever_call_fails(story: Story, verb: Verb, kind: str, tmp_path: Path) -> None:
    images = run_in_virtual_time(story.stage(tmp_path))

    async def live(number: int) -> bool:
        """Whether the device got so far as to fail."""
        life = Life(images, tmp_path)
        device = life.devices[-1]
        device.faults.append(replace(FAULTS[kind], verb=verb, count=number))
        error: BcachedError | None = None
        try:
            await life.run(story, AwaitPoints())
        except BcachedError as caught:
            error = caught
        if device.fired:
            # A client that cannot write its own data is told so, and the set lives on; so is one whose
            # question or change takes a node that cannot be read. Data that is to be moved stays where it is.
            told = {"write": DeviceError | OwnWriteFailed, "read": DeviceError | DeviceFailed | None}.get(
                verb, DeviceError
            )
            assert isinstance(error, told), f"{verb} {number} failed, and the set said {error!r}"
            assert verb != "flush" or isinstance(error, FlushFailed)
            assert error is None or device.path in str(error)
        else:
            assert error is None
        await life.check(tmp_path)
        return bool(device.fired)

    numbers = count(1) if ALL else FEW if story.long else SOME[list(FAULTS).index(kind) % 2 :: 2]
    for number in numbers:
        try:
            if not run_in_virtual_time(live(number)):
                break
        except BaseException as failure:
            failure.add_note(f"{verb} {number}")
            raise
