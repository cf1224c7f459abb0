# SPDX-License-Identifier: GPL-2.0-only
"""How many different crash states the tests of one run have judged, in all processes together.

A test tells its own number as a property of its report, and how many tests tell one when all of them run:
only then is there a share that must be reached.
"""

from collections.abc import Iterable
from typing import Any

SHARE = 100_000
PROPERTY = "distinct crash states"


def property_of(distinct: int, tests: int) -> tuple[str, object]:
    """What a test records of its states, one of so many tests that do."""
    return PROPERTY, [distinct, tests]


def share_of(reports: Iterable[Any]) -> tuple[str, bool]:
    """A line about the states that these reports tell of, empty if none does; and whether they suffice."""
    told = [value for report in reports for name, value in report.user_properties if name == PROPERTY]
    if not told:
        return "", True
    distinct = sum(count for count, _ in told)
    is_whole = len(told) == told[0][1]
    line = f"{distinct} {PROPERTY} in {len(told)} of {told[0][1]} tests"
    if is_whole and distinct < SHARE:
        return f"{line}: fewer than {SHARE}", False
    return line, True
