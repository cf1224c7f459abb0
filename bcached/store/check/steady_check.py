# SPDX-License-Identifier: GPL-2.0-only
"""A check of a set that may be in use: only findings that stay count.

While a daemon writes, a reading mixes states of several moments, and nothing on the devices marks where one
ends: leaves are written between journal entries. But such findings move from reading to reading, and damage
stays. So if a reading finds anything wrong, and the set is in use or has changed meanwhile, it is read again,
and only findings of all readings count.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError
from bcached.store.check.checker import CheckedSet, NodeRead, check_set, count_nothing, read_metadata
from bcached.store.finding import Finding, Findings, Severity

READINGS_MAX = 5
READING_PAUSE_S = 0.2  # for writes in flight to end
RuleAndWhere = tuple[str, str]


@dataclass(frozen=True, slots=True)
class SteadyCheck:
    """The last reading, with only the findings of all readings."""

    checked: CheckedSet
    readings: int
    passing: int  # findings that were not there again


async def check_steadily(
    devices: Sequence[BlockDevice], *, in_use: bool, node_read: NodeRead = count_nothing
) -> SteadyCheck:
    """Check a set, several times if needed. Raises an error only if the last reading ends with it."""
    stays: set[RuleAndWhere] | None = None
    seen: set[RuleAndWhere] = set()
    for reading in range(1, READINGS_MAX + 1):
        try:
            checked = await check_set(devices, node_read)
        except BcachedError:
            if not in_use or reading == READINGS_MAX:
                raise
            await asyncio.sleep(READING_PAUSE_S)
            continue
        listed = checked.findings.listed
        wrong = {_identity(finding) for finding in listed if finding.severity > Severity.NOTE}
        seen |= wrong
        stays = wrong if stays is None else stays & wrong
        if not stays or reading == READINGS_MAX or not (in_use or await _has_moved(devices, checked)):
            break
        in_use = True
        await asyncio.sleep(READING_PAUSE_S)
    assert stays is not None, "the last reading neither failed nor found anything"
    checked.findings = _only(checked.findings, stays)
    return SteadyCheck(checked, reading, len(seen - stays))


def _identity(finding: Finding) -> RuleAndWhere:
    return finding.rule, finding.where


async def _has_moved(devices: Sequence[BlockDevice], checked: CheckedSet) -> bool:
    """Whether a journal entry or a superblock was written since: not every writer takes a lock."""
    now = await read_metadata(devices)
    return _mark(now) != _mark(checked)


def _mark(checked: CheckedSet) -> tuple[object, ...]:
    journal = checked.journal
    seq = journal.newest.seq if journal is not None and journal.entries else 0
    return seq, *(member.superblock for member in checked.members)


def _only(findings: Findings, stays: set[RuleAndWhere]) -> Findings:
    """Returns the findings at some locations, and all notes."""
    kept = Findings()
    for finding in findings.listed:
        if finding.severity == Severity.NOTE or _identity(finding) in stays:
            kept.report(finding)
    more = Counter({rule: count for rule, count in findings.unlisted().items() if kept.counts[rule]})
    kept.counts += more
    return kept
