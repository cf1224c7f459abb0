# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's search, on rings filled in order and on one that is not."""

from dataclasses import replace

import pytest

from bcached.format.jset import JournalEntry
from instruments.crash.kernel_journal import KernelJournal
from instruments.samples.format_samples import ENTRY


def entry(seq: int, last_seq: int | None = None) -> JournalEntry:
    return replace(ENTRY, seq=seq, last_seq=seq if last_seq is None else last_seq)


def search(ring: list[list[JournalEntry]]) -> KernelJournal:
    journal = KernelJournal(len(ring), lambda index: ring[index])
    journal.newest()
    return journal


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 32, 256])
@pytest.mark.parametrize("needed", [1, 3])
def test_the_newest_entry_of_a_ring_filled_in_order_is_found(count: int, needed: int) -> None:
    for newest in range(1, 2 * count + 2):
        ring: list[list[JournalEntry]] = [[] for _ in range(count)]
        for seq in range(1, newest + 1):
            ring[seq % count] = [entry(seq, max(seq - min(needed, count - 1) + 1, 1))]
        journal = search(ring)
        assert max(journal.entries) == newest
        assert journal.missing() == []


def test_without_entries_there_is_none() -> None:
    assert KernelJournal(8, lambda _: []).newest() is None


def test_an_entry_out_of_order_is_not_found() -> None:
    ring = [[entry(index + 1)] for index in range(16)]
    ring[13], ring[3] = [entry(1)], [entry(99)]
    assert max(search(ring).entries) != 99
