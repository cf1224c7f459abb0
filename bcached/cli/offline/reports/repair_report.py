# SPDX-License-Identifier: GPL-2.0-only
"""What a repair prints: its steps, what they give up, and what is found afterwards."""

from collections.abc import Iterator, Sequence

from bcached.cli.fsck_command import FsckStatus
from bcached.cli.offline.reports.finding_document import finding_document
from bcached.store.finding import Severity
from bcached.store.repair.needs import commands_for, in_order, needed_steps
from bcached.store.repair.repair import Repair
from bcached.units import format_size


def status_of(done: Repair) -> FsckStatus:
    """Returns fsck's status: whether there were errors, and whether they are corrected."""
    if done.found.findings.need_repair or (done.is_needed and not done.is_done):
        return FsckStatus.ERRORS_LEFT
    return FsckStatus.CORRECTED if done.is_done else FsckStatus.SOUND


def step_lines(done: Repair) -> Iterator[str]:
    """Yields what each step does and gives up."""
    for step in done.steps:
        blocks = sum(1 for _ in step.patches)
        size = f"{blocks} blocks, {format_size(step.written_bytes)}" if step.is_needed else "nothing to do"
        yield f"{step.what}: {size}"
        yield from (f"  keeps: {what}" for what in step.keeps)
        yield from (f"  gives up: {what}" for what in step.gives_up)


def lines(done: Repair, map_options: Sequence[str] = ()) -> Iterator[str]:
    """Yields lines on the steps and the findings after them; without steps, on what could be done."""
    yield from step_lines(done)
    found = done.found.findings
    yield from (str(finding) for finding in found.listed if finding.severity > Severity.NOTE)
    if done.obstacle and done.is_needed and not done.is_done:
        yield f"not done: {done.obstacle}"
    then = {(True, True): "sound now", (True, False): "still NOT SOUND"}
    then |= {(False, True): "would be sound then", (False, False): "would NOT be sound then"}
    if done.is_needed:
        yield then[done.is_done, not found.need_repair]
    elif found.worst == Severity.TORN:
        yield "nothing is to be repaired: the next opening puts right what was interrupted"
    else:
        yield "sound" if found.sound else "NOT SOUND: nothing was done"
    if not done.is_needed:
        commands = commands_for(found, [device.path for device in done.devices], map_options)
        yield from (f"to see what can be done: {command}" for command in commands)


def document(done: Repair) -> dict[str, object]:
    """Returns all of it as a JSON document."""
    found = done.found.findings
    return {
        "done": done.is_done,
        "steps": [
            {
                "what": step.what,
                "keeps": step.keeps,
                "gives_up": step.gives_up,
                "may_lose_dirty": step.loses_dirty,
                "blocks": sum(1 for _ in step.patches),
                "bytes": step.written_bytes,
            }
            for step in done.steps
        ],
        "obstacle": done.obstacle if done.is_needed and not done.is_done else "",
        "needed_steps": in_order(needed_steps(found)),
        "sound_before": done.before.findings.sound,
        "sound": found.sound,
        "findings": [finding_document(finding) for finding in found.listed],
    }
