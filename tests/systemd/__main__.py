# SPDX-License-Identifier: GPL-2.0-only
"""Do README's "As a service" under a real systemd: exit 0 if all holds, 1 if not, 2 if nothing was judged."""

import argparse
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from kernel.errors import CannotRun, HarnessFailed

from .cases import CASES
from .container import Container
from .partition import Partition
from .root import CHECKOUT, FOLDER_VARIABLE, cache_folder, ensure_tools, made_root, made_wheels


def main() -> int:
    """The command."""
    options = parse_arguments()
    try:
        ensure_tools()
        root = made_root(cache_folder())
        wheels = made_wheels(cache_folder(), root)
        with (
            tempfile.TemporaryDirectory(prefix="bcached-systemd-test-", dir="/var/tmp") as folder,
            partition_if_possible(Path(folder)) as partition,
            Container(root, wheels, CHECKOUT, Path(folder), partition) as machine,
        ):
            return report(machine, options.journal)
    except CannotRun as error:
        print(f"SKIPPED, nothing was judged: {error}", file=sys.stderr)
    except HarnessFailed as error:
        print(f"the harness failed, nothing was judged: {error}", file=sys.stderr)
    return 2


@contextmanager
def partition_if_possible(folder: Path) -> Iterator[Partition | None]:
    """A partition, or None where there are no loop devices."""
    with ExitStack() as stack:
        try:
            partition = stack.enter_context(Partition(folder))
        except CannotRun as error:
            print(f"no partition on a loop device here: {error}", file=sys.stderr)
            partition = None
        yield partition


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.systemd",
        description=f"{__doc__} What is downloaded is kept in {cache_folder()} (or ${FOLDER_VARIABLE}).",
    )
    parser.add_argument("--journal", metavar="FILE", type=Path, help="write the services' journal there")
    return parser.parse_args()


def report(machine: Container, journal: Path | None) -> int:
    """Carry all cases out, one line each; the first that fails ends it, for the others build on it."""
    print(machine.run("systemctl --version").splitlines()[0], flush=True)
    try:
        for name, case in CASES.items():
            if case.needs_partition and machine.partition is None:
                print(f"SKIPPED, not judged: {name:20} {case.claim}", flush=True)
                continue
            began = time.monotonic()
            case.run(machine)
            print(f"holds  {name:20} {case.claim}  ({time.monotonic() - began:.0f} s)", flush=True)
    except (AssertionError, subprocess.TimeoutExpired):
        print(
            f"FAILS  {name:20} {case.claim}\n{machine.journal('bcached*', '-n 60')}{traceback.format_exc()}"
        )
        return 1
    finally:
        if journal is not None:
            journal.write_text(machine.journal("bcached*"))
    skipped = sum(case.needs_partition for case in CASES.values()) if machine.partition is None else 0
    print(f"all {len(CASES) - skipped} cases hold, {skipped} skipped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
