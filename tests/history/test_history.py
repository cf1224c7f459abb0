# SPDX-License-Identifier: GPL-2.0-only
"""A short history with every kind of mishap; `make cache-test` has a million calls and more.

And planted bugs: the rules must find each in a history that is clean without it.
"""

import pytest

from history.play import Plan, played
from history.storage import missing_for

CALLS = 16_000
HISTORIES_MAX = 12


@pytest.mark.timeout(600)
def test_no_rule_is_broken_by_kills_pauses_evictions_and_deletions() -> None:
    result = played(Plan(CALLS, seed=3, mishap_calls=1200))
    assert [str(fault) for fault in result.faults] == []
    assert result.calls >= CALLS
    assert result.mishaps["kill daemon"] > 0
    assert result.mishaps["kill worker"] > 0
    assert result.outcomes["get done"] > CALLS // 5
    assert result.outcomes["add done"] > 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("plant", "rule", "mishap_calls"),
    [
        ("counters", "an older value than one that was visible", 0),
        ("places", "an older value than one that was visible", 0),
        ("gens and checksums", "a value of another name, or a part of one", 0),
        ("wait", "a value that was never stored under this name", 0),
        ("durability", "an older value than one that was durable", 1000),
        ("add", "two adds at the same time have won", 0),
    ],
)
def test_a_planted_bug_is_found(plant: str, rule: str, mishap_calls: int) -> None:
    # A history is no proof that there is no bug: processes race in it. Most find theirs at once.
    for seed in range(2, 2 + HISTORIES_MAX):
        result = played(Plan(10_000, seed=seed, mishap_calls=mishap_calls, plant=plant))
        if rule in {fault.rule for fault in result.faults}:
            return
    pytest.fail(f"{HISTORIES_MAX} histories, and no {rule}")


@pytest.mark.root
@pytest.mark.timeout(600)
def test_no_rule_is_broken_by_direct_writes_beside_buffered_reads() -> None:
    if (missing := missing_for("ext4")) is not None:
        pytest.skip(f"nothing is said about file systems: {missing}")
    result = played(Plan(8000, seed=4, mishap_calls=4000, direct_writes=True, storage="ext4"))
    assert [str(fault) for fault in result.faults] == []
