# SPDX-License-Identifier: GPL-2.0-only
"""Kill the daemon and cut its power, again and again: exit 0 if nothing was lost, 1 if something was."""

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from .lives import Lives, run_lives
from .objects import ObjectKills, run_object_cuts, run_object_kills
from .power import PowerCuts, run_cuts
from .recorder import why_not

MEMORY = Path("/dev/shm")


def main() -> int:
    """The command."""
    options = parse_arguments()
    if MEMORY.is_dir():
        tempfile.tempdir = str(MEMORY)  # neither a kill nor a cut of ours needs a disk
    try:
        if options.lives:
            told_of_lives(
                asyncio.run(run_lives(options.lives, options.seed, members=options.members, told=True))
            )
        if options.object_kills:
            told_of_objects(run_object_kills(options.object_kills, options.seed, told=True))
        if (options.cuts or options.object_cuts) and (missing := why_not()) is not None:
            print(f"SKIPPED {options.cuts + options.object_cuts} power cuts: {missing}", file=sys.stderr)
            return 0 if options.lives or options.object_kills else 2
        if options.cuts:
            told_of_cuts(asyncio.run(run_cuts(options.cuts, options.seed, told=True)))
        if options.object_cuts:
            told_of_objects(run_object_cuts(options.object_cuts, options.seed, told=True))
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--lives", type=int, default=1000, help="how often the daemon is killed")
    parser.add_argument("--cuts", type=int, default=200, help="how many power cuts; they need root")
    parser.add_argument("--object-kills", type=int, default=200, help="how often under a cache of objects")
    parser.add_argument(
        "--object-cuts", type=int, default=60, help="power cuts under a cache; they need root"
    )
    parser.add_argument("--members", type=int, default=1, help="how many devices the killed set has")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    return options


def told_of_lives(lives: Lives) -> None:
    """The figures of a run of kills."""
    print(f"lives: {sum(lives.ends.values())}, {told(lives.ends)}")
    print(f"looked at after recovery: {lives.recovered} times, {lives.sectors_found} sectors read")
    print(f"clients: {told(lives.ledger.figures)}")
    print(f"tree of {lives.levels} levels, gens grown by {lives.grants.moves}; nothing lost")


def told_of_cuts(cuts: PowerCuts) -> None:
    """The figures of a run of power cuts."""
    print(f"power cuts: {cuts.cuts} in {cuts.sessions} sessions, {cuts.undecided} sectors undecided at them")
    print(f"logged: {cuts.entries} entries, {cuts.flushes} flushes, {cuts.discards} discards")
    print(f"clients: {told(cuts.ledger.figures)}; nothing lost")


def told_of_objects(kills: ObjectKills) -> None:
    """The figures of a run of kills or power cuts under a cache."""
    print(
        f"objects: {kills.kills} kills, {kills.cuts} power cuts, {kills.undecided} sectors undecided at them"
    )
    print(f"found {kills.found} objects; clients: {told(kills.figures)}; nothing lost")


def told(figures: dict[str, int]) -> str:
    """Numbers and their names."""
    return ", ".join(f"{number} {name}" for name, number in sorted(figures.items()))


if __name__ == "__main__":
    sys.exit(main())
