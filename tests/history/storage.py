# SPDX-License-Identifier: GPL-2.0-only
"""What a set may be on: memory, a file of ext4 or xfs, or a loop device; all but memory need root."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bcached.client.data.data_paths import DataPaths
from bcached.keys import Key, Pointer
from bcached.units import SECTOR_BYTES

KINDS = ("memory", "ext4", "xfs", "loop")
FILE_SYSTEM_BYTES = 512 << 20  # xfs has at least 300 MiB


def missing_for(kind: str) -> str | None:
    """Returns what is not there for it, if anything."""
    if kind == "memory":
        return None
    programs = ["losetup", *([] if kind == "loop" else [f"mkfs.{kind}"])]
    absent = [program for program in programs if shutil.which(program) is None]
    if absent or os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        return f"{absent[0]} is not there" if absent else "needs root and /dev/loop-control"
    return None


@contextmanager
def storage(kind: str, size_bytes: int) -> Iterator[str]:
    """Returns a block device, or a folder for the image, while the block lasts; "" for memory."""
    if kind == "memory":
        yield ""
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        backing = folder / "backing"
        with backing.open("wb") as file:
            file.truncate(size_bytes if kind == "loop" else FILE_SYSTEM_BYTES)
        device = _out(["losetup", "--find", "--show", str(backing)])
        stack.callback(_out, ["losetup", "--detach", device])
        if kind == "loop":
            yield device
            return
        _out([f"mkfs.{kind}", "-q", device])
        mount = folder / "mount"
        mount.mkdir()
        _out(["mount", device, str(mount)])
        stack.callback(_out, ["umount", str(mount)])
        yield str(mount)


def _out(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def direct_writes() -> Any:
    """A patch: a cache's writes go past the page cache, its reads go through it."""
    paths: dict[int, DataPaths] = {}

    def write_parts(
        self: DataPaths, pointer: Pointer, parts: Sequence[bytes | memoryview], **_: bool
    ) -> None:
        direct = paths.get(id(self))
        if direct is None:
            devices = list(self._devices.values())
            direct = paths[id(self)] = DataPaths(devices, direct=True, whole_buckets=True)
        data = b"".join(parts)
        direct.write(Key(0, 0, len(data) // SECTOR_BYTES, False, (pointer,)), data)

    return patch.object(DataPaths, "write_parts", write_parts)
