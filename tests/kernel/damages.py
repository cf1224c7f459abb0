# SPDX-License-Identifier: GPL-2.0-only
"""Every kind of damage, one at a time: repaired by the steps that `repair` itself proposes, and undone.

All sets are repaired first, and registered one after the other in one boot. The first is undamaged: what the
kernel reads of it is what it must read of those that lost nothing.
"""

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import images
from .daemon import program
from .images import SECTOR, SUPERBLOCK
from .keys import FRONT
from .lab import Case, Lab, Outcome
from .qemu import Disk
from .repairs import (
    SHAPE,
    copy_of,
    erase_prios,
    erase_root,
    erase_root_and_prios,
    erase_slot,
    erase_superblock,
    flip_bit,
    garble_leaf,
    prepared,
)
from .verdicts import complaints_about

ROUNDS_MAX = 3  # a step may show what else is damaged
CORRECTED, LEFT, NOT_CHECKED = 1, 4, 8
LIMIT_S = 300


@dataclass(frozen=True, slots=True)
class Damage:
    """What is done to a sound set, and whether all of its data must be there after the repair."""

    cause: Callable[[Path], None]
    is_lossless: bool = False


def write_superblock_bytes(path: Path, offset: int, data: bytes) -> None:
    """Part of the superblock is other than it was."""
    images.write_at(path, SUPERBLOCK + offset, data)


def garble_entry(path: Path, place: int) -> None:
    """A journal entry does not fit its checksum."""
    images.write_at(path, images.journal(path)[place].offset + 24, b"damaged!")


def erase_journal_bucket(path: Path, place: int) -> None:
    """A journal bucket that has entries is gone."""
    layout, entries = images.superblock(path), images.journal(path)
    bucket = entries[place].offset // layout.bucket_bytes
    images.write_at(path, bucket * layout.bucket_bytes, bytes(layout.bucket_bytes))


def erase_uuid_table(path: Path) -> None:
    """All slots are gone."""
    table = images.journal(path)[-1].uuid_table.sector * SECTOR
    images.write_at(path, table, bytes(images.superblock(path).bucket_bytes))


def garble_prios(path: Path) -> None:
    """A few gens are wrong."""
    layout = images.superblock(path)
    images.write_at(path, images.journal(path)[-1].prio_bucket * layout.bucket_bytes + 90, b"damaged!")


def nodes_of(path: Path, *, leaves: bool = True) -> list[dict[str, object]]:
    """All leaves, or all other nodes, as dump tells them."""
    done = subprocess.run(
        [program("bcachectl"), "dump", str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [node for node in found if node["type"] == "node" and (node["level"] == 0) == leaves]


def sectors_not_copied(path: Path) -> None:
    """Of the middle leaf, ddrescue has left a block out."""
    leaves = nodes_of(path)
    key: dict[str, list[dict[str, int]]] = leaves[len(leaves) // 2]["key"]  # type: ignore[assignment]
    images.write_at(path, key["pointers"][0]["sector"] * SECTOR + 4096, bytes(4096))


def erase_interior_nodes(path: Path) -> None:
    """No node that names others is left."""
    for node in nodes_of(path, leaves=False):
        key: dict[str, list[dict[str, int]]] = node["key"]  # type: ignore[assignment]
        images.write_at(path, key["pointers"][0]["sector"] * SECTOR, bytes(8192))


def both(path: Path, first: Callable[[Path], None], second: Callable[[Path], None]) -> None:
    """Two damages; the second does not need what the first one takes."""
    first(path)
    second(path)


def erase_leaf(path: Path, place: int) -> None:
    """A leaf is gone."""
    key: dict[str, list[dict[str, int]]] = nodes_of(path)[place]["key"]  # type: ignore[assignment]
    images.write_at(path, key["pointers"][0]["sector"] * SECTOR, bytes(8192))


def cut_short(path: Path) -> None:
    """The last bucket is not there."""
    with path.open("r+b") as file:
        file.truncate(SHAPE.size_bytes - SHAPE.bucket_bytes)


@dataclass(frozen=True, slots=True)
class Held:
    """What the kernel read: all of the flash-only volume is dirty, and of the other some may be clean."""

    flash: str
    plain: bytes


DAMAGES = {
    "nothing": Damage(lambda _: None, is_lossless=True),
    "superblock's checksum": Damage(partial(write_superblock_bytes, offset=0, data=bytes(8)), True),
    "superblock's magic": Damage(partial(write_superblock_bytes, offset=24, data=bytes(16)), True),
    "superblock": Damage(erase_superblock, True),
    "newest entry": Damage(partial(garble_entry, place=-1)),
    "an entry": Damage(partial(garble_entry, place=-2)),
    "newest journal bucket": Damage(partial(erase_journal_bucket, place=-1)),
    "oldest journal bucket": Damage(partial(erase_journal_bucket, place=0)),
    "prios": Damage(erase_prios, True),
    "some prios": Damage(garble_prios, True),
    "uuid table": Damage(erase_uuid_table),
    "a slot": Damage(erase_slot, True),
    "root": Damage(erase_root, True),
    "root and prios": Damage(erase_root_and_prios, True),
    "a bset": Damage(garble_leaf),
    "first leaf": Damage(partial(erase_leaf, place=0)),
    "last leaf": Damage(partial(erase_leaf, place=-1)),
    "a bit": Damage(flip_bit, True),
    "last bucket": Damage(cut_short),
    "sectors of a leaf": Damage(sectors_not_copied),
    "interior nodes": Damage(erase_interior_nodes, True),
    "prios and superblock": Damage(partial(both, first=erase_prios, second=erase_superblock), True),
    "a leaf and a slot": Damage(partial(both, first=partial(erase_leaf, place=0), second=erase_slot)),
    "an entry and prios": Damage(partial(both, first=partial(garble_entry, place=-2), second=erase_prios)),
}
BATCH = 10  # sets of a boot, two disks each


def repair(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """A run of repair, without a terminal."""
    command = [program("bcachectl"), "--json", "repair", *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def mended(path: Path, backing: Path) -> str:
    """Repair as repair proposes, undoing and repeating each round. Gives why not; empty if it is sound."""
    for number in range(ROUNDS_MAX):
        proposed = repair(path)
        if proposed.returncode == 0:
            # An interrupted write needs no repair, and the kernel may say that it found one.
            return "" if json.loads(proposed.stdout)["sound"] else repair_in_words(path)
        if proposed.returncode != LEFT:
            return proposed.stderr.strip() or f"status {proposed.returncode}"
        steps = json.loads(proposed.stdout)["needed_steps"]
        if not steps:
            return repair_in_words(path)
        said = one_round(path, options_for(steps, backing), path.with_suffix(f".undo{number}"))
        if said:
            return said
    return f"it is not sound after {ROUNDS_MAX} rounds"


def repair_in_words(path: Path) -> str:
    """The last line of what repair says without a step."""
    command = [program("bcachectl"), "repair", str(path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


def options_for(steps: Sequence[str], backing: Path) -> list[str]:
    """The steps with all that they may use."""
    options = list(steps)
    if {"--superblock", "--rebuild-volumes"} & set(steps):
        options += ["--backing", f"1={backing}" if "--rebuild-volumes" in steps else str(backing)]
    if [step for step in steps if step.startswith(("--rebuild", "--drop"))]:
        options += ["--newest", "--give-up-dirty"]
    return options


def one_round(path: Path, options: Sequence[str], undo: Path) -> str:
    """Repair, undo, repair again. Gives why it was refused; empty if it was done."""
    undo.unlink(missing_ok=True)
    before = path.read_bytes()
    done = repair("--yes", "--undo", undo, *options, path)
    if done.returncode not in (CORRECTED, LEFT):
        assert path.read_bytes() == before, "a repair that was refused has changed something"
        return done.stderr.strip() or json.loads(done.stdout)["obstacle"]
    restored = repair("--restore", undo)
    assert restored.returncode == 0, restored.stderr
    assert path.read_bytes() == before, "the undo file does not bring all of it back"
    return "" if repair("--yes", *options, path).returncode in (CORRECTED, LEFT) else "not the second time"


def repaired_all(lab: Lab) -> Outcome:
    """All damages; the kernel registers what repair made of each, or repair has said why not."""
    ready: dict[str, tuple[Path, Path]] = {}
    refused: dict[str, str] = {}
    for number, (name, damage) in enumerate(DAMAGES.items()):
        trial = copy_of(lab, f"damage-{number}")
        damage.cause(trial.path)
        said = mended(trial.path, trial.backing)
        if said:
            refused[name] = said
            print(f"     {name}: not repaired: {said[:160]}", flush=True)
        else:
            ready[name] = trial.path, trial.backing
    plain = prepared(lab).plain
    complaints = [f"{name} must be repaired: {said}" for name, said in refused.items() if must(name)]
    expected = ""
    names = list(ready)
    for first in range(0, len(names), BATCH):
        found, wrong = registered(lab, {name: ready[name] for name in names[first : first + BATCH]})
        expected = expected or found["nothing"].flash
        complaints += wrong
        for name in filter(must, found):
            complaints += [f"{name}: {said}" for said in plain.wrong(FRONT + found[name].plain)]
            if found[name].flash != expected:
                complaints.append(f"{name}: other data in the flash-only volume")
    return Outcome(tuple(complaints), {"note": f"{len(ready)} repaired, {len(refused)} refused"})


def must(name: str) -> bool:
    """Whether a damage loses nothing."""
    return DAMAGES[name].is_lossless


def registered(lab: Lab, ready: dict[str, tuple[Path, Path]]) -> tuple[dict[str, Held], list[str]]:
    """The hashes of what the kernel reads of each set, and all that it complained of."""
    lines, disks = [], []
    for number, (cache, backing) in enumerate(ready.values()):
        lines += [f"register_one cache{number}", f"start backing{number} bcache1"]
        lines += [f"note_contents bcache0 {number}", f"give_as bcache1 plain.{number}"]
        lines += ["collect_garbage", f"stop_one cache{number}"]
        disks += [Disk(f"cache{number}", cache), Disk(f"backing{number}", backing)]
    handover = lab.machine.boot("\n".join(lines) + "\n", disks, None, LIMIT_S)
    found = {
        name: Held(handover.facts.get(f"contents_{number}", ""), handover.files.get(f"plain.{number}", b""))
        for number, name in enumerate(ready)
    }
    return found, complaints_about(handover)


REPAIRED = (
    Case(
        "repaired all",
        "the kernel registers what repair makes of every damage, or repair says why not",
        repaired_all,
    ),
)
