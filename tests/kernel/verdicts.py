# SPDX-License-Identifier: GPL-2.0-only
"""What speaks against a boot that is about more than one image."""

from . import dmesg
from .machine import Handover


def complaints_about(handover: Handover, *, may_be_fresh: bool = False) -> list[str]:
    """Every failure that the guest noted, and every line of its log that sound devices would not cause."""
    found = [handover.trouble] if handover.trouble else []
    found += handover.text("failures").splitlines()
    lines = dmesg.since_begin(dmesg.parse(handover.text("dmesg")))
    if lines is None:
        return [*found, "the kernel's log does not hold the scenario's beginning"]
    return [*found, *dmesg.complaints(lines, may_be_fresh=may_be_fresh)]
