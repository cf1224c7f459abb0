# SPDX-License-Identifier: GPL-2.0-only
"""`make bench`: everything in one run; what can be compared is compared as ratios within the run.

python -m bench [--keys N] [PART...]      PART: check, client, commits, fairness, invalidation, keys, lookups,
                                          objects, opening, sockets

Without a name: all of them. N is how many keys `keys` inserts and `check` reads: ten million take
minutes to insert.
"""

import os
import shutil
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path

from bench import check, client, commits, fairness, invalidation, keys, lookups, objects, opening, sockets
from bench.table import Report, interpreter

VAR = Path(__file__).parent.parent / "var"
PARTS = (
    "sockets",
    "client",
    "commits",
    "fairness",
    "lookups",
    "objects",
    "opening",
    "invalidation",
    "keys",
    "check",
)
OTHERS = {
    "sockets": sockets.run,
    "client": client.run,
    "commits": commits.run,
    "fairness": fairness.run,
    "lookups": lookups.run,
    "objects": objects.run,
    "opening": opening.run,
}
COUNTED = {"keys": keys.run, "check": check.run}


def _run(part: str, report: Report, folder: Path, key_count: int) -> None:
    if part in COUNTED:
        COUNTED[part](report, folder, key_count)
    elif part == "invalidation":
        invalidation.run(report)
    else:
        OTHERS[part](report, folder)


def main() -> int:
    parser = ArgumentParser(prog="python -m bench")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; without: all")
    parser.add_argument(
        "--keys", type=int, default=keys.COUNT, help="how many keys `keys` inserts, and `check` reads"
    )
    asked = parser.parse_args()
    parts = [part for part in PARTS if part in (asked.parts or PARTS)]
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    report = Report()
    report.note(f"{interpreter()}; cores {sorted(os.sched_getaffinity(0))}, load {os.getloadavg()[0]:.1f}")
    VAR.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=VAR))
    try:
        for part in parts:
            _run(part, report, folder, asked.keys)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.finish(VAR / "bench.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
