# SPDX-License-Identifier: GPL-2.0-only
"""The devices that the suite of this room runs on: memory, image files, and loop devices."""

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBusterFunction, blockbuster_ctx

from bcached.device import BlockDevice, FileDevice
from instruments.devices.loop_device import loop_device
from instruments.devices.memory_device import MemoryDevice

SIZE_BYTES = 4 << 20


# Calls that wait for a device, and that blockbuster does not know by itself.
DEVICE_CALLS = [
    (os, ("open", "close", "lstat", "fstat", "lseek", "preadv", "pwritev", "fdatasync", "readlink")),
    (fcntl, ("ioctl", "flock")),
]
# Measuring coverage looks up the file of each frame, and shares its data among threads, wherever that runs.
COVERAGE = (("coverage/control.py", "_should_trace"), ("coverage/collector.py", "lock_data"))


@pytest.fixture(autouse=True)
def no_blocking_call_in_this_room() -> Iterator[None]:
    """A blocking call that the room makes on the loop fails the test."""
    calls = [
        BlockBusterFunction(module, name, scanned_modules="bcached.device")
        for module, names in DEVICE_CALLS
        for name in names
    ]
    with blockbuster_ctx("bcached.device") as known:
        for call in (*calls, *known.functions.values()):
            for file, function in COVERAGE:
                call.can_block_in(file, function)
        for call in calls:
            call.activate()
        yield
        for call in calls:
            call.deactivate()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.touch()
    with path.open("r+b") as file:
        file.truncate(SIZE_BYTES)
    return path


@pytest.fixture(
    params=[
        "memory",
        "memory of 4096",
        "image",
        "buffered image",
        pytest.param("loop", marks=pytest.mark.root),
        pytest.param("loop of 4096", marks=pytest.mark.root),
    ]
)
async def device(request: pytest.FixtureRequest, image: Path) -> AsyncIterator[BlockDevice]:
    block_bytes = 4096 if "4096" in request.param else 512
    match request.param.split():
        case ["memory", *_]:
            opened: BlockDevice = MemoryDevice(SIZE_BYTES, block_bytes)
            yield opened
            await opened.close()
        case ["loop", *_]:
            with loop_device(image, block_bytes) as path:
                opened = await FileDevice.open(path)
                yield opened
                await opened.close()
        case kind:
            opened = await FileDevice.open(str(image), direct="buffered" not in kind)
            yield opened
            await opened.close()
