# SPDX-License-Identifier: GPL-2.0-only
"""Breaches: a judge that cannot say no is none. Each image is damaged in one place, and must be refused
for that reason and no other."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import images
from .judge import judge
from .lab import Case, Lab, Outcome


def breach(lab: Lab, damage: Callable[[Path], None], reason: str) -> Outcome:
    """The verdict on a damaged copy of a sound image must hold a complaint that matches reason."""
    path = images.copy(lab.kernel_image, lab.path("breach"))
    damage(path)
    verdict = judge(lab.machine, path)
    if any(re.search(reason, complaint) for complaint in verdict.complaints):
        return Outcome(facts={"said": next(c for c in verdict.complaints if re.search(reason, c))})
    if verdict.accepted:
        return Outcome((f"the damage went unnoticed, expected: {reason}",), verdict.facts, verdict.log)
    told = "; ".join(verdict.complaints)
    return Outcome((f"refused for another reason than {reason}: {told}",), verdict.facts, verdict.log)


DAMAGES = {
    "superblock": (images.damage_superblock, "refused to register"),
    "journal": (images.damage_journal, "bad csum|no journal entries found"),
    "prios": (images.damage_prios, "bad csum reading priorities"),
    "root": (images.damage_root, "bad checksum"),
    "sync-flag": (images.forget_journal, "invalidating existing data"),
}

BREACHES = tuple(
    Case(f"breach {name}", f"damage to the {name} is told", partial(breach, damage=damage, reason=reason))
    for name, (damage, reason) in DAMAGES.items()
)
