# SPDX-License-Identifier: GPL-2.0-only
"""What a journal must be for a set to be opened, and what a check says of one that is not."""

import re
from dataclasses import replace

import pytest

from bcached.errors import BadField, SetRefused
from bcached.format.bkey import END_MAX
from bcached.format.jset import JournalEntry
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.store.finding import Finding, Findings, OpeningReport, Severity, refuse_fatal
from bcached.store.journal.reader import JournalFound
from bcached.store.reading.journal_check import read_journal
from instruments.samples.format_samples import sealed, with_field
from instruments.samples.journal_rings import BLOCK, MEMBER, Ring, entry, member, packed

UUIDS = Key(0, -8, 8, False, (Pointer(0, 96, 1),))
ROOT = Key(INODE_MAX, END_MAX - 8, 8, False, (Pointer(0, 104, 1),))


async def read(*rings: Ring, discard: bool = False) -> JournalFound:
    return await read_journal([member(ring, discard) for ring in rings], refuse_fatal)


def seqs(found: JournalFound) -> list[int]:
    return [one.seq for one in found.entries]


async def check(*rings: Ring, discard: bool = False) -> list[Finding]:
    """All that a thorough check finds."""
    findings = Findings()
    await read_journal([member(ring, discard) for ring in rings], findings.report, thorough=True)
    return findings.listed


def damaged(one: JournalEntry) -> bytes:
    raw = bytearray(packed(one))
    raw[100] ^= 1
    return bytes(raw)


def torn(one: JournalEntry) -> bytes:
    """An entry of two sectors of which the first was written."""
    data = tuple(Key(0, 100 * n, 1, True, (Pointer(0, 96 + n, 0),)) for n in range(30))
    raw = packed(replace(one, uuid_bucket=UUIDS, root=ROOT, keys=data))
    return raw[:BLOCK].ljust(len(raw), b"\0")


async def test_the_next_entry_may_need_an_older_one_than_was_written_last() -> None:
    """A number that follows is taken at its word: what it needs and is not there is missed."""
    with pytest.raises(SetRefused, match="entries 94 to 95 are missing of 94 to 98"):
        await read({2: [entry(96), entry(97), entry(98, 94)]})


async def test_a_gap_among_the_entries_needed_is_refused() -> None:
    with pytest.raises(SetRefused, match="entries 3 to 4 are missing of 2 to 6"):
        await read({1: [entry(1), entry(2)], 2: [entry(5), entry(6, 2)]})
    with pytest.raises(SetRefused, match="entries 1 to 4 are missing of 1 to 6"):
        await read({2: [entry(5), entry(6, 1)]})


async def test_a_gap_before_the_entries_needed_is_nobody_s_business() -> None:
    assert seqs(await read({1: [entry(1), entry(2)], 2: [entry(5), entry(6, 5)]})) == [5, 6]


async def test_the_oldest_entries_needed_may_be_gone_from_a_device_that_discards() -> None:
    found = await read({3: [entry(5, 2), entry(6, 2)], 4: [entry(7, 2)]}, discard=True)
    assert seqs(found) == [5, 6, 7]
    assert found.rings[0].newest_seqs == [0, 0, 0, 6, 7, 0, 0, 0]
    with pytest.raises(SetRefused, match="entries 6 to 7 are missing of 2 to 8"):
        await read({3: [entry(5, 2)], 5: [entry(8, 2)]}, discard=True)


async def test_entries_that_are_there_and_damaged_were_not_discarded() -> None:
    damaged = bytes(with_field(packed(entry(3)), 32, "Q", 1))
    rings: list[list[JournalEntry | bytes]] = [[entry(2), damaged, entry(4)], [damaged]]
    for ring in rings:
        with pytest.raises(SetRefused, match="entries 3 to 4 are missing of 3 to 5"):
            await read({2: ring, 3: [entry(5, 3)]}, discard=True)


async def test_two_entries_of_one_seq_are_refused() -> None:
    other = replace(entry(2), prio_heads=(7,) * 8)
    with pytest.raises(SetRefused, match="entry 2 differs from the entry 2 on another member"):
        await read({1: [entry(1), entry(2)]}, {1: [entry(1), other]})
    with pytest.raises(SetRefused, match="entry 2 differs from the entry 2 on another member"):
        await read({1: [entry(2)], 2: [entry(3, 2)], 3: [other]})
    newest = entry(3, 3)  # they are needed no more
    assert seqs(await read({1: [entry(1), entry(2), newest]}, {1: [entry(1), other, newest]})) == [3]


async def test_needed_buckets_out_of_the_ring_s_order_are_refused() -> None:
    with pytest.raises(SetRefused, match=r"order of a ring, found them to end with entries \[0, 2, 4, 3"):
        await read({1: [entry(2)], 2: [entry(4, 2)], 3: [entry(3, 2)]})
    assert seqs(await read({1: [entry(2)], 2: [entry(4, 4)], 3: [entry(3, 2)]})) == [4]
    assert seqs(await read({6: [entry(2)], 7: [entry(3)], 1: [entry(4, 2)]})) == [2, 3, 4]


async def test_an_empty_journal_is_refused() -> None:
    with pytest.raises(SetRefused, match="no journal entries found"):
        await read({}, {})


async def test_a_seq_with_nothing_behind_it_is_refused() -> None:
    with pytest.raises(SetRefused, match="expected a journal entry with a seq of at most"):
        await read({1: [entry((1 << 64) - 1)]})


async def test_an_entry_that_is_whole_and_makes_no_sense_is_told() -> None:
    raw = sealed(with_field(packed(entry(3)), 32, "Q", 9), 240)
    with pytest.raises(BadField, match="last_seq"):
        await read({1: [raw]})


async def test_one_that_is_not_needed_any_more_is_a_note_wherever_it_is() -> None:
    old = sealed(with_field(packed(entry(3)), 32, "Q", 9), 240)
    behind: Ring = {1: [entry(1), entry(2), old], 2: [entry(4), entry(5)]}
    in_another_bucket: Ring = {1: [old], 2: [entry(4), entry(5, 5)]}
    for ring in (behind, in_another_bucket):
        findings = [one for one in await check(ring) if one.rule == "journal-entry"]
        assert [(one.severity, one.lost) for one in findings] == [
            (Severity.NOTE, "nothing: it is not needed any more")
        ]


async def test_a_sound_journal_has_no_finding() -> None:
    assert await check({1: [entry(1), entry(2)], 2: [entry(3, 2)]}) == []


async def test_a_newest_entry_that_is_not_whole_may_be_torn() -> None:
    (found,) = await check({1: [entry(1), entry(2)], 2: [torn(entry(3))]})
    assert (found.rule, found.severity) == ("journal-torn", Severity.TORN)
    assert found.where.endswith("journal bucket 5, byte 0")
    assert found.problem == "entry 3 is not complete, so entry 2 counts as the newest"


async def test_one_of_a_single_sector_is_damaged_and_an_opening_goes_on_with_a_warning() -> None:
    ring: Ring = {1: [entry(1), entry(2)], 2: [damaged(entry(3))]}
    (found,) = await check(ring)
    assert (found.rule, found.severity) == ("journal-newer", Severity.DAMAGE)
    assert found.where.endswith("journal bucket 5, byte 0")
    assert found.problem.startswith("entry 3 is damaged, so entry 2 counts as the newest")
    assert re.fullmatch(r"bcachectl repair --correct-bits \S+", found.advice)
    (other,) = await check({**ring, 2: [bytes(with_field(damaged(entry(3)), 32, "Q", 99))]})
    assert re.fullmatch(r"bcachectl repair --clear-journal-behind 2 \S+", other.advice)
    report = OpeningReport()
    assert seqs(await read_journal([member(ring)], report)) == [2]
    assert [found.problem in warning for warning in report.warnings] == [True]
    assert report.checksum_errors["jset"] == 1


async def test_one_that_is_damaged_on_any_member_is_damaged() -> None:
    whole: Ring = {1: [entry(1), entry(2)], 2: [torn(entry(3))]}
    (found,) = await check(whole, {**whole, 2: [damaged(entry(3))]})
    assert (found.rule, found.severity) == ("journal-newer", Severity.DAMAGE)
    assert found.where.startswith("memory journal bucket 5")


async def test_what_another_set_left_behind_is_no_trace() -> None:
    """A former set on the device had an entry with the next number at just this place."""
    other = entry(3).pack(MEMBER.set_magic ^ 1, BLOCK)
    assert await check({1: [entry(1), entry(2), other]}) == []
    (found,) = await check({1: [entry(1), entry(2), bytes(with_field(other, 8, "Q", 7))]})
    assert found.rule == "journal-newer"


async def test_two_entries_that_are_not_whole_were_not_torn_and_there_is_a_way_back() -> None:
    found = (await check({1: [entry(2)], 2: [damaged(entry(3)), damaged(entry(4))]}))[0]
    assert (found.rule, found.severity) == ("journal-lost", Severity.FATAL)
    assert re.fullmatch(r"bcachectl repair --clear-journal-behind 2 \S+", found.advice)


async def test_a_number_that_no_entry_can_have_is_ignored() -> None:
    far = bytes(with_field(packed(entry(3)), 16, "Q", 1 << 40))
    found = await check({1: [entry(2), bytes(BLOCK), far]})
    assert [(one.rule, one.severity) for one in found] == [("journal-stray", Severity.NOTE)]


async def test_a_gap_that_discards_explain_is_a_note() -> None:
    ring: Ring = {3: [entry(5, 2), entry(6, 2)], 4: [entry(7, 2)]}
    found = await check(ring, discard=True)
    assert [(one.rule, one.severity) for one in found] == [("journal-gap", Severity.NOTE)]
    found = await check(ring)
    assert [(one.rule, one.severity) for one in found] == [("journal-gap", Severity.FATAL)]


async def test_only_the_newest_entry_may_be_on_one_member_alone() -> None:
    whole: Ring = {1: [entry(1), entry(2, 1), entry(3, 1)]}
    (found,) = await check(whole, {1: [entry(1), entry(2, 1)]})
    assert (found.rule, found.severity) == ("journal-mirror", Severity.NOTE)
    found = (await check(whole, {1: [entry(1)]}))[0]
    assert (found.rule, found.severity) == ("journal-mirror", Severity.TORN)
    assert found.problem == "entry 2 is missing here, but another member has it"
