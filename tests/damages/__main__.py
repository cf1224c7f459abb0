# SPDX-License-Identifier: GPL-2.0-only
"""Damages of the kernel's images, one and several at a time: what rescues bring back, what repairs come to.

    python -m tests.damages [--each N] [--pairs N] [--triples N] [--seed N] [--only KIND] [--without-repair]

Exit 1 if anything that was called sure is wrong, or if a repair could not be undone. What an erased entry
named is counted apart where nothing is left that shows its erasure (excuse.py).
"""

import asyncio
import sys
from argparse import ArgumentParser
from collections import defaultdict
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent.parent))

from damages.kinds import Kind, kinds_of
from damages.outcome import Outcome, outcome_of
from instruments.samples.damaged_kernel_image import LAPPED

# In the first lap of a journal's ring an erased newest entry leaves no trace; in a later one it does.
IMAGES = ("clean", "crash", "flash", "clean-lapped", "crash-lapped", "flash-lapped")
OF_JOURNAL = "journal", "entry", "newest entry"


def main() -> int:
    parser = ArgumentParser(prog="python -m tests.damages")
    parser.add_argument("--each", type=int, default=1000, help="of a kind, on each image")
    parser.add_argument("--pairs", type=int, default=100, help="pairs of damages, on each image")
    parser.add_argument("--triples", type=int, default=0, help="three damages at a time, on each image")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    parser.add_argument("--without-repair", action="store_true", help="rescues only, in half the time")
    options = parser.parse_args()
    failed = unnoticed = 0
    table = defaultdict[str, list[Outcome]](list)
    with TemporaryDirectory() as folder:
        numbers = {"pairs": options.pairs, "triples": options.triples}
        for name, kind, kinds in cases(options.each, numbers, options.seed):
            if options.only not in kind:
                continue
            found = outcome_of(name, kinds, None if options.without_repair else Path(folder))
            table[kind].append(found)
            where = "; ".join(f"{one.name} {one.where}" for one in kinds)
            shares = f"sure {found.sure:.1%}, newest {found.newest:.1%}, harm {found.harm}"
            excused = f", {found.unnoticed} of an erased entry" if found.unnoticed else ""
            print(f"{name}: {where}: {shares}{excused}; {found.repair}", flush=True)
            failed += found.harm > 0
            unnoticed += found.unnoticed > 0
    print()
    for kind, outcomes in table.items():
        print(f"| {kind} | {len(outcomes)} | {_span([one.sure for one in outcomes])} ", end="")
        print(f"| {_span([one.newest for one in outcomes])} ", end="")
        print(f"| {sum(one.repair == 'sound' for one in outcomes)} |")
    print(f"\n{failed} failed; {unnoticed} with an erased entry that could not be noticed")
    return int(failed > 0)


def cases(each: int, numbers: dict[str, int], seed: int) -> list[tuple[str, str, list[Kind]]]:
    """The image, the name, and the damages of each case."""
    found = []
    for name in IMAGES:
        random = Random(f"{name} {seed}")
        kinds = asyncio.run(kinds_of(name, random))
        by_name = defaultdict[str, list[Kind]](list)
        for kind in kinds:
            by_name[kind.name].append(kind)
        for kind_name, some in by_name.items():
            if name.endswith(LAPPED) and not kind_name.startswith(OF_JOURNAL):
                continue  # as without
            chosen = some if len(some) <= each else random.sample(some, each)
            found += [(name, kind_name, [one]) for one in chosen]
        for at_once, (kind_name, number) in enumerate(numbers.items(), 2):
            found += [(name, kind_name, random.sample(kinds, at_once)) for _ in range(number)]
    return found


def _span(shares: list[float]) -> str:
    low, high = min(shares), max(shares)
    return f"{low:.1%}" if low == high else f"{low:.1%} to {high:.1%}"


if __name__ == "__main__":
    sys.exit(main())
