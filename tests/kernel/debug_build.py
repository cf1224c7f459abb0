# SPDX-License-Identifier: GPL-2.0-only
"""bcache.ko once more, with CONFIG_BCACHE_DEBUG: it then checks each node it merges, sorts or writes.

Built out of tree from Debian's own source of the very same kernel, with its headers and its compiler. All
this is optional: where something is missing, the cases that need it are skipped, and say what it is.
"""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from .apt import Apt
from .errors import CannotRun
from .packages import source_of
from .process import missing_packages, run

TOOLS = {"make": "make", "strip": "binutils", "xz": "xz-utils"}
OPTIONS = (
    "CONFIG_BCACHE=m",
    "CONFIG_DEBUG_INFO_BTF_MODULES=",  # type information would take the unstripped kernel, and is not used
    "KCFLAGS=-DCONFIG_BCACHE_DEBUG=1",
)


def debug_module(root: Path, folder: Path, series: str) -> Path:
    """The module for the kernel that is unpacked in root; built below folder if it is not there yet."""
    (config,) = root.glob("boot/config-*")
    release = config.name.removeprefix("config-")
    built = folder / f"debug-{release}" / "bcache.ko"
    if not built.exists():
        ensure_tools(compiler_of(config.read_text()))
        work = folder / "debug-work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        packages = fetch(source_of(series, folder), release, series, folder / "debs-debug")
        build(release, series, work, packages, built)
        shutil.rmtree(work)
    return built


def compiler_of(config: str) -> str:
    """The compiler that the kernel of this configuration was built with, such as gcc-12."""
    found = re.search(r'^CONFIG_CC_VERSION_TEXT="(?:\S*-)?(gcc-\d+) ', config, re.MULTILINE)
    if found is None:
        raise CannotRun("the kernel's configuration names no gcc, so no module can be built for it")
    return found[1]


def ensure_tools(compiler: str) -> None:
    """Raise CannotRun unless the compiler and its helpers are there."""
    missing = missing_packages({compiler: compiler, **TOOLS})
    if missing:
        raise CannotRun(f"to build bcache.ko with CONFIG_BCACHE_DEBUG: apt-get install {' '.join(missing)}")


def build(release: str, series: str, work: Path, packages: Sequence[Path], built: Path) -> None:
    """Unpack headers and source into work, and build the module."""
    headers, source = work / "headers", work / "source"
    for package in packages:
        run(["dpkg-deb", "-x", str(package), str(source if "linux-source" in package.name else headers)])
    tree = headers / f"usr/src/linux-headers-{release}"
    common = headers / f"usr/src/linux-headers-{release.removesuffix('-amd64')}-common"
    (tree / "Makefile").write_text(f"include {common}/Makefile\n")  # the package's names its place in /
    archive = source / f"usr/src/linux-source-{series}.tar.xz"
    part = f"linux-source-{series}/drivers/md/bcache"
    run(["tar", "-xJf", str(archive), "-C", str(work), part])
    print("building bcache.ko with CONFIG_BCACHE_DEBUG ...", flush=True)
    command = ["make", f"-j{os.cpu_count()}", "-C", str(tree), f"M={work / part}", *OPTIONS, "modules"]
    run(command, "the module cannot be built on this machine")
    run(["strip", "--strip-debug", str(work / part / "bcache.ko")])
    built.parent.mkdir(parents=True, exist_ok=True)
    (work / part / "bcache.ko").rename(built)


def fetch(source: Apt, release: str, series: str, folder: Path) -> list[Path]:
    """Headers, the kernel's source and build tools, all of one version."""
    headers = f"linux-headers-{release}"
    wanted = ("linux-headers-", "linux-kbuild-")
    needed = [package for package in source.depends(headers) if package.startswith(wanted)]
    packages = source.download([headers, *needed, f"linux-source-{series}"], folder)
    versions = {re.sub(r"^[^_]*_(.*)_[^_]*$", r"\1", package.name) for package in packages}
    if len(versions) > 1:
        raise CannotRun(f"the packages for building bcache.ko are of several versions: {sorted(versions)}")
    return packages
