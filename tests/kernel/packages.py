"""Debian packages, downloaded by name through apt and unpacked into a folder of our own.

Nothing is installed on the host but qemu, and that only where it is missing and we may. A folder once
filled is used as it is, so later runs need no network; deleting it is how to get a newer kernel.
"""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import CannotRun, HarnessFailed

FOLDER_VARIABLE = "BCACHED_KERNEL_CACHE"
QEMU = "qemu-system-x86_64"
TOOLS = {QEMU: "qemu-system-x86", "apt-get": "apt", "dpkg-deb": "dpkg"}
HELPERS = ("busybox-static", "bcache-tools")


def cache_folder() -> Path:
    """Where downloads and what is built of them are kept."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bcached-kernel"
    return Path(os.environ.get(FOLDER_VARIABLE) or default)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out while this one fills the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure_tools() -> None:
    """Raise CannotRun unless all programs are there; install qemu if we are root and apt has it."""
    if shutil.which(QEMU) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {TOOLS[QEMU]} ...", flush=True)
        subprocess.run(
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", TOOLS[QEMU]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        raise CannotRun(f"missing on this machine; as root: apt-get install {' '.join(missing)}")


def unpacked(folder: Path) -> Path:
    """The folder that holds the contents of all packages, downloaded now if need be."""
    root, complete = folder / "root", folder / "root.complete"
    if complete.exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    packages = download([kernel_package(), *HELPERS], folder / "debs")
    for package in packages:
        run(["dpkg-deb", "-x", str(package), str(root)])
    shutil.rmtree(folder / "debs")
    complete.write_text("".join(f"{package.name}\n" for package in packages))
    return root


def kernel_package() -> str:
    """The package behind linux-image-amd64: Debian's current kernel for this release."""
    answer = run(["apt-cache", "depends", "linux-image-amd64"], "run apt-get update first")
    found = re.search(r"Depends: (linux-image-\S+)", answer)
    if found is None:
        raise CannotRun("apt does not know linux-image-amd64: run apt-get update, on Debian, on amd64")
    return found[1]


def download(names: Sequence[str], folder: Path) -> list[Path]:
    """The packages' files, fetched by apt, which checks their signatures."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.deb"):
        old.unlink()
    print(f"downloading {', '.join(names)} ...", flush=True)
    run(["apt-get", "-q", "download", *names], "run apt-get update first", cwd=folder)
    return sorted(folder.glob("*.deb"))


def run(command: Sequence[str], hint: str = "", cwd: Path | None = None) -> str:
    """What a program printed; its own words in the error if it failed."""
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-500:]
        message = f"{' '.join(command[:3])} failed: {said}"
        raise CannotRun(f"{message} ({hint})") if hint else HarnessFailed(message)
    return done.stdout
