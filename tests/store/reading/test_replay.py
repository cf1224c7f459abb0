# SPDX-License-Identifier: GPL-2.0-only
"""The journal's keys merged: the newest wins, deletions count, and an invalid key deletes what it covers."""

from bcached.format.bkey import Bounds
from bcached.format.jset import JournalEntry
from bcached.keys import Key, Pointer
from bcached.store.finding import Finding, Severity
from bcached.store.reading.replay import Replayed, merge_entries

BOUNDS = Bounds(bucket_sectors=16, first_bucket=1, bucket_counts=(100,))


def key(offset: int, sectors: int, at: int = 64, device: int = 0) -> Key:
    return Key(1, offset, sectors, False, (Pointer(device, at, 0),))


def deletion(offset: int, sectors: int) -> Key:
    return Key(1, offset, sectors, False, ())


def merged(*entries: list[Key]) -> tuple[Replayed, list[Finding]]:
    found: list[Finding] = []
    nowhere = deletion(0, 0)
    journal = [
        JournalEntry(seq, 1, nowhere, nowhere, 0, (), tuple(keys)) for seq, keys in enumerate(entries, 1)
    ]
    return merge_entries("dev", journal, BOUNDS, found.append), found


def test_a_later_entry_wins_and_what_it_cut_is_told() -> None:
    old, new = key(0, 8, at=64), key(4, 4, at=160)
    replayed, found = merged([old], [new])
    assert list(replayed.extents) == [key(0, 4, at=64), new]
    assert replayed.superseded == [key(4, 4, at=68)]
    assert replayed.keys == [old, new]
    assert found == []


def test_a_later_key_of_one_entry_wins_too() -> None:
    replayed, _ = merged([key(0, 8, at=64), key(0, 8, at=160)])
    assert list(replayed.extents) == [key(0, 8, at=160)]


def test_deletions_are_kept_to_be_merged_into_the_tree() -> None:
    replayed, _ = merged([key(0, 8)], [deletion(0, 4)])
    assert list(replayed.extents) == [deletion(0, 4), key(4, 4, at=68)]


def test_an_invalid_key_is_told_and_deletes_what_it_would_cover() -> None:
    replayed, found = merged([key(0, 8)], [key(2, 2, device=5)])
    assert [(finding.rule, finding.severity) for finding in found] == [("key-invalid", Severity.FATAL)]
    assert "journal entry 2, key 0" in found[0].where
    assert [(one.offset, one.sectors, bool(one.pointers)) for one in replayed.extents] == [
        (0, 2, True),
        (2, 2, False),
        (4, 4, True),
    ]
    assert len(replayed.keys) == 1


def test_an_empty_journal_is_nothing() -> None:
    replayed, found = merged()
    assert (list(replayed.extents), replayed.keys, replayed.superseded, found) == ([], [], [], [])
