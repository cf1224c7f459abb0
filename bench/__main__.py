"""`make bench`: everything in one run; what can be compared is compared as ratios within the run.

python -m bench [commits] [invalidation] [lookups] [opening] [sockets]      without a name: all of them
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from bench import commits, invalidation, lookups, opening, sockets
from bench.table import Report, interpreter

VAR = Path(__file__).parent.parent / "var"
PARTS = ("sockets", "commits", "lookups", "opening", "invalidation")


def main() -> int:
    parts = sys.argv[1:] or PARTS
    if unknown := set(parts) - set(PARTS):
        print(
            f"no such part: {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}",
            file=sys.stderr,
        )
        return 2
    report = Report()
    report.note(f"{interpreter()}; cores {sorted(os.sched_getaffinity(0))}, load {os.getloadavg()[0]:.1f}")
    VAR.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=VAR))
    try:
        if "sockets" in parts:
            sockets.run(report, folder)
        if "commits" in parts:
            commits.run(report, folder)
        if "lookups" in parts:
            lookups.run(report, folder)
        if "opening" in parts:
            opening.run(report, folder)
        if "invalidation" in parts:
            invalidation.run(report)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.finish(VAR / "bench.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
