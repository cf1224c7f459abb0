# SPDX-License-Identifier: GPL-2.0-only
"""Exit 0 if nothing was found, 1 if a state was that must not be; its images are kept."""

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import count, islice
from pathlib import Path
from queue import Empty

sys.path.insert(0, str(Path(__file__).parents[1]))

from instruments.crash.exploration import Base, Tally, all_workloads, base_of, explore, explore_workload

STATES = 24  # at a moment
AGAIN = 3  # lives after cuts, and after kills
REPORT_S = 30.0
SILENCE_S = 600.0  # a case takes some seconds
Outcome = tuple[str, Tally]


def main() -> int:
    """The command."""
    options = parse_arguments()
    if options.case:
        total = Tally()
        for name in options.case:
            total.add(run_case((name, options.states))[1])
        print_total(total, 0.0)
        return keep(total, options.keep)
    print(f"from seed {options.seed} on, {options.states} states a moment; ctrl-c ends it", flush=True)
    outcomes: multiprocessing.Queue[Outcome] = multiprocessing.Queue(100)
    workers = [
        multiprocessing.Process(target=work, args=(lane, options, outcomes), daemon=True)
        for lane in range(options.processes)
    ]
    for worker in workers:
        worker.start()
    total = gather(outcomes, options)
    for worker in workers:
        worker.terminate()
    return 1 if total.complaints else 0


def work(lane: int, options: argparse.Namespace, outcomes: "multiprocessing.Queue[Outcome]") -> None:
    """One process: every so many-th case."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
    for name in islice(cases(options.seed), lane, None, options.processes):
        outcomes.put(run_case((name, options.states)))


def gather(outcomes: "multiprocessing.Queue[Outcome]", options: argparse.Namespace) -> Tally:
    """Add up what the processes find, until it is time to stop."""
    begun = told = time.monotonic()
    total = Tally()
    with suppress(KeyboardInterrupt, Empty):
        while (now := time.monotonic()) < begun + options.seconds:
            name, tally = outcomes.get(timeout=min(begun + options.seconds - now, SILENCE_S))
            total.add(tally)
            if tally.complaints:
                print(f"FOUND in {name}:", flush=True)
                keep(tally, options.keep)
            if now - told > REPORT_S:
                told = now
                print_total(total, now - begun, name)
    print_total(total, time.monotonic() - begun)
    return total


def parse_arguments() -> argparse.Namespace:
    """What the command was given."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10**7 * 100, help="the first one")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long; else until ctrl-c")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--states", type=int, default=STATES, help="drawn at a moment")
    parser.add_argument("--keep", default="var/torture", help="where images of what is found go")
    parser.add_argument("case", nargs="*", help="told again: chance:SEED or workload:SEED:A+B+C")
    return parser.parse_args()


def cases(seed: int) -> Iterator[str]:
    """Names without end: all short workloads once for each round, and stories by chance between them."""
    workloads = all_workloads(3)
    for number in count(seed):
        yield f"chance:{number}"
        yield f"workload:{number}:{'+'.join(workloads[number % len(workloads)])}"


def run_case(item: tuple[str, int]) -> Outcome:
    """Tell a case and judge it."""
    name, states = item
    kind, seed, *rest = name.split(":")
    if kind == "chance":
        return name, explore(int(seed), states=states, again=AGAIN)
    return name, explore_workload(rest[0].split("+"), base(int(seed) % 4), int(seed), states=states)


@cache
def base(number: int) -> Base:
    """One of a few sets that workloads begin with."""
    return base_of(number, *((530,) if number else (530, 560)))


def print_total(total: Tally, seconds: float, name: str = "") -> None:
    """One line."""
    rate = f", {total.distinct / seconds:.0f}/s" if seconds else ""
    print(
        f"{seconds:.0f} s: {total.stories} lives, {total.moments} moments, {total.states} states, "
        f"{total.distinct} distinct{rate}, {total.openings} opened, {len(total.complaints)} wrong"
        f"{', last ' + name if name else ''}",
        flush=True,
    )


def keep(tally: Tally, folder: str) -> int:
    """Keep the images of what was found; 1 if anything was."""
    for number, (where, complaint) in enumerate(tally.complaints):
        print(f"{where}: moment {complaint.moment}, state {complaint.number}: {complaint.text}")
        name = "".join(letter if letter.isalnum() else "-" for letter in f"{where} {number}")
        for device, image in enumerate(complaint.image):
            path = Path(folder) / f"{name}.{device}.img"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
            print(f"  {path}")
    return 1 if tally.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
