# SPDX-License-Identifier: GPL-2.0-only
"""A finding as a JSON document."""

from bcached.store.finding import Finding


def finding_document(finding: Finding) -> dict[str, object]:
    """Returns a finding as a JSON document."""
    return {
        "rule": finding.rule,
        "severity": finding.severity.name.lower(),
        "structure": finding.structure,
        "where": finding.where,
        "problem": finding.problem,
        "lost": finding.lost,
        "advice": finding.advice,
    }
