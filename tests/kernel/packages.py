# SPDX-License-Identifier: GPL-2.0-only
"""The kernels to be had, their packages, and the folder these are unpacked into, one for each series.

Nothing is installed on the host but programs that the harness runs, and those only where they are missing
and we may. A folder once filled is used as it is, so later runs need no network; deleting it is how to get
a newer kernel.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .apt import Apt
from .errors import CannotRun
from .process import run

FOLDER_VARIABLE = "BCACHED_KERNEL_CACHE"
QEMU = "qemu-system-x86_64"
TOOLS = {QEMU: "qemu-system-x86", "apt-get": "apt", "dpkg-deb": "dpkg"}
HELPERS = ("busybox-static", "bcache-tools")
# The series of kernels, and the release of Debian each is the kernel of; the first is the usual one.
SERIES = {"6.1": "bookworm", "6.12": "trixie"}
USUAL = next(iter(SERIES))


def cache_folder(series: str) -> Path:
    """Where downloads of a series, and what is built of them, are kept."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bcached-kernel"
    return Path(os.environ.get(FOLDER_VARIABLE) or default) / series


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out while this one fills the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def unpacked(folder: Path, series: str) -> Path:
    """The folder that holds the contents of all packages, downloaded now if need be."""
    root, complete = folder / "root", folder / "root.complete"
    if complete.exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    source = source_of(series, folder)
    packages = source.download([kernel_package(source, series)], folder / "debs/kernel")
    packages += Apt().download(HELPERS, folder / "debs/helpers")  # some run here, so of this release
    for package in packages:
        run(["dpkg-deb", "-x", str(package), str(root)])
    shutil.rmtree(folder / "debs")
    complete.write_text("".join(f"{package.name}\n" for package in packages))
    return root


def placed(root: Path, name: str) -> Path:
    """Where packages put what is found as /name: there or, since Debian 13, below /usr."""
    return root / name if (root / name).exists() else root / "usr" / name


def source_of(series: str, folder: Path) -> Apt:
    """Where kernels of that series come from: this machine's release if it has any, else their own."""
    here = Apt()
    if kernel_package(here, series):
        return here
    elsewhere = here.of_release(SERIES[series], folder / "apt")
    if kernel_package(elsewhere, series):
        return elsewhere
    raise CannotRun(f"apt finds no kernel {series} for amd64 in Debian {SERIES[series]}")


def kernel_package(source: Apt, series: str) -> str:
    """The name of Debian's current kernel of that series; empty if there is none."""
    for meta in (f"linux-image-{series}-amd64", "linux-image-amd64"):
        for package in source.depends(meta):
            if package.startswith(f"linux-image-{series}."):
                return package
    return ""
