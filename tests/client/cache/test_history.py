# SPDX-License-Identifier: GPL-2.0-only
"""Several processes on one volume: none reads an older value than one whose set(wait=True) had returned.

Each process stores its own numbers under names that all share, and notes when each call began and ended, by
the clock that all processes read. A read is in order unless a set of the same name began after the set of the
value that was read had ended, and ended before the read began.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict

import pytest

from instruments.clients.daemon_process import DaemonProcess

CALLS = int(os.environ.get("BCACHED_HISTORY_CALLS", "600"))  # of each process

PROCESS = """
import json, random, sys, time
from bcached.client import Cache
path, own, calls, names = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(own)
events = []
with Cache(path, "history") as cache:
    for number in range(calls):
        name = f"name {rng.randrange(names)}"
        draw = rng.random()
        began = time.monotonic_ns()
        if draw < 0.4:
            value = [name, own, number, "v" * rng.choice([1, 100, 5000, 90000])]
            cache.set(name, value, wait=draw < 0.2)
            events.append(("set", name, own, number, began, time.monotonic_ns(), draw < 0.2))
        elif draw < 0.43:
            cache.delete(name)
        elif draw < 0.9:
            found = cache.get(name)
            ended = time.monotonic_ns()
            if found is not None:
                events.append(("get", name, found[1], found[2], began, ended, found[0] == name))
        else:
            wanted = [f"name {rng.randrange(names)}" for _ in range(5)]
            for name, found in cache.get_many(wanted).items():
                events.append(("get", name, found[1], found[2], began, time.monotonic_ns(), found[0] == name))
    cache.flush()
print(json.dumps(events))
"""


def played(path: str, processes: int, calls: int, names: int) -> list[list[list[object]]]:
    """The events of each process."""
    command = [sys.executable, "-c", PROCESS, path]
    running = [
        subprocess.Popen([*command, str(own), str(calls), str(names)], stdout=subprocess.PIPE)
        for own in range(processes)
    ]
    histories = [json.loads(one.communicate()[0]) for one in running]
    assert [one.returncode for one in running] == [0] * processes
    return histories


def faults(histories: list[list[list[object]]]) -> list[str]:
    """The reads that no order of the sets allows."""
    sets: dict[object, dict[tuple[object, object], tuple[int, int | None]]] = defaultdict(dict)
    for events in histories:
        for kind, name, own, number, began, ended, waited in events:
            if kind == "set":
                # Without wait its end is unknown: it may take effect later.
                sets[name][own, number] = (began, ended if waited else None)  # type: ignore[assignment]
    found = []
    for events in histories:
        for kind, name, own, number, began, _, is_its_own in events:
            if kind == "get":
                if not is_its_own or (own, number) not in sets[name]:
                    found.append(f"{name}: a value that was never stored under this name")
                    continue
                ended = sets[name][own, number][1]
                newer = [
                    other
                    for other, (other_began, other_ended) in sets[name].items()
                    if ended is not None and other_ended is not None
                    and other_began > ended and other_ended < began  # type: ignore[operator]
                ]  # fmt: skip
                if newer:
                    found.append(f"{name}: {own, number} was read at {began}, after {newer} were complete")
    return found


def test_the_check_finds_an_older_value_and_a_foreign_one() -> None:
    one: list[list[object]] = [["set", "a", 0, 1, 10, 20, True], ["set", "a", 0, 2, 30, 40, True]]
    assert faults([one, [["get", "a", 0, 1, 35, 50, True]]]) == []
    assert len(faults([one, [["get", "a", 0, 1, 41, 50, True]]])) == 1
    assert len(faults([one, [["get", "a", 0, 2, 41, 50, False], ["get", "b", 0, 2, 41, 50, True]]])) == 2


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("names", [6, 400], ids=["contended", "evicted"])
def test_no_process_reads_an_older_value(own_daemon: DaemonProcess, names: int) -> None:
    histories = played(str(own_daemon.socket_path), 3, CALLS, names)
    assert faults(histories) == []
    gets = [event for events in histories for event in events if event[0] == "get"]
    foreign = [event for own, events in enumerate(histories) for event in events if event[2] != own]
    assert len(gets) > CALLS // 4
    assert len(foreign) > CALLS // 10
    assert own_daemon.ask("Admin.Verify") == {"parameters": {"violations": []}}
