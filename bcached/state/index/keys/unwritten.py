# SPDX-License-Identifier: GPL-2.0-only
"""The changes of a leaf that are in no written bset.

Most of them are looked at only once, when the leaf is written. So they are appended to a log, three words a
key, and merged when they are first needed: sorted columns instead of an insertion each.
"""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from bcached.format.bits import WordColumn
from bcached.format.bkey import KEY_INODE
from bcached.keys import Key
from bcached.state.index.keys.bset_merge import WORDS_WITH_POINTER, Columns, merged_runs
from bcached.state.index.keys.extents import Extents, Row, row_of

FEW_KEYS = 12  # of each volume: cheaper to insert than to merge, for a merge takes one volume after the other
MERGED_AS_ONE = 50  # so many keys take as long to be merged as one takes to be inserted


class Unwritten:
    """The changes, and the journal entries that have them.

    word_count is the words of all keys that were added; those of the extents differ where keys overlap, or
    became one. It changes only by `add`, `insert` and `recount`, so that sums over leaves can follow it.
    """

    __slots__ = ("_extents", "_log", "newest_seq", "oldest_seq", "word_count")

    def __init__(self, extents: Extents, oldest_seq: int = 0, newest_seq: int = 0) -> None:
        self._extents = extents
        self._log = array("Q")  # head, end and pointer of each key, the oldest first
        self.word_count = extents.word_count
        self.oldest_seq = oldest_seq  # 0: none
        self.newest_seq = newest_seq

    def __repr__(self) -> str:
        return f"<Unwritten {self.word_count} words of entries {self.oldest_seq} to {self.newest_seq}>"

    @property
    def extents(self) -> Extents:
        """Returns the extents, all changes merged; not to be changed but by the methods here."""
        if self._log:
            self._merge_log()
        return self._extents

    def begin_entry(self, seq: int) -> None:
        """Record that the following changes are in journal entry seq."""
        assert seq > self.newest_seq, "changes of an older entry than those before"
        self.oldest_seq = self.oldest_seq or seq
        self.newest_seq = seq

    def add(self, row: Row) -> None:
        """Add a key, which replaces others in its range."""
        _, _, end, head, words = row
        if len(words) == 1:
            self._log.extend((head, end, words[0]))
            self.word_count += WORDS_WITH_POINTER
            return
        extents = self.extents
        before = extents.word_count
        extents.insert_row(row)
        self.word_count += extents.word_count - before

    def insert(self, key: Key) -> Sequence[Key]:
        """Add a key. Returns the pieces it cut out of those added before."""
        return self.insert_row(row_of(key))

    def insert_row(self, row: Row) -> Sequence[Key]:
        """Add a key. Returns the pieces it cut out of those added before."""
        extents = self.extents
        before = extents.word_count
        removed = extents.insert_row(row)
        self.word_count += extents.word_count - before
        return removed

    def recount(self) -> None:
        """Have word_count be the words of the extents."""
        self.word_count = self.extents.word_count

    def _merge_log(self) -> None:
        """Merge the log into the extents: all at once, or key by key if these are few or some are unusual."""
        log, self._log, extents = self._log, array("Q"), self._extents
        if self._is_short(log) or not all(run.is_plain for run in extents.runs):
            for head, end, pointer in zip(log[::3], log[1::3], log[2::3], strict=True):
                extents.insert_packed(head, end, pointer)
            return
        words = np.frombuffer(log, np.uint64).reshape(-1, WORDS_WITH_POINTER)
        columns = Columns(
            _column([run.heads for run in extents.runs], words[:, 0]),
            _column([run.ends for run in extents.runs], words[:, 1]),
            _column([run.pointers[0] for run in extents.runs], words[:, 2]),
        )
        extents.take_runs(merged_runs(columns, extents.merge_within))

    def _is_short(self, log: "array[int]") -> bool:
        """Whether inserting the keys of a log takes less time than merging them."""
        count, runs = len(log) // WORDS_WITH_POINTER, self._extents.runs
        if count <= FEW_KEYS:
            return True
        volumes = {run.inode for run in runs}
        volumes.update(map(KEY_INODE.get, log[::WORDS_WITH_POINTER]))
        return count <= FEW_KEYS * len(volumes) + sum(map(len, runs)) // MERGED_AS_ONE


def _column(older: Iterable["array[int]"], newer: WordColumn) -> WordColumn:
    """Returns a column of older keys and newer ones."""
    return np.concatenate([*(np.frombuffer(part, np.uint64) for part in older), newer])
