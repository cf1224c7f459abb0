# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from bcached.runtime.coordination.conditions import Conditions, Fact
from bcached.runtime.coordination.prio_schedule import PrioSchedule
from bcached.runtime.lifetime import running
from bcached.store.member import Member
from instruments.samples.living_set import fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time


class Announced(Conditions):
    """Conditions that keep what was announced."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: list[Fact] = []

    def announce(self, *facts: Fact) -> None:
        self.facts += facts


def is_requested(prios: PrioSchedule, member: Member) -> bool:
    return prios.is_requested(member)


@in_virtual_time
async def test_a_write_counts_as_requested_until_it_ends(tmp_path: Path) -> None:
    async with running(await fresh_members([600], 4 << 10), set_options(tmp_path)) as cache_set:
        (member,) = cache_set.members
    prios = PrioSchedule(Announced(), 1600)
    assert is_requested(prios, member) is False
    prios.request(member)
    assert is_requested(prios, member) is True
    prios.writing.add(member)
    prios.wanted_for.discard(member)
    assert is_requested(prios, member) is True
    prios.writing.discard(member)
    assert is_requested(prios, member) is False


@in_virtual_time
async def test_filled_reserves_wake_the_writer_only_if_it_is_asked(tmp_path: Path) -> None:
    async with running(await fresh_members([600], 4 << 10), set_options(tmp_path)) as cache_set:
        (member,) = cache_set.members
    conditions = Announced()
    prios = PrioSchedule(conditions, 1600)
    prios.reserves_filled(member)
    assert conditions.facts == []
    prios.request(member)
    prios.reserves_filled(member)
    assert conditions.facts == [Fact.PRIOS_WANTED] * 2


@in_virtual_time
async def test_the_last_end_of_a_block_is_announced() -> None:
    conditions = Announced()
    prios = PrioSchedule(conditions, 1600)
    prios.block()
    prios.block()
    prios.unblock(1)
    assert conditions.facts == []
    prios.unblock(1)
    assert conditions.facts == [Fact.PRIOS_WANTED]
    with pytest.raises(AssertionError):
        prios.unblock(1)
