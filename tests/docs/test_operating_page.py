# SPDX-License-Identifier: GPL-2.0-only
"""docs/operating.md: its commands as written, in its order, with the daemon running where the page says."""

import os
import re
import subprocess
from pathlib import Path

from instruments.clients.daemon_process import BIN, DaemonProcess

PAGE = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
BLOCKS = re.findall(r"(?ms)^```\n(.*?)^```$", PAGE)
RUNNING = ("bcachectl volume create", "bcachectl read")  # what the blocks that need the daemon begin with
WITHIN_S = 100


def run(commands: str, daemon: DaemonProcess) -> None:
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "BCACHED_SOCKET": str(daemon.socket_path)}
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", commands],
        cwd=daemon.folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert done.returncode == 0, done.stderr


def test_every_command_works_as_written() -> None:
    assert sum(block.startswith(RUNNING) for block in BLOCKS) == len(RUNNING)
    daemon = DaemonProcess()
    try:
        for block in BLOCKS:
            if block.startswith(RUNNING):
                with_daemon(block, daemon)
            else:
                run(block, daemon)
    finally:
        daemon.__exit__()


def with_daemon(block: str, daemon: DaemonProcess) -> None:
    """Run commands while the daemon runs on the image they left, and stop it cleanly."""
    daemon.start()
    daemon.wait_until_ready()
    run(block, daemon)
    assert daemon.end() == 0
