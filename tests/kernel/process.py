# SPDX-License-Identifier: GPL-2.0-only
"""Programs of this machine that the harness needs: that they are there, and one run of one."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import CannotRun, HarnessFailed


def need(tools: Mapping[str, str]) -> None:
    """Raise CannotRun unless these programs are there; they are installed if we are root and apt has them.

    tools: the package that each is in.
    """
    missing = missing_packages(tools)
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {', '.join(missing)} ...", flush=True)
        subprocess.run(
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
        missing = missing_packages(tools)
    if missing:
        raise CannotRun(f"missing on this machine; as root: apt-get install {' '.join(missing)}")


def missing_packages(tools: Mapping[str, str]) -> list[str]:
    """The packages of those programs that are not there."""
    return [package for tool, package in tools.items() if shutil.which(tool) is None]


def run(command: Sequence[str], hint: str = "", cwd: Path | None = None) -> str:
    """What a program printed; its own words in the error if it failed."""
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-500:]
        message = f"{' '.join(command[:3])} failed: {said}"
        raise CannotRun(f"{message} ({hint})") if hint else HarnessFailed(message)
    return done.stdout
