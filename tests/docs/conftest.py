# SPDX-License-Identifier: GPL-2.0-only
"""A folder as `make run` leaves it, with a daemon like its own."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from instruments.clients.daemon_process import BIN, DaemonProcess


@pytest.fixture
def running() -> Iterator[DaemonProcess]:
    """A daemon on an image like that of `make run`."""
    daemon = DaemonProcess()
    make = [str(BIN / "bcachectl"), "make", "-b", "64k", "--size", "256M", str(daemon.folder / "cache.img")]
    subprocess.run(make, check=True, capture_output=True)
    with daemon:
        yield daemon.wait_until_ready()


@pytest.fixture
def folder(running: DaemonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, which is the current one, from the point of view of a client."""
    (tmp_path / ".venv").symlink_to(BIN.parent)
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "bcached.sock").symlink_to(running.socket_path)
    (tmp_path / "var" / "demo.img").symlink_to(running.folder / "cache.img")
    monkeypatch.chdir(tmp_path)
    return tmp_path
