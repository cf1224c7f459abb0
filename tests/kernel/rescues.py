# SPDX-License-Identifier: GPL-2.0-only
"""The claims about `bcachectl rescue` of what the kernel made: no byte is other than the kernel reads it."""

import hashlib
import json
from functools import partial
from pathlib import Path

from .images import SECTOR
from .lab import Case, Lab, Outcome
from .machine import Handover
from .repairs import run
from .variety import BATCHES, Placed, placed, reading, reading_alone, working
from .verdicts import complaints_about

LIMIT_S = 200


def rescued_batch(lab: Lab, batch: int) -> Outcome:
    """The kernel makes a batch of sets and reads them; rescue leaves just that, and the kernel reads it."""
    sets = placed(lab, batch)
    scenario, files = working(sets)
    disks = [disk for one in sets for disk in one.disks(keep_writes=True)]
    made = lab.machine.boot(scenario, disks, files, LIMIT_S)
    complaints = complaints_about(made, may_be_fresh=True)
    disks = [disk for one in sets for disk in one.disks(keep_writes=False)]
    read = lab.machine.boot(reading(sets), disks, None, LIMIT_S)
    complaints += complaints_about(read)
    for one in sets:
        complaints += [f"{one.sample.name}: {wrong}" for wrong in rescued(one, read)]
    backings = [disk for disk in disks if disk.name.startswith("backing")]
    alone = lab.machine.boot(reading_alone(sets), backings, None, LIMIT_S)
    complaints += complaints_about(alone)
    complaints += [f"alone, the kernel reads {name} otherwise" for name in different(sets, read, alone)]
    dirty = [value for name, value in made.facts.items() if name.startswith("dirty_")]
    note = f"{len(sets)} sets, dirty: {' '.join(dirty)}"
    return Outcome(tuple(complaints), {"note": note}, made.console if complaints else "")


def rescued(one: Placed, read: Handover) -> list[str]:
    """Rescue all volumes of a set. Gives what is not as the kernel read it."""
    wrong, before = [], one.cache.read_bytes()
    for path, (_, name, history) in zip(one.backings, one.parts(), strict=True):
        done = json.loads(
            run(0, "--json", "rescue", "--yes", "--mark-clean", str(one.cache), "--backing", str(path))
        )
        if not done["verified"]:
            wrong.append(f"{history}: not verified")
        if digest_of_data(path, one.sample.data_offset) != read.facts.get(f"contents_{name}"):
            wrong.append(f"{history}: other bytes than the kernel reads")
    if one.cache.read_bytes() != before:
        wrong.append("the rescue has changed the cache")
    return wrong


def different(sets: list[Placed], read: Handover, alone: Handover) -> list[str]:
    """The block devices that hold other data without their caches."""
    facts = [f"contents_{name}" for one in sets for _, name, _ in one.parts()]
    return [fact for fact in facts if fact not in read.facts or read.facts[fact] != alone.facts.get(fact)]


def digest_of_data(path: Path, data_offset: int) -> str:
    """The hash of a backing device's data."""
    return hashlib.sha256(path.read_bytes()[data_offset * SECTOR :]).hexdigest()


CLAIM = "of sets that the kernel made, rescue leaves the bytes that the kernel reads"

RESCUES = (
    Case("rescue batch", CLAIM, partial(rescued_batch, batch=0)),
    *(
        Case(f"images {number}", CLAIM, partial(rescued_batch, batch=number), is_long=True)
        for number in range(1, len(BATCHES))
    ),
)
