# SPDX-License-Identifier: GPL-2.0-only
"""Findings: what a check lists, and what an opening refuses."""

import pytest

from bcached.errors import BadField, DeviceError, SetRefused
from bcached.store.finding import (
    FINDINGS_OF_A_RULE_MAX,
    Finding,
    Findings,
    Severity,
    finding_of,
    refuse_fatal,
)


def finding(severity: Severity, rule: str = "rule") -> Finding:
    return Finding(rule, severity, "key", "d0 sector 8", "it is wrong", "all", "do that")


def test_a_finding_says_what_where_what_is_lost_and_what_to_do() -> None:
    told = "key at d0 sector 8: it is wrong; lost: all; to go on without: do that"
    assert finding(Severity.DAMAGE).text == told
    assert str(finding(Severity.TORN)) == f"torn: {told}"
    assert Finding("rule", Severity.NOTE, "key", "here", "odd").text == "key at here: odd"


def test_an_opening_refuses_what_is_fatal_and_nothing_else() -> None:
    for severity in Severity:
        if severity == Severity.FATAL:
            with pytest.raises(SetRefused, match="key at d0 sector 8: it is wrong"):
                refuse_fatal(finding(severity))
        else:
            refuse_fatal(finding(severity))


def test_it_raises_what_the_reader_raised() -> None:
    for error in (BadField("bset", "d0 byte 8", 1, 2), DeviceError("d0", "cannot read")):
        with pytest.raises(type(error)) as raised:
            refuse_fatal(finding_of(error, "rule", Severity.FATAL))
        assert raised.value is error


def test_a_finding_of_an_error_has_its_structure_and_location() -> None:
    of_field = finding_of(BadField("bset", "d0 byte 8", 1, 2), "rule", Severity.DAMAGE, "keys")
    assert of_field.text == "bset at d0 byte 8: expected 1, found 2; lost: keys"
    assert finding_of(DeviceError("d0", "cannot read"), "rule", Severity.DAMAGE).text == (
        "device at d0: cannot read"
    )


def test_of_each_rule_a_hundred_are_listed_and_all_are_counted() -> None:
    findings = Findings()
    for _ in range(FINDINGS_OF_A_RULE_MAX + 20):
        findings.report(finding(Severity.NOTE, "often"))
    assert (findings.sound, findings.worst) == (True, Severity.NOTE)
    findings.report(finding(Severity.DAMAGE, "once"))
    assert (findings.sound, findings.worst) == (False, Severity.DAMAGE)
    assert len(findings.listed) == FINDINGS_OF_A_RULE_MAX + 1
    assert findings.counts == {"often": FINDINGS_OF_A_RULE_MAX + 20, "once": 1}
    assert findings.unlisted() == {"often": 20}
