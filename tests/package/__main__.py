# SPDX-License-Identifier: GPL-2.0-only
"""Build, install, upgrade and remove the packages: exit 0 if all holds, 1 if not, 2 if nothing was judged.

In two Debians without a network: one has what a build needs, the other only what the package depends on. The
container image is built and run, too, where buildah is installed.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from kernel.errors import CannotRun, HarnessFailed
from package.cases import BUILDING, INSTALLED, NOT_IN_A_CLEAN_DEBIAN, PACKAGES, Cases
from package.container_image import try_image
from systemd.container import Container
from systemd.root import CHECKOUT, FOLDER_VARIABLE, cache_folder, ensure_tools, made_root, made_wheels


def main() -> int:
    """The command."""
    argparse.ArgumentParser(
        prog="python -m tests.package",
        description=f"{__doc__} What is downloaded is kept in {cache_folder()} (or ${FOLDER_VARIABLE}).",
    ).parse_args()
    try:
        ensure_tools()
        root = made_root(cache_folder())
        wheels = made_wheels(cache_folder(), root)
        with tempfile.TemporaryDirectory(prefix="bcached-package-test-", dir="/var/tmp") as folder:
            return judge(root, wheels, Path(folder))
    except CannotRun as error:
        print(f"SKIPPED, nothing was judged: {error}", file=sys.stderr)
    except HarnessFailed as error:
        print(f"the harness failed, nothing was judged: {error}", file=sys.stderr)
    return 2


def judge(root: Path, wheels: Path, folder: Path) -> int:
    """Returns the exit status: the packages are built in one container, and installed in another."""
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    with Container(root, wheels, CHECKOUT, folder / "a") as building:
        if not report(building, BUILDING):
            return 1
        packages = {path.name: path.read_bytes() for path in (building.root / PACKAGES[1:]).glob("*.deb")}
    with Container(root, wheels, CHECKOUT, folder / "b") as machine:
        machine.run(f"rm -r /wheels /checkout/* && mkdir -p {PACKAGES}")
        machine.run(f"apt-get purge -q -y --autoremove {NOT_IN_A_CLEAN_DEBIAN}")
        for name, content in packages.items():
            (machine.root / PACKAGES[1:] / name).write_bytes(content)
        if not report(machine, INSTALLED):
            return 1
    return 0 if judge_image(root, wheels, folder / "c") else 1


def judge_image(root: Path, wheels: Path, folder: Path) -> bool:
    """Build the container image where there is a builder, and run it. Returns whether all holds."""
    count = len(BUILDING) + len(INSTALLED)
    if shutil.which("buildah") is None:
        print(f"all {count} cases hold; SKIPPED, not judged: the container image (apt-get install buildah)")
        return True
    folder.mkdir()
    began = time.monotonic()
    try:
        try_image(root, wheels, folder)
    except (AssertionError, subprocess.TimeoutExpired):
        print(f"FAILS  image        the container image serves a set\n{traceback.format_exc()}")
        return False
    print(f"holds  image        the container image serves a set  ({time.monotonic() - began:.0f} s)")
    print(f"all {count + 1} cases hold")
    return True


def report(machine: Container, cases: Cases) -> bool:
    """Run the cases, one line each; the first that fails ends it, for the others build on it."""
    for name, (claim, case) in cases.items():
        began = time.monotonic()
        try:
            case(machine)
        except (AssertionError, subprocess.TimeoutExpired):
            journal = machine.run("journalctl --no-pager -n 40", check=False)
            print(f"FAILS  {name:12} {claim}\n{journal}{traceback.format_exc()}")
            return False
        print(f"holds  {name:12} {claim}  ({time.monotonic() - began:.0f} s)", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
