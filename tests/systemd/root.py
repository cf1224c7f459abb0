# SPDX-License-Identifier: GPL-2.0-only
"""A minimal Debian with systemd, and the wheels bcached is installed from: made once, outside the checkout.

Both come the way this machine gets its own: packages from the mirror apt knows, wheels through pip. Deleting
the folder is how to get newer ones.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from kernel.errors import CannotRun
from kernel.packages import locked

FOLDER_VARIABLE = "BCACHED_SYSTEMD_CACHE"
CHECKOUT = Path(__file__).parents[2]
INCLUDED = "systemd,systemd-sysv,dbus,udev,python3,python3-venv,make,sudo,curl,procps"
TOOLS = {"systemd-nspawn": "systemd-container", "debootstrap": "debootstrap", "nsenter": "util-linux"}
SYSTEMD_LEAST = 252
DEBOOTSTRAP_S, PIP_S = 900, 300


def cache_folder() -> Path:
    """Where the root and the wheels are kept."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bcached-systemd"
    return Path(os.environ.get(FOLDER_VARIABLE) or default)


def ensure_tools() -> None:
    """Raises CannotRun unless we may boot a container here."""
    if os.geteuid() != 0:
        raise CannotRun("needs root: it boots a container")
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        raise CannotRun(f"missing on this machine: apt-get install {' '.join(missing)}")


def made_root(folder: Path) -> Path:
    """The root, by debootstrap now if need be; nothing in it is ours."""
    root, complete = folder / "root", folder / "root.complete"
    with locked(folder):
        if not complete.exists():
            shutil.rmtree(root, ignore_errors=True)
            mirror, release = mirror_of(index_targets())
            print(f"debootstrap of {release} from {mirror} into {root} ...", flush=True)
            command = [
                "debootstrap",
                "--variant=minbase",
                f"--include={INCLUDED}",
                release,
                str(root),
                mirror,
            ]
            run(command, DEBOOTSTRAP_S)
            complete.touch()
    return root


def index_targets() -> str:
    """The sources apt uses, a line each: where, which release, which component."""
    if shutil.which("apt-get") is None:
        raise CannotRun("there is no apt-get, which would know a mirror")
    wanted = ["--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    return run(["apt-get", "indextargets", *wanted], 60)


def mirror_of(targets: str) -> tuple[str, str]:
    """The mirror of the release itself, without a suffix for updates; and the release."""
    for line in targets.splitlines():
        match = re.fullmatch(r"(\S+) ([a-z]+) main", line)
        if match:
            return match[1], match[2]
    raise CannotRun("apt has no source of a Debian release: see /etc/apt, and run apt-get update")


def made_wheels(folder: Path, root: Path) -> Path:
    """All that bcached is installed from but itself, for the root's Python; downloaded now if need be."""
    asked = (CHECKOUT / "pyproject.toml").read_bytes() + (CHECKOUT / "constraints.txt").read_bytes()
    version = python_of(root)
    wheels = folder / f"wheels-{version}-{hashlib.sha256(asked).hexdigest()[:12]}"
    with locked(folder):
        if not wheels.exists():
            print(f"downloading wheels into {wheels} ...", flush=True)
            partial = folder / "wheels.partial"
            shutil.rmtree(partial, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
            which = ["--only-binary=:all:", "--python-version", version, "-c", CHECKOUT / "constraints.txt"]
            run([*pip, *map(str, which), "-d", str(partial), *requirements()], PIP_S)
            partial.rename(wheels)
    return wheels


def requirements() -> list[str]:
    """What pip needs to build bcached and to install it."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    return [*project["build-system"]["requires"], *project["project"]["dependencies"]]


def python_of(root: Path) -> str:
    """The version of the root's Python, as pip says it."""
    match = re.fullmatch(r"python(3\.\d+)", os.readlink(root / "usr/bin/python3"))
    assert match
    return match[1]


def run(command: Sequence[str], within_s: float) -> str:
    """What a program printed; raises CannotRun with its own words if it failed."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=within_s
        )
    except subprocess.TimeoutExpired:
        raise CannotRun(f"{command[0]} did not end within {within_s:g} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise CannotRun(f"{' '.join(command[:3])} failed: {said}")
    return done.stdout
