# SPDX-License-Identifier: GPL-2.0-only
"""The keys of the journal's entries that are still needed, in memory, to be relogged when the ring runs out.

An entry is needed until the leaves that its keys were inserted into are written. How long that takes, and how
many entries without keys are written meanwhile, has no bound; so when a ring runs out, all needed keys are
written again at its front. If they fit in one entry, as they were accepted. If they take several, each entry
alone must change nothing, in case the power fails before the last; so they hold the keys merged, newest wins.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bcached.format.bkey import HEAD_WORDS, WORD_BYTES, pack_keys, parse_keys
from bcached.format.jset import JournalEntry
from bcached.keys import POINTERS_MAX
from bcached.state.index.keys.bset_packing import PackedKeys
from bcached.state.index.keys.extents import Extents


class Record(NamedTuple):
    """The keys of one entry."""

    seq: int
    accepted_seq: int  # entry that first held the oldest key; older than seq if relogged
    packed: bytes
    cuts: int  # keys that may yet divide an older one; keys merged by one relog no longer divide each other


class NeededKeys:
    """Keys by the entry that holds them, oldest first."""

    def __init__(self, member_count: int) -> None:
        self.words = 0  # words of all keys
        self.cuts = 0  # the sum of the records' cuts
        # Dividing a key adds one. Its copies are on different members; one of the kernel's pointers may name
        # no device.
        self._words_of_key = HEAD_WORDS + min(member_count + 1, POINTERS_MAX)
        self._records: deque[Record] = deque()

    @classmethod
    def of(cls, entries: Iterable[JournalEntry], member_count: int) -> "NeededKeys":
        """Returns the keys of these entries, oldest first."""
        needed = cls(member_count)
        for entry in entries:
            if entry.keys:
                needed.add(Record(entry.seq, entry.seq, pack_keys(entry.keys), len(entry.keys)))
        return needed

    @property
    def oldest(self) -> Record | None:
        """The oldest entry that is needed."""
        return self._records[0] if self._records else None

    def add(self, record: Record) -> None:
        """Add the newest entry."""
        assert record.packed
        self._records.append(record)
        self.words += len(record.packed) // WORD_BYTES
        self.cuts += record.cuts

    def release(self, oldest_needed: int | None) -> None:
        """Forget the entries before this one; all if it is None."""
        while self._records and (oldest_needed is None or self._records[0].seq < oldest_needed):
            record = self._records.popleft()
            self.words -= len(record.packed) // WORD_BYTES
            self.cuts -= record.cuts

    def merged_words_max(self, words: int = 0, keys: int = 0) -> int:
        """Returns the most words that merging all keys, and so many more, could take."""
        return self.words + words + (self.cuts + keys) * self._words_of_key

    def packed(self) -> bytes:
        """Returns all keys as they were accepted."""
        return b"".join(record.packed for record in self._records)

    def merged(self, words_max: int) -> list[bytes]:
        """Returns all keys merged, newest wins, in parts of at most so many words."""
        extents = Extents(keep_deletions=True)
        for record in self._records:
            for key in parse_keys(record.packed, f"journal entry {record.seq}"):
                extents.insert(key)
        return PackedKeys([extents]).filled(words_max)

    def replace(self, records: Sequence[Record]) -> None:
        """Replace all records."""
        self._records.clear()
        self.words = self.cuts = 0
        for record in records:
            self.add(record)
