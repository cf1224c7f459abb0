# SPDX-License-Identifier: GPL-2.0-only
"""Space for keys: in the open entry, and in the rings as long as the keys are needed."""

import asyncio

import pytest

from bcached.format.bkey import WORD_BYTES, pack_keys
from bcached.keys import Key, Pointer
from bcached.state.buckets.geometry import Geometry
from bcached.store.journal.limits import JournalLimits
from bcached.store.journal.open_entry import OpenEntry
from bcached.store.journal.relog import NeededKeys, Record
from bcached.store.journal.ring import JournalRing
from bcached.store.journal.rings import Rings
from bcached.store.journal.space import GRANTED_WORDS, JournalSpace

GEOMETRY = Geometry(
    bucket_count=700, first_bucket=3, bucket_sectors=8, block_sectors=1, journal_bucket_count=40
)
ENTRY_WORDS = (4096 - 240) // 8
KEY_WORDS = 3


class Journal:
    """The space of a journal, and what fills it: each entry is a whole bucket."""

    def __init__(self, *rings: int) -> None:
        self.rings = Rings([JournalRing(GEOMETRY, range(3, 3 + count)) for count in rings], 0)
        self.open = OpenEntry(ENTRY_WORDS, lambda: 0.0)
        self.needed = NeededKeys(len(rings))
        self.space = JournalSpace(JournalLimits(GEOMETRY, rings), self.rings, self.needed, self.open)
        self.space.oldest_needed = lambda: self.oldest
        self.oldest: int | None = None  # the oldest entry that a leaf needs
        self.seq = 0

    def accept(self, count: int) -> None:
        keys = [Key(0, 8 * n, 8, False, (Pointer(0, 8 * n, 1),)) for n in range(count)]
        packed = pack_keys(tuple(keys))
        self.open.append(packed, len(packed) // WORD_BYTES, count)

    def seal(self) -> None:
        """The open entry is durable."""
        self.seq += 1
        self.oldest = self.oldest or self.seq
        count = self.open.key_count
        self.needed.add(Record(self.seq, self.seq, self.open.close(), count))
        assert None not in self.rings.advance(4096, self.seq)
        self.rings.durable_last_seq = self.oldest
        self.space.count_free()

    def fill(self, entries: int) -> None:
        for _ in range(entries):
            self.accept(ENTRY_WORDS // KEY_WORDS)
            self.seal()


def test_keys_fit_as_long_as_the_open_entry_holds_them() -> None:
    journal = Journal(40)
    assert journal.space.has(ENTRY_WORDS)
    assert not journal.space.has(ENTRY_WORDS + 1)
    journal.accept(100)
    assert journal.space.has(ENTRY_WORDS - 300)
    assert not journal.space.has(ENTRY_WORDS - 299)


def test_while_keys_are_relogged_in_parts_none_is_accepted() -> None:
    journal = Journal(40)
    journal.space.is_relogging = True
    assert not journal.space.has(2)
    assert not journal.space.fits_open_entry(0)


def test_keys_that_were_not_asked_for_are_a_bug() -> None:
    journal = Journal(40)
    with pytest.raises(AssertionError, match="than were reserved"):
        journal.accept(ENTRY_WORDS)


def test_space_is_granted_ahead_and_certain_until_buckets_are_counted_again() -> None:
    journal = Journal(40)
    assert journal.space.has(KEY_WORDS)
    assert journal.open.granted_words == GRANTED_WORDS + KEY_WORDS
    journal.accept(1)
    assert journal.open.granted_words == GRANTED_WORDS
    journal.space.count_free()
    assert journal.open.granted_words == 0


def test_needed_keys_stop_before_a_relog_would_not_fit() -> None:
    for ring in (12, 24, 40):
        journal = Journal(ring)
        while journal.space.has(ENTRY_WORDS):
            journal.fill(1)
        limits = journal.space.limits
        needed = limits.relog_buckets(journal.needed.words, journal.needed.merged_words_max())
        assert journal.rings.free >= needed
        assert not journal.space.has(ENTRY_WORDS), "until a leaf is written"
        journal.oldest = None
        assert journal.space.has(ENTRY_WORDS)


def test_there_is_no_pressure_on_a_ring_that_is_half_empty() -> None:
    journal = Journal(400)
    journal.fill(2)
    assert journal.space.pressure(3) is None


def test_under_pressure_the_leaves_of_the_fullest_ring_s_oldest_bucket_are_to_be_written() -> None:
    journal = Journal(40, 12)
    while journal.space.has(ENTRY_WORDS):
        journal.fill(1)
    assert journal.space.pressure(journal.seq + 1) == 1
    assert not journal.space.is_release_wanted
    journal.oldest = None
    assert journal.space.pressure(journal.seq + 1) is None


def test_what_a_durable_entry_would_free_is_asked_for() -> None:
    journal = Journal(40)
    journal.fill(25)
    journal.oldest = journal.seq + 1  # all leaves are written, and no entry says so yet
    journal.accept(ENTRY_WORDS * 2 // 3 // KEY_WORDS)
    assert journal.rings.free == 40 - 1 - 24
    assert journal.space.pressure(journal.seq + 1) is None
    assert journal.space.is_release_wanted


async def test_who_waits_for_words_is_woken_when_keys_are_needed_no_more() -> None:
    journal = Journal(40)
    journal.fill(1)
    waiting = asyncio.create_task(journal.space.waiters.wait(KEY_WORDS))
    await asyncio.sleep(0)
    journal.space.release()
    await asyncio.sleep(0)
    assert not waiting.done()
    journal.oldest = None
    journal.space.release()
    await waiting


def test_it_shows_what_is_needed_and_what_is_free() -> None:
    journal = Journal(40, 12)
    journal.accept(10)
    assert repr(journal.space) == "<JournalSpace 30 words needed, 11 of 12 buckets free>"
