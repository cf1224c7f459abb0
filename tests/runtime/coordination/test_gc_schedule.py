# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from bcached.runtime.coordination.conditions import Conditions, Fact
from bcached.runtime.coordination.gc_schedule import GcSchedule
from bcached.runtime.lifetime import running
from bcached.store.member import Member
from instruments.samples.living_set import fresh_members, set_options
from instruments.time.virtual_time import in_virtual_time

VOLUME_SECTORS = 1600


class Announced(Conditions):
    """Conditions that keep what was announced."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: list[Fact] = []

    def announce(self, *facts: Fact) -> None:
        self.facts += facts


def schedule() -> tuple[GcSchedule, Announced]:
    conditions = Announced()
    return GcSchedule(conditions, VOLUME_SECTORS), conditions


def requested(collections: GcSchedule) -> bool:
    return collections.has_requests


def evacuation_requested(collections: GcSchedule, member: Member) -> bool:
    return collections.is_evacuation_requested(member)


@in_virtual_time
async def test_a_request_is_announced_once() -> None:
    collections, conditions = schedule()
    collections.request("dry")
    collections.request("asked")
    assert requested(collections) is True
    assert conditions.facts == [Fact.COLLECTION_WANTED]
    assert collections.begin_marking() == "dry"


@in_virtual_time
async def test_nothing_is_requested_while_one_marks() -> None:
    collections, _ = schedule()
    collections.request("dry")
    collections.begin_marking()
    collections.request("gens")
    assert requested(collections) is False


@in_virtual_time
async def test_an_unknown_trigger_is_a_bug() -> None:
    collections, _ = schedule()
    with pytest.raises(AssertionError):
        collections.request("whim")


@in_virtual_time
async def test_new_data_of_a_sixteenth_of_the_set_requests_a_collection() -> None:
    collections, _ = schedule()
    collections.count_traffic(100)
    assert requested(collections) is False
    collections.count_traffic(1)
    assert collections.wanted == "traffic"


@in_virtual_time
async def test_a_completed_marking_counts_by_trigger_and_restarts_the_count_of_traffic() -> None:
    collections, _ = schedule()
    collections.count_traffic(101)
    collections.end_marking(collections.begin_marking())
    assert collections.markings == 1
    assert collections.runs == {"dry": 0, "gens": 0, "traffic": 1, "asked": 0}
    assert collections.sectors_to_next == 100


@in_virtual_time
async def test_an_evacuation_counts_as_requested_until_it_ends(tmp_path: Path) -> None:
    async with running(await fresh_members([600], 4 << 10), set_options(tmp_path)) as cache_set:
        (member,) = cache_set.members
    collections, conditions = schedule()
    collections.request_evacuation(member)
    assert requested(collections) is True
    assert conditions.facts == [Fact.COLLECTION_WANTED]
    collections.evacuating = collections.evacuations_wanted.pop()
    assert evacuation_requested(collections, member) is True
    assert requested(collections) is False
    collections.evacuating = None
    assert evacuation_requested(collections, member) is False


@in_virtual_time
async def test_a_round_begins_and_ends_once() -> None:
    collections, _ = schedule()
    collections.begin_round()
    with pytest.raises(AssertionError):
        collections.begin_round()
    collections.end_round()
    assert (collections.rounds, collections.in_round) == (1, False)
