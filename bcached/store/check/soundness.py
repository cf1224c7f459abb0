# SPDX-License-Identifier: GPL-2.0-only
"""Whether a set is sound enough to be copied or rearranged as it is."""

from bcached.errors import SetRefused
from bcached.store.check.checker import CheckedSet
from bcached.store.finding import Severity


def refuse_damaged(checked: CheckedSet) -> None:
    """Raises SetRefused at damage. What a power cut tears is none: the next opening repairs it."""
    worst = checked.findings.worst
    if worst <= Severity.TORN:
        return
    finding = next(finding for finding in checked.findings.listed if finding.severity == worst)
    if not checked.members:  # it is no cache device, or not all of one
        raise finding.cause or SetRefused(finding.text)
    raise SetRefused(
        f"expected a set without damage, found {finding.text}. `bcachectl check` lists all of it; "
        "`bcachectl rescue` brings dirty data back"
    )
