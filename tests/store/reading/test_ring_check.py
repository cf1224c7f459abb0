# SPDX-License-Identifier: GPL-2.0-only
"""Buckets in the order of a ring: for bcached the needed ones, for the kernel all."""

import pytest

from bcached.store.finding import Finding, Findings, Severity
from bcached.store.reading.journal_check import read_journal
from bcached.store.reading.ring_check import is_in_ring_order
from instruments.samples.journal_rings import COUNT, Ring, entry, member


async def check(ring: Ring, *, thorough: bool = True) -> list[Finding]:
    findings = Findings()
    await read_journal([member(ring)], findings.report, thorough=thorough)
    return [finding for finding in findings.listed if finding.rule == "journal-ring"]


@pytest.mark.parametrize(
    ("ends", "needed", "holds"),
    [
        ([1, 2, 3, 0], 1, True),
        ([5, 2, 3, 4], 2, True),  # it has turned
        ([0, 2, 0, 3], 2, True),  # a gap is none
        ([3, 2, 4, 0], 2, False),
        ([3, 2, 4, 0], 3, True),  # what is not needed may be anywhere
        ([2, 4, 3, 0], 2, False),  # right behind the newest
        ([1, 5, 4, 2], 4, False),  # the same: there is no free bucket, though two are not needed
        ([5, 6, 3, 4], 3, True),  # full, the oldest right behind the newest
    ],
)
def test_only_the_order_of_needed_buckets_counts(ends: list[int], needed: int, holds: bool) -> None:
    assert is_in_ring_order(ends, needed) == holds


async def test_a_ring_that_turned_is_sound_for_both() -> None:
    for start in range(COUNT):
        ring: Ring = {(start + n) % COUNT: [entry(10 + n, 10 + max(n - 3, 0))] for n in range(COUNT)}
        assert await check(ring) == []


async def test_needed_buckets_out_of_order_are_fatal_and_nothing_is_lost() -> None:
    (found,) = await check({1: [entry(2)], 2: [entry(4, 2)], 3: [entry(3, 2)]}, thorough=False)
    assert (found.severity, found.lost) == (Severity.FATAL, "nothing: all entries are there")


async def test_old_buckets_out_of_order_may_mislead_the_kernel_only() -> None:
    ring: Ring = {1: [entry(2)], 2: [entry(4)], 3: [entry(3)]}
    assert await check(ring, thorough=False) == []
    (found,) = await check(ring)
    assert found.severity == Severity.DAMAGE
    assert "entry 3 is behind entry 2" in found.problem or "entry 2 is behind" in found.problem
    assert found.lost == "nothing here; the kernel may miss the newest entries"


async def test_a_ring_without_space_for_an_entry_is_fatal_and_says_what_to_do() -> None:
    ring: Ring = {n: [entry(8 * n + block + 1, 1) for block in range(8)] for n in range(COUNT)}
    findings = Findings()
    await read_journal([member(ring)], findings.report)
    (found,) = findings.listed
    assert (found.rule, found.severity) == ("journal-full", Severity.FATAL)
    assert found.lost == "nothing: all entries are there"
    assert found.advice == "bcachectl repair -n --drop-damaged memory"
    for kept, needed in ((7, 1), (8, 9)):  # a block is left; a bucket is not needed
        last: Ring = {COUNT - 1: [entry(8 * (COUNT - 1) + block + 1, needed) for block in range(kept)]}
        findings = Findings()
        await read_journal([member({**ring, **last})], findings.report)
        assert findings.listed == []


async def test_a_hole_may_hide_the_newest_entries_from_the_kernel() -> None:
    hidden = []
    for hole in range(1, COUNT - 1):
        ring: Ring = {n: [entry(10 + n, 10 + n)] for n in range(COUNT) if n != hole}
        hidden += await check(ring)
    assert hidden
    for found in hidden:
        assert found.lost.startswith("nothing here; the kernel misses all changes since entry")
