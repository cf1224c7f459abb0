# SPDX-License-Identifier: GPL-2.0-only
"""The examples in Python, as the programs they are, against a real daemon."""

import subprocess
import sys
from pathlib import Path

import pytest

from instruments.clients.daemon_process import DaemonProcess

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"


def run(example: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / example), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_the_examples_keep_files_and_find_them(tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    files[0].write_bytes(b"1" * 100_000)
    files[1].write_bytes(b"2")
    with DaemonProcess() as daemon:
        daemon.wait_until_ready()
        assert "error" not in daemon.ask("Admin.CreateVolume", label="examples")
        done = run("blocking_client.py", daemon.socket_path, 0, files[0])
        assert (done.stdout, done.stderr) == ("102400 of 102400 bytes found, the same\n", "")
        done = run("asyncio_client.py", daemon.socket_path, 0, *files)
        assert (done.stdout, done.stderr) == (f"{files[0]}: the same\n{files[1]}: the same\n", "")
        refused = run("blocking_client.py", daemon.socket_path, 7, files[0])
        assert (refused.returncode, refused.stderr) == (1, "no volume has inode 7\n")


@pytest.mark.parametrize("example", ["blocking_client.py", "asyncio_client.py"])
def test_an_example_is_short(example: str) -> None:
    assert len((EXAMPLES / example).read_text().splitlines()) <= 40
