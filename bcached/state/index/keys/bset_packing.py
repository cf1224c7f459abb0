# SPDX-License-Identifier: GPL-2.0-only
"""Packs the keys of extents for bsets, column by column instead of key by key."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from bcached.format.bits import NumberColumn, WordColumn
from bcached.format.bkey import HEAD_WORDS, KEY_INODE, KEY_PTRS
from bcached.state.index.keys.extent_run import Run
from bcached.state.index.keys.extents import Extents

BATCH_RUNS = 256  # some hundred thousand keys


class PackedKeys:
    """Keys in order, in little-endian words, and the first word of each."""

    def __init__(self, parts: Sequence[Extents]) -> None:
        self._words: WordColumn = np.empty(0, "<u8")
        self._firsts: NumberColumn = np.zeros(1, np.int64)  # the first word of each key, and the end of all
        self.append([run for part in parts for run in part.runs])

    def append(self, runs: Sequence[Run]) -> None:
        """Add the keys of runs, which are behind the last one here."""
        begin = len(self._words)
        words: WordColumn = np.empty(begin + sum(run.word_count for run in runs), "<u8")
        words[:begin] = self._words
        firsts = [self._firsts[:-1]]
        for run in runs:
            firsts.append(begin + _pack_run(run, words[begin:]))
            begin += run.word_count
        self._words, self._firsts = words, np.concatenate([*firsts, np.array([begin], np.int64)])

    def since(self, begin: int) -> "PackedKeys":
        """Returns the keys from a number on."""
        packed = PackedKeys([])
        first = self._firsts[begin]
        packed._words, packed._firsts = self._words[first:], self._firsts[begin:] - first
        return packed

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


def parts_of_runs(runs: Iterable[Run], words_max: int) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Yields where the last key of each part of `PackedKeys.filled` ends, and the part.

    Packs a few runs at a time: for an index of any size it takes little memory.
    """
    packed = PackedKeys([])
    runs = iter(runs)
    while batch := list(islice(runs, BATCH_RUNS)):
        packed.append(batch)
        *full, (begin, _) = packed.parts(words_max)
        for first, behind in full:
            yield packed.end_of(behind - 1), packed.cut(first, behind)
        packed = packed.since(begin)  # the last part may take more
    if len(packed):
        yield packed.end_of(len(packed) - 1), packed.cut(0, len(packed))


def _pack_run(run: Run, words: WordColumn) -> NumberColumn:
    """Pack a run's keys at the front of words. Returns the first word of each."""
    if run.is_plain:
        rows = words[: run.word_count].reshape(-1, HEAD_WORDS + 1)
        for number, column in enumerate((run.heads, run.ends, run.pointers[0])):
            rows[:, number] = np.frombuffer(column, np.uint64)
        return np.arange(0, run.word_count, HEAD_WORDS + 1)
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
