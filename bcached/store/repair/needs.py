# SPDX-License-Identifier: GPL-2.0-only
"""Which steps of a repair answer what a check has found."""

import shlex
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum

from bcached.errors import SetRefused
from bcached.format.superblock_fields import BackingDevice
from bcached.store.finding import DAMAGED_ENTRY, SUSPECT_END, Finding, Findings, Severity


class StepOption(Enum):
    """A step that the owner names, by its option."""

    SUPERBLOCK = "--superblock"
    CORRECT_BITS = "--correct-bits"
    CLEAR_JOURNAL = "--clear-journal-behind"
    REBUILD_PRIOS = "--rebuild-prios"
    REBUILD_VOLUMES = "--rebuild-volumes"
    DROP_DAMAGED = "--drop-damaged"
    DROP_MISSING = "--drop-missing"


REBUILDING = {
    StepOption.REBUILD_PRIOS,
    StepOption.REBUILD_VOLUMES,
    StepOption.DROP_DAMAGED,
    StepOption.DROP_MISSING,
}
RULES = {
    "superblock": StepOption.SUPERBLOCK,
    "superblock-copy": StepOption.SUPERBLOCK,
    "prio-chain": StepOption.REBUILD_PRIOS,
}
RULES |= {"uuid-bucket": StepOption.REBUILD_VOLUMES}
JOURNAL_LOST = "journal-empty"
NO_STEP = {"set-members", "member-older", "geometry", "superblock-sync"}  # another device is needed
OF_NEWER_ENTRIES = {DAMAGED_ENTRY, SUSPECT_END}
NO_STEP_PREFIXES = "backing-", "data-"  # nothing of the set's metadata


def step_for(finding: Finding) -> StepOption | None:
    """Returns the step that answers a finding; None if none does, or none is needed."""
    if finding.severity < Severity.DAMAGE or finding.rule in NO_STEP:
        return None
    if finding.rule.startswith(NO_STEP_PREFIXES) or isinstance(finding.cause, BackingDevice):
        return None
    if finding.rule.startswith("volume-"):
        return StepOption.REBUILD_VOLUMES
    return RULES.get(finding.rule, StepOption.DROP_DAMAGED)


def needed_steps(findings: Findings) -> set[StepOption]:
    """Returns the steps that answer what was found."""
    needed = {step for finding in findings.listed if (step := step_for(finding)) is not None}
    if JOURNAL_LOST in findings.counts:
        # No reader gets as far as to miss them: only the journal says where they are.
        needed |= {StepOption.REBUILD_PRIOS, StepOption.REBUILD_VOLUMES}
    return needed


def commands_for(findings: Findings, paths: Sequence[str], more: Sequence[str] = ()) -> list[str]:
    """Returns the command that shows what a repair would do about what was found, if any is needed.

    1. If only newer entries of the journal are lost, going on without them: nothing else is given up. 2. The
    steps that answer what was found. More options are of the devices.
    """
    advised = {finding.advice for finding in findings.listed if finding.severity >= Severity.DAMAGE}
    if findings.counts.keys() & OF_NEWER_ENTRIES and len(advised) == 1 and "" not in advised:
        behind = f" {shlex.join(more)}" if more else ""
        return [advice.replace("repair", "repair -n", 1) + behind for advice in advised]
    options = in_order(needed_steps(findings))
    return [shlex.join(["bcachectl", "repair", "-n", *options, *paths, *more])] if options else []


def refuse_unanswered(needed: AbstractSet[StepOption], named: AbstractSet[StepOption]) -> None:
    """Refuse to rebuild a set of which more is damaged than the named steps answer."""
    missing = needed - named
    if missing:
        options = " ".join(in_order(missing))
        raise SetRefused(f"more is damaged than these steps are for: name {options} as well")


def in_order(steps: Iterable[StepOption]) -> list[str]:
    """Returns the options of steps, in the order in which they are done."""
    order = list(StepOption)
    return [step.value for step in sorted(steps, key=order.index)]
