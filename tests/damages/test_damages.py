# SPDX-License-Identifier: GPL-2.0-only
"""A sample of what `python -m tests.damages` tries."""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from bcached.store.reading import ring_end
from bcached.store.reading.prio_traces import PrioTrace
from damages.kinds import kinds_of
from damages.outcome import outcome

# What a damage of the smallest image costs: the least share that is sure, and that is right with the newest.
EXPECTED = {
    "interior node: last sector unreadable": (1.0, 1.0, "sound"),
    "root and prios: erased": (0.0, 1.0, "sound"),
    "newest bset of a leaf: erased whole": (0.03, 0.9, "sound"),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", EXPECTED)
async def test_no_damage_does_harm_and_each_repair_is_undone(kind: str, tmp_path: Path) -> None:
    *_, one = [one for one in await kinds_of("clean", Random(1)) if one.name == kind]
    sure, newest, repair = EXPECTED[kind]
    found = await outcome("clean", [one], tmp_path)
    assert found.harm == 0
    assert found.sure >= sure
    assert found.newest >= newest
    assert found.repair.startswith(repair), found.repair


NEWEST, NEWEST_BUCKET = "newest entry: erased", "journal bucket with the newest entry: erased"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "kind"),
    [("flash", NEWEST), ("flash-lapped", NEWEST), ("flash-lapped", NEWEST_BUCKET)],
)
async def test_an_erased_end_of_the_journal_leaves_nothing_sure_where_it_shows(
    name: str, kind: str, tmp_path: Path
) -> None:
    (one,) = [one for one in await kinds_of(name, Random(1)) if one.name == kind]
    found = await outcome(name, [one], tmp_path)
    assert found.repair == "sound"
    assert found.newest > 0.99
    assert (found.sure, found.harm, found.unnoticed) == (0, 0, 0)


async def test_what_no_reader_can_notice_is_excused_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of these two kinds the first shows nowhere, the second in prios; a reader that does not look fails."""

    async def nothing(*_: object) -> AsyncIterator[PrioTrace]:
        no_traces: list[PrioTrace] = []
        for trace in no_traces:
            yield trace

    monkeypatch.setattr(ring_end, "prio_traces", nothing)
    every = await kinds_of("crash", Random(1))
    harms = []
    for kind in (NEWEST, NEWEST_BUCKET):
        (one,) = [one for one in every if one.name == kind]
        found = await outcome("crash", [one], tmp_path)
        harms.append((found.harm > 0, found.unnoticed > 0))
    assert harms == [(False, True), (True, False)]


@pytest.mark.parametrize("damage", ["prios: erased", "prios: unreadable"])
async def test_nor_can_it_be_noticed_in_prios_that_are_gone(damage: str) -> None:
    """What is left is a set that lost power before the entries were written, and its prios later."""
    every = await kinds_of("crash", Random(1))
    chosen = [one for one in every if one.name in (NEWEST_BUCKET, damage)]
    found = await outcome("crash", chosen, None)
    assert (found.harm, found.unnoticed > 0) == (0, True)
