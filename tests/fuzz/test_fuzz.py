# SPDX-License-Identifier: GPL-2.0-only
"""A sample of what `make fuzz` does, and that it would find what it looks for."""

from typing import Any

import pytest

from bcached.store.finding import refuse_fatal
from bcached.store.reading.bucket_checks import BucketContents
from fuzz.bases import OURS, TURNS
from fuzz.verdict import Tally, case_names, judge

PARTS = 4
CASES_A_PART = 50


@pytest.mark.parametrize("part", range(PARTS))
def test_a_check_and_an_opening_agree(part: int) -> None:
    tally = Tally()
    for name in case_names(100_000 + part * CASES_A_PART, CASES_A_PART):
        tally.add(judge(name))
    assert [(verdict.name, verdict.done, verdict.wrong) for verdict in tally.wrong] == []
    assert tally.kinds.total() == CASES_A_PART
    assert tally.kinds["fatal"] > CASES_A_PART // 6, "most of what is changed should matter"
    assert tally.kinds["note"] + tally.kinds["damage"] > CASES_A_PART // 6


def test_each_of_our_bases_is_changed() -> None:
    names = {name.split(":")[0] for name in case_names(0, len(TURNS))}
    assert names == set(TURNS) >= set(OURS)


def test_a_case_is_the_same_every_time() -> None:
    one, other = judge("one:12"), judge("one:12")
    assert (one.done, one.worst, one.refused) == (other.done, other.worst, other.refused)


def found_of(count: int) -> list[str]:
    """What is wrong in so many cases of one base, until something is."""
    for name in (f"one:{number}" for number in range(count)):
        if wrong := judge(name).wrong:
            return wrong
    return []


def test_a_rule_that_only_a_check_has_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    judge_all = BucketContents.judge

    def lenient(self: BucketContents, *arguments: Any) -> None:
        if self.report is not refuse_fatal:
            judge_all(self, *arguments)

    monkeypatch.setattr(BucketContents, "judge", lenient)
    assert found_of(200)
