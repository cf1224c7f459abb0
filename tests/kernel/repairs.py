# SPDX-License-Identifier: GPL-2.0-only
"""The claims about `bcachectl repair` and `rescue`: the kernel takes what they leave, and reads the same."""

import json
import random
import subprocess
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from . import images
from .daemon import program
from .images import SECTOR, SUPERBLOCK
from .judge import judge
from .keys import FRONT, PLAIN_SECTORS, Shape, Trial
from .lab import Case, Lab, Outcome
from .ours import made
from .qemu import Disk
from .scenario import Volume, start_alone

SHAPE = Shape(64 << 10, 512, 64 << 20, 20480, 2400)
CORRECTED, SOUND = 1, 0
_prepared: dict[Path, Trial] = {}


@dataclass(frozen=True, slots=True)
class Repair:
    """A damage, the options that answer it, and whether all data must be there afterwards."""

    damage: Callable[[Path], None]
    options: tuple[str, ...]
    is_lossless: bool = True


def prepared(lab: Lab) -> Trial:
    """A set that a killed daemon and a kernel that was cut off have used, with a dirty backing device."""
    if lab.folder not in _prepared:
        path = made(lab, "repairs", (SHAPE.bucket_bytes, SHAPE.block_bytes, SHAPE.size_bytes))
        trial = Trial(lab.machine, path, SHAPE, random.Random(12))
        trial.begin(killed=True)
        trial.before_the_kernel(fill=True, cut=True)
        assert not trial.complaints, trial.complaints
        _prepared[lab.folder] = trial
    return _prepared[lab.folder]


def copy_of(lab: Lab, name: str) -> Trial:
    """A trial of its own with copies of the prepared devices."""
    source = prepared(lab)
    trial = replace(source, path=lab.path(f"repair-{name}"), complaints=[], verdicts=[])
    trial.flash, trial.plain = deepcopy(source.flash), deepcopy(source.plain)
    images.copy(source.path, trial.path)
    trial.backing = images.copy(source.backing, trial.path.with_suffix(".backing"))
    return trial


def repaired(lab: Lab, name: str, repair: Repair) -> Outcome:
    """The damaged set is repaired, undone, repaired again, and used by the kernel."""
    trial = copy_of(lab, name)
    repair.damage(trial.path)
    damaged = trial.path.read_bytes()
    undo = trial.path.with_suffix(".undo")
    undo.unlink(missing_ok=True)
    options = [option.format(backing=trial.backing) for option in repair.options]
    run(CORRECTED, "repair", "--yes", "--undo", str(undo), *options, str(trial.path))
    run(SOUND, "repair", "--restore", str(undo))
    assert trial.path.read_bytes() == damaged, "the undo file does not bring all of it back"
    told = run(CORRECTED, "--json", "repair", "--yes", *options, str(trial.path))
    verdict = judge(
        trial.machine,
        trial.path,
        volumes=[Volume("bcache0", flash_sectors(trial.path) * SECTOR)],
        backing=trial.backing,
        give=True,
        keep_writes=True,
    )
    complaints = list(verdict.complaints)
    if repair.is_lossless:
        found = verdict.given.get("bcache0", b""), FRONT + verdict.given.get("bcache1", b"")
        for model, held in zip((trial.flash, trial.plain), found, strict=True):
            complaints += [f"read by the kernel, {wrong}" for wrong in model.wrong(held)]
    note = "; ".join(told_of(told))
    again = judge(trial.machine, trial.path)
    outcome = Outcome.of(verdict, again)
    return replace(
        outcome, complaints=(*complaints, *again.complaints), facts={**outcome.facts, "note": note}
    )


def flash_sectors(path: Path) -> int:
    """The size of the flash-only volume, which a lost uuid table had and no key says."""
    volumes = json.loads(run(SOUND, "--json", "check", str(path)))["volumes"]
    return int(volumes[0]["sectors"])


def told_of(document: str) -> list[str]:
    """What the last step of a repair kept."""
    steps = json.loads(document)["steps"]
    return [str(steps[-1]["keeps"][0])] if steps and steps[-1]["keeps"] else []


def run(expected: int, *arguments: str) -> str:
    """The output of a command that ends with this status."""
    done = subprocess.run(
        [program("bcachectl"), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == expected, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout


def detached(lab: Lab) -> Outcome:
    """All dirty data is rescued, and the kernel starts the backing device without a cache."""
    trial = copy_of(lab, "mark-clean")
    cache = trial.path.read_bytes()
    run(0, "rescue", "--yes", "--mark-clean", str(trial.path), "--backing", str(trial.backing))
    assert trial.path.read_bytes() == cache, "a rescue writes to no cache device"
    handover = trial.machine.boot(
        start_alone("backing", "bcache0"), [Disk("backing", trial.backing, False, SHAPE.block_bytes)], {}
    )
    complaints = [handover.trouble] if handover.trouble else []
    complaints += handover.text("failures").splitlines()
    found = FRONT + handover.files.get("bcache0", b"")
    complaints += [f"read by the kernel, {wrong}" for wrong in trial.plain.wrong(found)]
    note = f"{len(trial.plain.dirty)} dirty sectors, {PLAIN_SECTORS} in all"
    return Outcome(tuple(complaints), {"note": note}, handover.console if complaints else "")


# The damages: each by offsets of its own, not by bcached's parsers.


def erase_superblock(path: Path) -> None:
    """Nothing is left in front of the first bucket."""
    images.write_at(path, SUPERBLOCK, bytes(12 << 10))


def erase_prios(path: Path) -> None:
    """The first prio set is gone, as after a discard."""
    layout = images.superblock(path)
    images.write_at(
        path, images.journal(path)[-1].prio_bucket * layout.bucket_bytes, bytes(layout.bucket_bytes)
    )


def erase_root(path: Path) -> None:
    """The root node is gone."""
    images.write_at(path, images.journal(path)[-1].root.sector * SECTOR, bytes(8192))


def erase_root_and_prios(path: Path) -> None:
    """Both are gone."""
    erase_root(path)
    erase_prios(path)


def erase_journal(path: Path) -> None:
    """No entry is left."""
    layout = images.superblock(path)
    for bucket in layout.journal_buckets:
        images.write_at(path, bucket * layout.bucket_bytes, bytes(layout.bucket_bytes))


def erase_slot(path: Path) -> None:
    """The uuid table has lost the plain volume."""
    images.write_at(path, images.journal(path)[-1].uuid_table.sector * SECTOR + 128, bytes(128))


def flip_bit(path: Path) -> None:
    """One bit of the root is wrong."""
    at = images.journal(path)[-1].root.sector * SECTOR + 48
    images.write_at(path, at, bytes([images.read_at(path, at, 1)[0] ^ 4]))


def garble_leaf(path: Path) -> None:
    """The first bset of a leaf is wrong."""
    lines = run(0, "dump", str(path)).splitlines()
    leaves = [node for node in map(json.loads, lines) if node["type"] == "node" and node["level"] == 0]
    images.write_at(path, leaves[len(leaves) // 2]["key"]["pointers"][0]["sector"] * SECTOR + 40, b"damaged!")


REBUILD: Sequence[str] = ("--newest", "--give-up-dirty")
REPAIRS = {
    "superblock": Repair(erase_superblock, ("--superblock", "--backing", "{backing}")),
    "prios": Repair(erase_prios, ("--rebuild-prios", *REBUILD)),
    "root": Repair(erase_root, ("--drop-damaged", *REBUILD)),
    "root-and-prios": Repair(erase_root_and_prios, ("--drop-damaged", "--rebuild-prios", *REBUILD)),
    "journal": Repair(
        erase_journal,
        ("--drop-damaged", "--rebuild-prios", "--rebuild-volumes", "--backing", "1={backing}", *REBUILD),
        is_lossless=False,
    ),
    "volume": Repair(erase_slot, ("--rebuild-volumes", "--backing", "{backing}")),
    "bit": Repair(flip_bit, ("--correct-bits",)),
    "leaf": Repair(garble_leaf, ("--drop-damaged", "--give-up-dirty"), is_lossless=False),
}
CLAIM = "the kernel registers what repair makes of a set without its {}, and its data is right"

CASES_OF_REPAIR = (
    *(
        Case(f"repair {name}", CLAIM.format(name), partial(repaired, name=name, repair=repair))
        for name, repair in REPAIRS.items()
    ),
    Case("rescue alone", "the kernel starts a rescued backing device alone, and reads the same", detached),
)
