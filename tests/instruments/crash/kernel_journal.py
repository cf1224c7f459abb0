# SPDX-License-Identifier: GPL-2.0-only
"""The journal as the kernel's reader finds it (bch_journal_read, v6.1): it does not look into every bucket.

It hashes for a bucket with entries, searches from there by halves for the newest, and goes backwards until
a bucket has nothing new. That is only right for a ring that was filled in order.
"""

from collections.abc import Callable

from bcached.format.jset import JournalEntry

GOLDEN_RATIO = 2654435769
ReadBucket = Callable[[int], list[JournalEntry]]


class KernelJournal:
    """One device's journal; read gives the entries of the bucket at an index, as rule 4.1 finds them."""

    def __init__(self, count: int, read: ReadBucket) -> None:
        self.count = count
        self.entries: dict[int, JournalEntry] = {}
        self._read_from_device = read
        self._seen: set[int] = set()

    def newest(self) -> JournalEntry | None:
        """The entry the kernel would go by; None if it says that there are no journal entries."""
        found = self._find_any()
        if found is None:
            return None
        self._go_back_from(self._search(found))
        return self.entries[max(self.entries)]

    def missing(self) -> list[int]:
        """Entries it would say are missing."""
        newest = self.entries[max(self.entries)]
        return [seq for seq in range(newest.last_seq, newest.seq) if seq not in self.entries]

    def _read(self, index: int) -> bool:
        """Read a bucket; whether any entry of it was taken."""
        self._seen.add(index)
        taken = False
        for entry in self._read_from_device(index):
            if entry.seq in self.entries or any(entry.seq < kept.last_seq for kept in self.entries.values()):
                continue
            self.entries = {seq: kept for seq, kept in self.entries.items() if seq >= entry.last_seq}
            self.entries[entry.seq] = entry
            taken = True
        return taken

    def _find_any(self) -> int | None:
        for turn in range(self.count):
            index = (turn * GOLDEN_RATIO & 0xFFFFFFFF) % self.count
            if index in self._seen:
                break
            if self._read(index):
                return index
        for index in range(self.count):
            if index not in self._seen and self._read(index):
                return index
        return None

    def _search(self, left: int) -> int:
        middle = left
        right = min((index for index in self._seen if index > left), default=self.count)
        while left + 1 < right:
            newest = max(self.entries)
            middle = (left + right) // 2
            self._read(middle)
            if max(self.entries) != newest:
                left = middle
            else:
                right = middle
        return middle

    def _go_back_from(self, middle: int) -> None:
        index = middle
        while True:
            index = (index or self.count) - 1
            if index == middle:
                return
            if index not in self._seen and not self._read(index):
                return
