"""bcache.ko once more, with CONFIG_BCACHE_DEBUG: it then checks each node it merges, sorts or writes.

Built out of tree from Debian's own source of the very same kernel, with its headers and its compiler. All
this is optional: where something is missing, the cases that need it are skipped, and say what it is.
"""

import os
import re
import shutil
from pathlib import Path

from .errors import CannotRun
from .packages import download, run

TOOLS = {"gcc-12": "gcc-12", "make": "make", "strip": "binutils", "xz": "xz-utils"}
FLAG = "-DCONFIG_BCACHE_DEBUG=1"
MODULE = "kernel/drivers/md/bcache/bcache.ko"


def debug_module(root: Path, folder: Path) -> Path:
    """The module for the kernel that is unpacked in root; built below folder if it is not there yet."""
    release = next(root.glob("boot/vmlinuz-*")).name.removeprefix("vmlinuz-")
    built = folder / f"debug-{release}" / "bcache.ko"
    if not built.exists():
        ensure_tools()
        work = folder / "debug-work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        build(release, work, folder / "debs-debug", built)
        shutil.rmtree(work)
    return built


def ensure_tools() -> None:
    """Raise CannotRun unless the compiler and its helpers are there."""
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        raise CannotRun(f"to build bcache.ko with CONFIG_BCACHE_DEBUG: apt-get install {' '.join(missing)}")


def build(release: str, work: Path, packages: Path, built: Path) -> None:
    """Unpack headers and source into work, and build the module."""
    series = ".".join(release.split(".")[:2])
    headers, source = work / "headers", work / "source"
    for package in fetch(release, series, packages):
        run(["dpkg-deb", "-x", str(package), str(source if "linux-source" in package.name else headers)])
    tree = headers / f"usr/src/linux-headers-{release}"
    common = headers / f"usr/src/linux-headers-{release.removesuffix('-amd64')}-common"
    (tree / "Makefile").write_text(f"include {common}/Makefile\n")  # the package's names its place in /
    archive = source / f"usr/src/linux-source-{series}.tar.xz"
    part = f"linux-source-{series}/drivers/md/bcache"
    run(["tar", "-xJf", str(archive), "-C", str(work), part])
    print("building bcache.ko with CONFIG_BCACHE_DEBUG ...", flush=True)
    options = ["CONFIG_BCACHE=m", f"KCFLAGS={FLAG}"]
    run(["make", f"-j{os.cpu_count()}", "-C", str(tree), f"M={work / part}", *options, "modules"])
    run(["strip", "--strip-debug", str(work / part / "bcache.ko")])
    built.parent.mkdir(parents=True, exist_ok=True)
    (work / part / "bcache.ko").rename(built)


def fetch(release: str, series: str, folder: Path) -> list[Path]:
    """Headers, source and build tools, all of one version."""
    headers = f"linux-headers-{release}"
    names = [headers, f"{headers.removesuffix('-amd64')}-common", f"linux-kbuild-{series}"]
    packages = download([*names, f"linux-source-{series}"], folder)
    versions = {re.sub(r"^[^_]*_(.*)_[^_]*$", r"\1", package.name) for package in packages}
    if len(versions) > 1:
        raise CannotRun(f"the packages for building bcache.ko are of several versions: {sorted(versions)}")
    return packages
