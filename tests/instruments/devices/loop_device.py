# SPDX-License-Identifier: GPL-2.0-only
"""Loop devices for tests that need a real block device; they need root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def require_root() -> None:
    """Skip, saying so, where no loop devices or mounts can be made."""
    if os.geteuid() != 0 or shutil.which("losetup") is None or not Path("/dev/loop-control").exists():
        pytest.skip("needs root, losetup and /dev/loop-control: nothing is said about block devices")


@contextmanager
def loop_device(backing: Path, sector_bytes: int = 512, *, read_only: bool = False) -> Iterator[str]:
    """The path of a loop device over the file, while the block lasts."""
    require_root()
    command = ["losetup", "--find", "--show", "--sector-size", str(sector_bytes), str(backing)]
    command += ["--read-only"] * read_only
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no loop device to be had: {made.stderr.strip()}")
    path = made.stdout.strip()
    try:
        yield path
    finally:
        subprocess.run(["losetup", "--detach", path], check=True)


@contextmanager
def mounted(kind: str, directory: Path, options: str = "rw") -> Iterator[Path]:
    """A new file system in memory (tmpfs, ramfs), mounted on the directory while the block lasts."""
    require_root()
    command = ["mount", "-t", kind, "-o", options, kind, str(directory)]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no {kind} to be mounted: {made.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextmanager
def small_tmpfs(directory: Path, size_bytes: int) -> Iterator[Path]:
    """A file system that is full after so many bytes, mounted on the directory while the block lasts."""
    with mounted("tmpfs", directory, f"size={size_bytes}"):
        yield directory
