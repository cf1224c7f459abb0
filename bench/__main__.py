# SPDX-License-Identifier: GPL-2.0-only
"""`make bench`: everything in one run; what can be compared is compared as ratios within the run.

python -m bench [--keys N] [--trace FILE] [PART]...

Without a part: all of them. N is how many keys `keys` inserts, `check` reads and `costs` has in the
index: ten million take minutes to insert. FILE, which may be repeated, is what `trace` replays in place of
a synthetic trace.
"""

import os
import shutil
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

from bench import (
    check,
    client,
    commit_costs,
    commits,
    fairness,
    invalidation,
    keys,
    lookups,
    objects,
    opening,
    sockets,
    trace,
)
from bench.table import Report, interpreter

VAR = Path(__file__).parent.parent / "var"
PARTS = (
    "sockets",
    "client",
    "commits",
    "costs",
    "fairness",
    "lookups",
    "objects",
    "opening",
    "invalidation",
    "trace",
    "keys",
    "check",
)


def main() -> int:
    parser = ArgumentParser(prog="python -m bench")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; without: all")
    parser.add_argument("--keys", type=int, default=keys.COUNT, help="how many keys `keys` inserts")
    parser.add_argument("--trace", type=Path, action="append", default=[], help="a file that `trace` replays")
    asked = parser.parse_args()
    parts = asked.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    report = Report()
    report.note(f"{interpreter()}; cores {sorted(os.sched_getaffinity(0))}, load {os.getloadavg()[0]:.1f}")
    VAR.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=VAR))
    runs: dict[str, Callable[[], object]] = {
        "sockets": lambda: sockets.run(report, folder),
        "client": lambda: client.run(report, folder),
        "commits": lambda: commits.run(report, folder),
        "costs": lambda: commit_costs.run(report, folder, asked.keys),
        "fairness": lambda: fairness.run(report, folder),
        "lookups": lambda: lookups.run(report, folder),
        "objects": lambda: objects.run(report, folder),
        "opening": lambda: opening.run(report, folder),
        "invalidation": lambda: invalidation.run(report),
        "trace": lambda: trace.run(report, folder, asked.trace),
        "keys": lambda: keys.run(report, folder, asked.keys),
        "check": lambda: check.run(report, folder, asked.keys),
    }
    try:
        for part in PARTS:
            if part in parts:
                runs[part]()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.finish(VAR / "bench.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
