# SPDX-License-Identifier: GPL-2.0-only
"""A sample of what `python -m tests.damages` tries."""

from pathlib import Path
from random import Random

import pytest

from damages.kinds import kinds_of
from damages.outcome import outcome

# What a damage of the smallest image costs: the least share that is sure, and that is right with the newest.
EXPECTED = {
    "interior node: last sector unreadable": (1.0, 1.0, "sound"),
    "root and prios: erased": (0.0, 1.0, "sound"),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", EXPECTED)
async def test_no_damage_does_harm_and_each_repair_is_undone(kind: str, tmp_path: Path) -> None:
    (one,) = [one for one in await kinds_of("clean", Random(1)) if one.name == kind]
    sure, newest, repair = EXPECTED[kind]
    found = await outcome("clean", [one], tmp_path)
    assert found.harm == 0
    assert found.sure >= sure
    assert found.newest >= newest
    assert found.repair.startswith(repair), found.repair
