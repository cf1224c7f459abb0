# SPDX-License-Identifier: GPL-2.0-only
"""Carry out the cases and report: exit 0 if all hold, 1 if one does not, 2 if nothing could be judged."""

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from .cases import CASES
from .errors import CannotRun, HarnessFailed
from .judge import judge
from .lab import Case, Lab, Outcome, Skipped
from .machine import Machine
from .packages import FOLDER_VARIABLE, SERIES, USUAL, cache_folder

TOLD = ("journal", "nbuckets", "bucket_size", "block_size", "cache_available_percent", "said", "note")


def main() -> int:
    """The command."""
    options = parse_arguments()
    if options.list:
        print("\n".join(f"{case.name:28} {case.claim}" for case in CASES))
        return 0
    chosen = choose(options.case)
    if not chosen:
        print(f"no case is named {' or '.join(options.case)}; --list shows all", file=sys.stderr)
        return 2
    try:
        started = time.monotonic()
        machine = Machine.prepare(options.kernel)
        if options.judge:
            return judge_one(machine, options.judge, options.fresh)
        with tempfile.TemporaryDirectory(prefix="bcached-kernel-test-") as folder:
            lab = Lab(machine, Path(options.keep or folder))
            return report(lab, chosen, started)
    except CannotRun as error:
        print(f"SKIPPED, nothing was judged: {error}", file=sys.stderr)
    except HarnessFailed as error:
        print(f"the harness failed, nothing was judged: {error}", file=sys.stderr)
    return 2


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.kernel",
        description=f"{__doc__} Downloads are kept in {cache_folder(USUAL).parent} (or ${FOLDER_VARIABLE}).",
    )
    parser.add_argument(
        "case", nargs="*", help="names or families of cases; all but the long ones without any"
    )
    known = f"which of Debian's kernels: {' or '.join(SERIES)} (default: {USUAL})"
    parser.add_argument("--kernel", metavar="SERIES", choices=SERIES, default=USUAL, help=known)
    parser.add_argument("--list", action="store_true", help="print the cases and what they claim")
    parser.add_argument("--keep", metavar="FOLDER", help="make the images in this folder and leave them")
    parser.add_argument("--judge", metavar="IMAGE", type=Path, help="judge just this image, untouched")
    parser.add_argument("--fresh", action="store_true", help="with --judge: it has never been used")
    return parser.parse_args()


def choose(names: Sequence[str]) -> list[Case]:
    """The cases with one of these names or families; without any, those that are not long."""
    if not names:
        return [case for case in CASES if not case.is_long]
    return [case for case in CASES if {case.name, case.name.split()[0]} & set(names)]


def judge_one(machine: Machine, image: Path, fresh: bool) -> int:
    """One image from the command line."""
    verdict = judge(machine, image, may_be_fresh=fresh)
    show(str(image), Outcome.of(verdict), verdict.wall_s)
    return 0 if verdict.accepted else 1


def report(lab: Lab, chosen: Sequence[Case], started: float) -> int:
    """Carry the cases out, one line each and what there is to read about failures."""
    failed, skipped = 0, []
    for case in chosen:
        began = time.monotonic()
        try:
            outcome = case.run(lab)
        except Skipped as reason:
            skipped.append(str(reason))
            print(f"SKIP {case.name:28}        {reason}", flush=True)
            continue
        except HarnessFailed:
            raise
        except Exception:  # a case that breaks must not hide the others
            outcome = Outcome(("the case broke",), log=traceback.format_exc())
        failed += bool(outcome.complaints)
        show(case.name, outcome, time.monotonic() - began, case.claim)
    held = len(chosen) - failed - len(skipped)
    print(f"{held} held, {failed} failed, {len(skipped)} skipped, {time.monotonic() - started:.0f} s")
    if not held and not failed:
        return 2
    return 1 if failed else 0


def show(name: str, outcome: Outcome, took_s: float, claim: str = "") -> None:
    """A line; and if it does not hold, the claim, the complaints and the kernel's log."""
    told = ", ".join(f"{fact} {outcome.facts[fact]}" for fact in TOLD if fact in outcome.facts)
    print(f"{'NO  ' if outcome.complaints else 'ok  '} {name:28} {took_s:5.1f} s  {told}", flush=True)
    if outcome.complaints:
        print(f"     not so: {claim}" if claim else "     refused")
        for complaint in outcome.complaints:
            print(f"     - {complaint}")
        print("".join(f"     | {line}\n" for line in outcome.log.splitlines()[-40:]), end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
