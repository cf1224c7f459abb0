# SPDX-License-Identifier: GPL-2.0-only
"""Many processes on one cache, with kills and evictions: exit 0 if no rule was broken, 1 if one was."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from history.plants import PLANTS
from history.play import Plan, Played, played
from history.storage import KINDS, missing_for

MEMORY = Path("/dev/shm")


def main() -> int:
    """The command."""
    plan = parsed()
    if (missing := missing_for(plan.storage)) is not None:
        print(f"SKIPPED {plan.storage}: {missing}", file=sys.stderr)
        return 2
    if MEMORY.is_dir():
        tempfile.tempdir = str(MEMORY)
    result = played(plan, lambda line: print(line, flush=True))
    report(result)
    return 1 if result.faults else 0


def parsed() -> Plan:
    """Returns what the command line requests."""
    parser = argparse.ArgumentParser(prog="python -m tests.history", description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--mishaps", type=int, default=20_000, help="calls between two of them; 0 for none")
    parser.add_argument("--plant", default="", choices=("", *PLANTS), help="a bug that the rules must find")
    parser.add_argument("--direct-writes", action="store_true", help="writers go past the page cache")
    parser.add_argument("--storage", default="memory", choices=KINDS, help="what the set is on")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    return Plan(
        options.calls,
        options.seed,
        options.workers,
        mishap_calls=options.mishaps,
        plant=options.plant,
        direct_writes=options.direct_writes,
        storage=options.storage,
    )


def report(result: Played) -> None:
    """Print the figures."""
    print(f"{result.calls} calls: {counted(result.outcomes)}")
    print(f"mishaps: {counted(result.mishaps)}; refusals: {counted(result.refusals) or 'none'}")
    print(f"{result.invalidated} buckets invalidated, {result.pages_reread} stale pages")
    for fault in result.faults:
        print(f"FAULT {fault}")
    print("no rule was broken" if not result.faults else "rules were broken")


def counted(figures: dict[str, int]) -> str:
    """Returns numbers and their names."""
    return ", ".join(f"{number} {name}" for name, number in sorted(figures.items()) if number)


if __name__ == "__main__":
    sys.exit(main())
