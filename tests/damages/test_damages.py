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


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["newest entry: erased", "journal bucket with the newest entry: erased"])
@pytest.mark.parametrize("name", ["flash", "flash-lapped"])
async def test_an_erased_end_of_the_journal_is_noticed_or_said_to_be_unnoticeable(
    name: str, kind: str, tmp_path: Path
) -> None:
    (one,) = [one for one in await kinds_of(name, Random(1)) if one.name == kind]
    found = await outcome(name, [one], tmp_path)
    assert found.repair == "sound"
    assert found.newest > 0.99
    if found.end_is_open:
        assert name == "flash"
    else:
        assert (found.sure, found.harm) == (0, 0)
