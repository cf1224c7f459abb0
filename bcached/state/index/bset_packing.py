# SPDX-License-Identifier: GPL-2.0-only
"""Packs the keys of extents for bsets, column by column instead of key by key."""

from collections.abc import Iterator, Sequence

import numpy as np

from bcached.format.bits import NumberColumn, WordColumn
from bcached.format.bkey import HEAD_WORDS, KEY_INODE, KEY_PTRS
from bcached.state.index.extent_run import Run
from bcached.state.index.extents import Extents


class PackedKeys:
    """Keys in order, in little-endian words, and the first word of each."""

    def __init__(self, parts: Sequence[Extents]) -> None:
        self._words: WordColumn = np.empty(sum(part.word_count for part in parts), "<u8")
        firsts = []
        begin = 0
        for run in (run for part in parts for run in part.runs):
            firsts.append(begin + _pack_run(run, self._words[begin:]))
            begin += run.word_count
        # The first word of each key, and the end of all.
        self._firsts: NumberColumn = np.concatenate([*firsts, np.array([begin], np.int64)])

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._firsts) - 1

    @property
    def word_count(self) -> int:
        """How many words all keys take."""
        return len(self._words)

    def cut(self, begin: int, end: int) -> bytes:
        """The bytes of keys [begin, end)."""
        return self._words[self._firsts[begin] : self._firsts[end]].tobytes()

    def end_of(self, number: int) -> tuple[int, int]:
        """The inode and the end of a key, by its number."""
        first = self._firsts[number]
        return KEY_INODE.get(int(self._words[first])), int(self._words[first + 1])

    def behind(self, words: int) -> int:
        """How many keys it takes to fill `words` or just more."""
        return int(np.searchsorted(self._firsts, words))

    def filled(self, words_max: int) -> list[bytes]:
        """Returns all keys in as few parts as possible, none of more than words_max."""
        return [self.cut(begin, end) for begin, end in self.parts(words_max)]

    def parts(self, words_max: int) -> Iterator[tuple[int, int]]:
        """Yields the first key and the end of each part of `filled`, by their numbers."""
        begin = 0
        while begin < len(self):
            limit = self._firsts[begin] + words_max
            end = int(np.searchsorted(self._firsts, limit, side="right")) - 1
            assert end > begin, "a key does not fit"
            yield begin, end
            begin = end


def _pack_run(run: Run, words: WordColumn) -> NumberColumn:
    """Pack a run's keys at the front of words. Returns the first word of each."""
    heads = np.array(run.heads, np.uint64)
    counts = KEY_PTRS.of_column(heads)
    firsts = np.zeros(len(heads), np.int64)
    np.cumsum(counts[:-1] + HEAD_WORDS, out=firsts[1:])
    words[firsts] = heads
    words[firsts + 1] = np.array(run.ends, np.uint64)
    for number, column in enumerate(run.pointers):
        has = counts > number
        words[firsts[has] + HEAD_WORDS + number] = np.array(column, np.uint64)[has]
    return firsts
