# SPDX-License-Identifier: GPL-2.0-only
"""One image before the kernel: boot, verdict, and what is worth telling of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import dmesg, images
from .machine import Handover, Machine
from .qemu import Disk
from .scenario import Volume, use
from .silent import silent_faults
from .verdicts import complaints_about


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why the kernel (or we, watching it) would not have the image; nothing if all is well."""

    complaints: tuple[str, ...]
    facts: Mapping[str, str]
    wall_s: float
    log: str  # for a person to read when there is a complaint
    given: Mapping[str, bytes] = field(default_factory=dict)  # what block devices held, by name

    @property
    def accepted(self) -> bool:
        """Whether there was no complaint."""
        return not self.complaints


def judge(
    machine: Machine,
    image: Path,
    *,
    volumes: Sequence[Volume] = (),
    backing: Path | None = None,
    give: bool = False,
    fill: bytes = b"",
    cut: bool = False,
    keep_writes: bool = False,
    may_be_fresh: bool = False,
    hits: bool = False,
) -> Verdict:
    """Let the kernel use the image; with keep_writes, what it did stays in the file.

    backing is a device that belongs to it, and comes behind the volumes; give asks for what they all hold.
    fill is written to the start of each of them; cut ends the guest without stopping the set. hits counts the
    reads of the backing device's data that the cache answers.
    """
    expected, silent = images.journal(image), silent_faults(image)
    block_bytes = images.superblock(image).block_bytes
    disks = [Disk("cache", image, keep_writes, block_bytes)]
    attached = f"bcache{len(volumes)}" if backing else ""
    if backing:
        disks.append(Disk("backing", backing, keep_writes, block_bytes))
    scenario = use(volumes, backing=attached, give=give, fill=bool(fill), cut=cut, hits=hits)
    handover = machine.boot(scenario, disks, {"fill": fill} if fill else {})
    return Verdict(
        (*silent, *complaints_of(handover, expected, may_be_fresh)),
        facts_of(handover),
        handover.wall_s,
        relevant_log(handover),
        {name: data for name, data in handover.files.items() if name.startswith("bcache")},
    )


def complaints_of(handover: Handover, expected: Sequence[images.Entry], may_be_fresh: bool) -> list[str]:
    """Everything that speaks against the image."""
    found = complaints_about(handover, may_be_fresh=may_be_fresh)
    replay = dmesg.replayed(dmesg.parse(handover.text("dmesg")))
    if replay and expected and replay["seq"] != expected[-1].seq:
        # The kernel says nothing of this: it takes the newest entry it happens to find.
        found.append(f"the kernel's newest journal entry is {replay['seq']}, the image's {expected[-1].seq}")
    return found


def facts_of(handover: Handover) -> dict[str, str]:
    """The guest's facts and the journal's figures."""
    replay = dmesg.replayed(dmesg.parse(handover.text("dmesg")))
    told = {"journal": "{keys} keys in {entries} entries, seq {seq}".format(**replay)} if replay else {}
    return {**handover.facts, **told}


def relevant_log(handover: Handover) -> str:
    """The kernel's log since the scenario began; the console where there is none."""
    lines = dmesg.since_begin(dmesg.parse(handover.text("dmesg")))
    if lines is None:
        return "\n".join(handover.console.splitlines()[-40:])
    return "\n".join(f"<{line.level}> {line.text}" for line in lines)
