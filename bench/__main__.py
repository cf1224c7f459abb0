# SPDX-License-Identifier: GPL-2.0-only
"""`make bench`: everything in one run; what can be compared is compared as ratios within the run.

python -m bench [--keys N] [client] [commits] [invalidation] [keys] [lookups] [objects] [opening] [sockets]

Without a name: all of them. N is how many keys `keys` inserts: ten million take minutes.
"""

import os
import shutil
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path

from bench import client, commits, invalidation, keys, lookups, objects, opening, sockets
from bench.table import Report, interpreter

VAR = Path(__file__).parent.parent / "var"
PARTS = ("sockets", "client", "commits", "lookups", "objects", "opening", "invalidation", "keys")


def main() -> int:
    parser = ArgumentParser(prog="python -m bench")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; without: all")
    parser.add_argument("--keys", type=int, default=keys.COUNT, help="how many keys `keys` inserts")
    asked = parser.parse_args()
    parts = asked.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    report = Report()
    report.note(f"{interpreter()}; cores {sorted(os.sched_getaffinity(0))}, load {os.getloadavg()[0]:.1f}")
    VAR.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=VAR))
    try:
        if "sockets" in parts:
            sockets.run(report, folder)
        if "client" in parts:
            client.run(report, folder)
        if "commits" in parts:
            commits.run(report, folder)
        if "lookups" in parts:
            lookups.run(report, folder)
        if "objects" in parts:
            objects.run(report, folder)
        if "opening" in parts:
            opening.run(report, folder)
        if "invalidation" in parts:
            invalidation.run(report)
        if "keys" in parts:
            keys.run(report, folder, asked.keys)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.finish(VAR / "bench.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
