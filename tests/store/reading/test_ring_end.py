# SPDX-License-Identifier: GPL-2.0-only
"""How it is known that no journal entry is newer than the newest found."""

from dataclasses import replace
from random import Random

import pytest

from bcached.format.jset import JournalEntry
from bcached.keys import Key, Pointer
from bcached.store.finding import Findings, Severity
from bcached.store.journal.reader import End, JournalFound
from bcached.store.reading.journal_check import read_journal
from bcached.store.rescue.remains.journal_left import read_journal_left
from instruments.samples.journal_rings import BLOCK, BUCKET, COUNT, Ring, entry, member, packed

A_BUCKET = BUCKET // BLOCK
GAP = bytes(BLOCK)


async def read(*rings: Ring, discard: bool = False) -> tuple[JournalFound, Findings]:
    findings = Findings()
    members = [member(ring, discard) for ring in rings]
    return await read_journal(members, findings.report, thorough=True), findings


async def end_of(*rings: Ring, discard: bool = False) -> End:
    found, findings = await read(*rings, discard=discard)
    assert found.end is not None
    assert findings.counts["journal-end"] == (found.end.known == End.SUSPECT)
    return found.end.known


def entries(first: int, count: int = A_BUCKET) -> list[JournalEntry | bytes]:
    return [entry(seq, max(seq - 1, 1)) for seq in range(first, first + count)]


def round_and_round(written: int) -> dict[int, list[JournalEntry | bytes]]:
    """A ring after so many entries of a block each, from bucket 1 on, as a writer leaves it."""
    ring: dict[int, list[JournalEntry | bytes]] = {}
    for seq in range(1, written + 1):
        index, place = (1 + (seq - 1) // A_BUCKET) % COUNT, (seq - 1) % A_BUCKET
        contents = ring.setdefault(index, [])
        contents[place : place + 1] = entries(seq, 1)
    return ring


@pytest.mark.parametrize("written", [1, 5, A_BUCKET, A_BUCKET + 1, A_BUCKET * (COUNT - 1) + 1])
async def test_in_the_first_lap_nothing_contradicts_the_end(written: int) -> None:
    assert await end_of(round_and_round(written)) == End.PLAUSIBLE


@pytest.mark.parametrize("written", range(A_BUCKET * COUNT, A_BUCKET * COUNT + 10))
async def test_in_a_later_lap_what_follows_is_older(written: int) -> None:
    assert await end_of(round_and_round(written)) == End.PROVEN


@pytest.mark.parametrize("written", range(A_BUCKET * COUNT + 1, A_BUCKET * (COUNT + 1)))
async def test_a_newest_entry_or_bucket_that_was_erased_shows(written: int) -> None:
    ring = round_and_round(written)
    ring[1][(written - 1) % A_BUCKET] = GAP
    assert await end_of(ring) == End.SUSPECT
    assert await end_of(ring, discard=True) == End.SUSPECT, "a discard takes whole buckets"
    del ring[1]
    assert await end_of(ring) == End.SUSPECT
    assert await end_of(ring, discard=True) == End.PLAUSIBLE


async def test_it_is_one_finding_with_the_way_back() -> None:
    ring = round_and_round(A_BUCKET * COUNT + 3)
    ring[1][2] = GAP
    _, findings = await read(ring)
    (found,) = findings.listed
    newest = A_BUCKET * COUNT + 2
    assert (found.rule, found.severity) == ("journal-end", Severity.DAMAGE)
    assert f"entry {newest} is the newest found" in found.problem
    assert f"--clear-journal-behind {newest} " in found.advice


async def test_an_old_entry_erased_elsewhere_says_nothing_about_the_end() -> None:
    ring = round_and_round(A_BUCKET * COUNT + 3)
    ring[1][5] = GAP
    ring[4][2] = GAP
    del ring[6]
    assert await end_of(ring) == End.PROVEN


@pytest.mark.parametrize("written", [5, A_BUCKET * COUNT + 3, A_BUCKET * (COUNT + 1) + 1])
async def test_an_older_entry_where_the_newest_belongs_is_suspect(written: int) -> None:
    """As a device leaves it that writes an entry to a wrong place."""
    ring = round_and_round(written)
    places = [((1 + at // A_BUCKET) % COUNT, at % A_BUCKET) for at in range(written)]
    older = replace(entry(written - 3, written - 4), keys=(Key(0, 8, 8, True, (Pointer(0, 4096, 3),)),))
    for index, place in (places[-4], places[-1]):
        ring[index][place] = older
    found, findings = await read(ring)
    assert found.end is not None
    assert (found.newest.seq, found.end.known) == (written - 1, End.SUSPECT)
    assert f"entry {written - 3} is there, and at " in findings.listed[0].problem


@pytest.mark.parametrize("written", [5, A_BUCKET * COUNT + 5])
@pytest.mark.parametrize("behind", [1, 3])
async def test_such_an_entry_is_suspect_also_if_nothing_is_left_where_it_was(
    written: int, behind: int
) -> None:
    """1. It is the newest that is left. 2. It is one of those before."""
    ring = round_and_round(written)
    key = Key(0, 8, 8, True, (Pointer(0, 4096, 3),))
    older = replace(entry(written - behind, max(written - behind - 1, 1)), keys=(key,))
    ring[1][4 - behind], ring[1][4] = GAP, older
    findings = Findings()
    left = await read_journal_left([member(ring)], findings.report)
    assert left.found.end is not None
    assert (left.found.newest.seq, left.found.end.known) == (written - 1, End.SUSPECT)
    assert f"entry {written - behind} is there, and " in findings.listed[-1].problem


async def test_lives_begin_buckets_and_leave_entries_in_order() -> None:
    ring = {1: entries(1, 3), 2: entries(4, 1), 3: entries(5, 2)}
    assert await end_of(ring) == End.PLAUSIBLE


@pytest.mark.parametrize(
    ("behind", "known"), [([], End.SUSPECT), ([GAP, Random(4).randbytes(BLOCK)], End.PLAUSIBLE)]
)
async def test_the_rest_of_the_newest_entry_behind_other_bytes_is_suspect_where_the_device_was_blank(
    behind: list[bytes], known: End
) -> None:
    ring = round_and_round(3)
    ring[1] += [b"\xff" * BLOCK + packed(of_three_blocks(4))[BLOCK:], *behind]
    assert await end_of(ring) == known


async def test_a_bucket_that_an_earlier_lap_filled_in_part_proves_nothing() -> None:
    ring = round_and_round(A_BUCKET * COUNT)
    ring[1] = entries(A_BUCKET * COUNT + 1, 3)
    assert await end_of(ring) == End.PLAUSIBLE
    ring[1] = entries(A_BUCKET * COUNT + 1, A_BUCKET - 1)
    assert await end_of(ring) == End.PLAUSIBLE


def of_three_blocks(seq: int) -> JournalEntry:
    keys = tuple(Key(0, 100 * n, 8, True, (Pointer(0, 4096, 3),)) for n in range(50))
    return replace(entry(seq), keys=keys)


@pytest.mark.parametrize("covered", [1, 2])
async def test_the_rest_of_an_older_entry_proves_the_end_and_other_bytes_do_not(covered: int) -> None:
    rest = packed(of_three_blocks(9))[covered * BLOCK :]
    ring = round_and_round(A_BUCKET * COUNT)
    for between, known in (
        (rest, End.PROVEN),
        (GAP + rest[BLOCK:], End.SUSPECT),
        (b"\xff" * BLOCK + rest[BLOCK:], End.SUSPECT),
        (bytes(24) + rest[24:], End.SUSPECT),
    ):
        ring[1] = [*entries(A_BUCKET * COUNT + 1, covered), between, *entries(10, 2)]
        assert await end_of(ring) == known


async def test_what_was_on_the_device_before_the_journal_is_not_of_an_earlier_lap() -> None:
    noise = Random(2).randbytes(3 * BLOCK)
    ring = round_and_round(3) | {2: [noise], 5: [GAP, noise]}
    ring[1] += [GAP, noise]
    assert await end_of(ring) == End.PLAUSIBLE


async def test_a_sector_that_some_devices_may_leave_after_a_power_cut_is_suspect_and_no_damage() -> None:
    ring = round_and_round(A_BUCKET * COUNT)
    garbled = b"\xff" * BLOCK
    lapped: list[list[JournalEntry | bytes]] = [
        [garbled, *ring[1][1:]],
        [garbled + packed(of_three_blocks(9))[BLOCK:]],
    ]
    for contents in lapped:
        ring[1] = contents
        found, findings = await read(ring)
        assert found.end is not None
        assert found.end.known == End.SUSPECT
        assert [(one.rule, one.severity) for one in findings.listed] == [("journal-end", Severity.TORN)]
        assert "may garble the sector it is writing" in findings.listed[0].problem


@pytest.mark.parametrize("contents", [b"\xff" * BLOCK, b"\xff" * BUCKET, Random(3).randbytes(BUCKET)])
async def test_a_bucket_of_anything_but_entries_is_suspect_once_the_ring_was_filled(contents: bytes) -> None:
    ring = round_and_round(A_BUCKET * COUNT)
    ring[1] = [contents]
    assert await end_of(ring) == End.SUSPECT
    assert await end_of(ring, discard=True) == End.PLAUSIBLE


async def test_one_member_that_proves_the_end_is_enough() -> None:
    sound, damaged = round_and_round(A_BUCKET * COUNT + 4), round_and_round(A_BUCKET * COUNT + 4)
    damaged[1][3] = GAP
    assert await end_of(sound, damaged) == End.PROVEN
    assert await end_of(damaged, damaged) == End.SUSPECT
    newest = A_BUCKET * COUNT + 4
    begun: Ring = {1: [replace(entry(newest - 3), keys=()), *entries(newest - 2, 3)]}
    assert await end_of(begun, damaged) == End.PLAUSIBLE, "what it lacks, the other member has"


async def test_a_journal_that_a_repair_began_is_in_its_first_lap() -> None:
    begun = replace(entry(77), keys=())
    assert await end_of({3: [begun]}) == End.PLAUSIBLE
    assert await end_of({3: [begun, entry(78)], 4: [entry(79)]}) == End.PLAUSIBLE
    assert await end_of({3: [entry(77, 76), entry(78)], 4: [entry(79)]}) == End.SUSPECT


async def test_entry_1_may_be_gone() -> None:
    ring = round_and_round(A_BUCKET + 3)
    ring[1][0] = GAP
    assert await end_of(ring) == End.PLAUSIBLE
