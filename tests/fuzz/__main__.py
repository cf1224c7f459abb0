# SPDX-License-Identifier: GPL-2.0-only
"""Exit 0 if nothing was found, 1 if a case was that must not be; each is told with its name."""

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.bases import BASES, base
from fuzz.verdict import Tally, Verdict, case_names, judge

REPORT_S = 30.0


def main() -> int:
    """The command."""
    options = parse_arguments()
    tally, begun = Tally(), time.monotonic()
    told = begun
    names = options.case or case_names(options.seed, options.cases)
    for name in {name.split(":")[0] for name in options.case} or BASES:
        base(name)  # once, and not in each process
    with multiprocessing.Pool(options.processes) as pool:
        for verdict in pool.imap_unordered(judge, names, chunksize=1 if options.case else 16):
            tally.add(verdict)
            if verdict.wrong or options.case:
                tell(verdict)
            if (now := time.monotonic()) - told > REPORT_S:
                told = now
                print(f"{now - begun:.0f} s: {tally.told()}", flush=True)
    print(f"{time.monotonic() - begun:.0f} s: {tally.told()}", flush=True)
    return 1 if tally.wrong else 0


def tell(verdict: Verdict) -> None:
    """What was done, and what came of it."""
    print(f"{verdict.name}: {'; '.join(verdict.done)}")
    print(f"  checked: {verdict.kind}, refused: {verdict.refused}")
    for wrong in verdict.wrong:
        print(f"  WRONG: {wrong}", flush=True)


def parse_arguments() -> argparse.Namespace:
    """What the command was given."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="the first one's number")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("case", nargs="*", help="played again: BASE:SEED")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
