# SPDX-License-Identifier: GPL-2.0-only
"""What is wrong with a device: one finding each, and their collection.

Reading never stops at damage: the reader passes a finding to a `Report` and goes on with what is left. A
check collects all findings; the report of an opening raises at the first fatal one (`refuse_fatal`). So the
two agree: what is fatal to a check is what an opening refuses.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum

from bcached.errors import BadChecksum, BcachedError, DeviceError, FormatError, SetRefused

TORN_ENTRY = "journal-torn"  # the rule of an entry that was not written whole
DAMAGED_ENTRY = "journal-newer"  # the rule of one behind the newest that was written, and damaged
SUSPECT_END = "journal-end"  # the rule of an end of the journal that shows that something was erased
FINDINGS_OF_A_RULE_MAX = 100  # one fault can cause millions of findings


class Severity(IntEnum):
    """The severity of a finding, in ascending order."""

    NOTE = 0  # nothing is wrong, but it may explain what an operator sees
    TORN = 1  # a write was interrupted; opening the set in bcached repairs it
    DAMAGE = 2  # something is wrong, but the set can be opened
    FATAL = 3  # the set cannot be opened as it is


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: which rule, in which structure, where, what, and what is lost by it."""

    rule: str
    severity: Severity
    structure: str
    where: str
    problem: str
    lost: str = ""
    advice: str = ""  # the command to go on with, if there is one
    cause: BcachedError | None = field(default=None, compare=False)  # what the reader raised, if anything

    def __str__(self) -> str:
        return f"{self.severity.name.lower()}: {self.text}"

    @property
    def text(self) -> str:
        """All but the severity, in one line."""
        lost = f"; lost: {self.lost}" if self.lost else ""
        advice = f"; to go on without: {self.advice}" if self.advice else ""
        return f"{self.structure} at {self.where}: {self.problem}{lost}{advice}"


Report = Callable[[Finding], None]


def refuse_fatal(finding: Finding) -> None:
    """The report of an opening: raises a fatal finding, ignores the others."""
    if finding.severity == Severity.FATAL:
        raise finding.cause or SetRefused(finding.text)


# The structures whose checksum errors are counted, by their names in messages (set_state.CHECKED_STRUCTURES).
CHECKED = {"superblock": "superblock", "journal entry": "jset", "prio set": "prio_set", "bset": "bset"}


@dataclass(slots=True)
class OpeningReport:
    """The report of an opening and of an open set: raises a fatal finding, and counts checksum errors."""

    checksum_errors: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)  # of what is lost by opening the set as it is

    def __call__(self, finding: Finding) -> None:
        """Count the finding if it is of a checksum, and raise it if it is fatal."""
        if isinstance(finding.cause, BadChecksum):
            self.checksum_errors[CHECKED[finding.cause.structure]] += 1
        elif finding.rule in {TORN_ENTRY, DAMAGED_ENTRY}:
            self.checksum_errors["jset"] += 1
        if finding.rule == DAMAGED_ENTRY:
            self.warnings.append(replace(finding, advice="").text)
        refuse_fatal(finding)


def finding_of(error: BcachedError, rule: str, severity: Severity, lost: str = "") -> Finding:
    """Returns a finding of the error that a reader raised."""
    if isinstance(error, FormatError):
        problem = f"expected {error.expected}, found {error.found}"
        return Finding(rule, severity, error.structure, error.where, problem, lost, cause=error)
    if isinstance(error, DeviceError):
        return Finding(rule, severity, "device", error.path, error.reason, lost, cause=error)
    return Finding(rule, severity, "set", "its members", str(error), lost, cause=error)


@dataclass(slots=True)
class Findings:
    """All findings, in the order they were made; of each rule the first hundred, and how many there were."""

    listed: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    worst: Severity = Severity.NOTE

    def report(self, finding: Finding) -> None:
        """Add a finding."""
        self.counts[finding.rule] += 1
        self.worst = max(self.worst, finding.severity)
        if self.counts[finding.rule] <= FINDINGS_OF_A_RULE_MAX:
            self.listed.append(finding)

    def add(self, others: "Findings") -> None:
        """Add findings of another collection."""
        before = self.counts.copy()
        for finding in others.listed:
            self.report(finding)
        self.counts = before + others.counts

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.worst == Severity.NOTE

    @property
    def need_repair(self) -> bool:
        """Whether more is wrong than a journal entry that was not acknowledged."""
        torn = (finding for finding in self.listed if finding.severity == Severity.TORN)
        return self.worst > Severity.TORN or any(finding.rule != TORN_ENTRY for finding in torn)

    def unlisted(self) -> dict[str, int]:
        """Returns how many of each rule are not listed."""
        return {
            rule: n - FINDINGS_OF_A_RULE_MAX for rule, n in self.counts.items() if n > FINDINGS_OF_A_RULE_MAX
        }
