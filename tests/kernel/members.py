# SPDX-License-Identifier: GPL-2.0-only
"""The claim about a set of several that has lost a member: what is left is a set of one, and the kernel's."""

import random
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

from .daemon import program, serving
from .filler import Filler
from .images import SECTOR
from .judge import judge
from .keys import fetched
from .lab import Case, Lab, Outcome
from .model import Model
from .repairs import CORRECTED, run
from .scenario import Volume

FLASH_SECTORS = 40960
WRITES = 5000
MEMBER_BYTES = 64 << 20
OPTIONS = ("--drop-missing", "--rebuild-volumes", "--newest", "--give-up-dirty")


def made_of_two(lab: Lab) -> tuple[Path, Path]:
    """A set of two members, which a daemon has filled."""
    paths = lab.path("member-0"), lab.path("member-1")
    for path in paths:
        path.unlink(missing_ok=True)
    # Buckets so small that there are many leaves, and each member has some.
    sizes = ["-b", "8k", "-w", "512", "--size", str(MEMBER_BYTES)]
    subprocess.run([program("bcachectl"), "make", *sizes, *map(str, paths)], check=True, capture_output=True)
    with serving(*paths) as daemon:
        with daemon.client() as client:
            inode = client.create_volume("flash", sectors=FLASH_SECTORS)
            model = Model(inode, bytes(FLASH_SECTORS * SECTOR))
            filler = Filler(client, random.Random(4), 1)
            filler.write(model, WRITES)
            filler.drop(model, WRITES // 50)
            client.collect_garbage(wait=True)
            filler.write(model, WRITES // 4)
            client.flush()
        daemon.stop()
    return paths


def reduced(lab: Lab, lost: int) -> Outcome:
    """What the daemon reads of the set that is left, the kernel reads, too."""
    paths = made_of_two(lab)
    path = paths[1 - lost]
    paths[lost].unlink()
    undo = path.with_suffix(".undo")
    undo.unlink(missing_ok=True)
    before = path.read_bytes()
    run(CORRECTED, "repair", "--yes", "--undo", str(undo), *OPTIONS, str(path))
    run(0, "repair", "--restore", str(undo))
    assert path.read_bytes() == before, "the undo file does not bring all of it back"
    undo.unlink()
    run(CORRECTED, "repair", "--yes", "--undo", str(undo), *OPTIONS, str(path))
    with serving(path) as daemon:
        with daemon.client() as client:
            wrong = [f"verify: {violation}" for violation in client.verify()]
            (volume,) = client.list_volumes()
            held = fetched(client, Model(volume.inode, bytes(FLASH_SECTORS * SECTOR)))
        daemon.stop()
    # If the uuid table was lost, no key says that the volume is flash-only: the kernel has no device for it.
    volumes = [Volume("bcache0", len(held))] if volume.sectors else []
    verdict = judge(lab.machine, path, volumes=volumes, give=True, keep_writes=True)
    if volumes and verdict.given.get("bcache0") != held:
        wrong.append("the kernel reads other data than the daemon")
    if not held.strip(b"\0"):
        wrong.append("nothing is left, so this shows less than it should")
    again = judge(lab.machine, path)
    outcome = Outcome.of(verdict, again)
    left = sum(held[at : at + SECTOR] != bytes(SECTOR) for at in range(0, len(held), SECTOR))
    table = "the uuid table left" if volumes else "the uuid table rebuilt"
    facts = {**outcome.facts, "note": f"{left} sectors and {table}"}
    return replace(outcome, complaints=(*outcome.complaints, *wrong), facts=facts)


MEMBERS = tuple(
    Case(
        f"member {1 - lost} left",
        "the kernel registers what is left of a set of two, and reads what the daemon reads",
        partial(reduced, lost=lost),
    )
    for lost in (0, 1)
)
