"""What is wrong with a device: one finding each, and the place where they are collected.

Reading for a check never stops at damage: whoever reads hands what is wrong to a `Report` and goes on with
what is left. Somebody who must not go on hands it to a report that raises.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from bcached.errors import BcachedError, DeviceError, FormatError

FINDINGS_OF_A_RULE_MAX = 100  # one damage can show in millions of places


class Severity(IntEnum):
    """How grave a finding is."""

    NOTE = 0  # nothing is wrong, but somebody who wonders wants to know
    TORN = 1  # a write was cut off; opening the set in bcached makes it good
    DAMAGE = 2  # something is wrong, and the set opens nevertheless
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

    def __str__(self) -> str:
        lost = f"; lost: {self.lost}" if self.lost else ""
        return f"{self.severity.name.lower()}: {self.structure} at {self.where}: {self.problem}{lost}"


Report = Callable[[Finding], None]


def finding_of(error: BcachedError, rule: str, severity: Severity, lost: str = "") -> Finding:
    """What a reader raised, as a finding."""
    if isinstance(error, FormatError):
        problem = f"expected {error.expected}, found {error.found}"
        return Finding(rule, severity, error.structure, error.where, problem, lost)
    if isinstance(error, DeviceError):
        return Finding(rule, severity, "device", error.path, error.reason, lost)
    return Finding(rule, severity, "set", "its members", str(error), lost)


@dataclass(slots=True)
class Findings:
    """All findings, in the order they were made; of each rule the first hundred, and how many there were."""

    listed: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    worst: Severity = Severity.NOTE

    def report(self, finding: Finding) -> None:
        """Take one in."""
        self.counts[finding.rule] += 1
        self.worst = max(self.worst, finding.severity)
        if self.counts[finding.rule] <= FINDINGS_OF_A_RULE_MAX:
            self.listed.append(finding)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.worst == Severity.NOTE

    def unlisted(self) -> dict[str, int]:
        """How many of each rule are not listed."""
        return {
            rule: n - FINDINGS_OF_A_RULE_MAX for rule, n in self.counts.items() if n > FINDINGS_OF_A_RULE_MAX
        }
