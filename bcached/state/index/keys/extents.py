# SPDX-License-Identifier: GPL-2.0-only
"""Extents in packed columns: those of one leaf of the index, or those the journal adds to it.

An extent is three words and no object: its end, its key's head and its pointer, each in an array with those
of its neighbours (extent_run.py). An inserted key cuts what it overlaps, whatever the gens: callers check
staleness after all cutting, for a stale key over an older one means that the older one is overwritten.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import lt
from typing import TypeAlias

from bcached.format.bkey import (
    CHECK_DEVICE,
    HEAD_WORDS,
    head_word,
    key_of_words,
    pack_keys,
    pointer_word,
)
from bcached.keys import INODE_MAX, Key
from bcached.state.index.keys.extent_run import Run
from bcached.state.index.keys.key_words import COUNT_LIMIT, COUNT_SHIFT, SIZE_LIMIT, SIZE_SHIFT

RUN_KEYS_MAX = 512  # so that an insert moves at most a few kilobytes
INODE_SHIFT = 64  # a position is one number: the inode above an end of at most 63 bits
NO_LIMIT = 1 << 63
NOTHING: Sequence[Key] = ()
# A key in words: inode, start, end, head, and the pointers to its data.
Row: TypeAlias = tuple[int, int, int, int, tuple[int, ...]]


class Extents:
    """Extents by inode and offset, no two of them overlapping.

    With keep_deletions a key without data is kept, as an extent without pointers, as unwritten changes need
    it; else it only cuts. With merge_within, the sectors of a bucket, neighbours that are adjacent on the
    device, too, become one, as bcache allows.
    """

    __slots__ = (
        "_keep_deletions",
        "_lasts",
        "_merge_within",
        "_runs",
        "key_count",
        "was_divided",
        "word_count",
    )

    def __init__(self, *, keep_deletions: bool = False, merge_within: int = 0) -> None:
        self._keep_deletions = keep_deletions
        self._merge_within = merge_within
        self._runs: list[Run] = []  # in order, none of them empty
        self._lasts: list[int] = []  # the position of each run's last end
        self.key_count = 0
        self.word_count = 0  # words of the keys on disk
        self.was_divided = False  # whether the last cut took the middle of an extent

    def __repr__(self) -> str:
        return f"<Extents: {self.key_count} in {len(self._runs)} runs, {self.word_count} words>"

    def __len__(self) -> int:
        return self.key_count

    def __iter__(self) -> Iterator[Key]:
        """All extents in order, as keys."""
        return chain.from_iterable(run.keys() for run in self._runs)

    def keys_at(self, numbers: Iterable[int]) -> Iterator[Key]:
        """Yields the extents with these ascending numbers, counted from 0."""
        runs = iter(self._runs)
        run, first, behind = Run(0), 0, 0
        for number in numbers:
            while number >= behind:
                run = next(runs)
                first, behind = behind, behind + len(run)
            yield run.key(number - first)

    @property
    def merge_within(self) -> int:
        """The sectors of a bucket, if neighbours are merged."""
        return self._merge_within

    @property
    def runs(self) -> Sequence[Run]:
        """The columns, in order, to count or pack many keys at once; read only."""
        return self._runs

    def insert(self, key: Key) -> Sequence[Key]:
        """Insert a key. Returns the pieces it cut out of older extents."""
        return self.insert_row(row_of(key)) if key.sectors else NOTHING

    def insert_packed(self, head: int, end: int, pointer: int) -> Sequence[Key]:
        """Insert a key of one pointer, given as its three words. Returns the pieces it cut out."""
        start = end - (head >> SIZE_SHIFT & SIZE_LIMIT)
        return self.insert_row((head & INODE_MAX, start, end, head, (pointer,)))

    def insert_row(self, row: Row) -> Sequence[Key]:
        """Insert a key. Returns the pieces it cut out of older extents."""
        inode, start, end, head, words = row
        assert start >= 0
        position, runs = inode << INODE_SHIFT | start, self._runs
        # The run that the key belongs into, and in it the first extent that ends behind the key's start.
        number = bisect_right(self._lasts, position)
        index, removed = -1, NOTHING
        if number < len(runs) and (run := runs[number]).inode == inode:
            ends, heads = run.ends, run.heads
            index = bisect_right(ends, start)
            last, found = ends[index], heads[index]
            following = last - (found >> SIZE_SHIFT & SIZE_LIMIT)
            # 1. It touches no other, as nearly all keys at random positions.
            if (
                following > end
                and len(words) == 1 == len(run.pointers)
                and len(ends) < RUN_KEYS_MAX
                and (not index or ends[index - 1] < start)
            ):
                ends.insert(index, end)
                heads.insert(index, head)
                run.pointers[0].insert(index, words[0])
                run.word_count += HEAD_WORDS + 1
                self.key_count += 1
                self.word_count += HEAD_WORDS + 1
                return NOTHING
            # 2. It replaces a whole one of one copy, as what is stored again under its name.
            if (
                found == head
                and last == end
                and len(words) == 1 == len(run.pointers)
                and (not self._merge_within or run.is_apart(index, start))
            ):
                self.was_divided = False
                return [run.replace(index, words[0])]
            # 3. It overlaps only the front of one, as in a file that is written again from its beginning.
            if start <= following < end < last:
                self.was_divided = False
                removed = [run.take_front(index, end)]
            # 4. It overlaps others.
            elif following < end:
                removed = self._cut(number, index, start, end)
                number, index = bisect_right(self._lasts, position), -1  # cutting moves extents and runs
        if words or self._keep_deletions:
            self._insert_at(number, index, inode, start, end, head, words)
        return removed

    def remove(self, inode: int, start: int, end: int) -> Sequence[Key]:
        """Cut [start, end) out of the inode's extents. Returns the pieces cut out, in order."""
        assert 0 <= start < end
        number = bisect_right(self._lasts, inode << INODE_SHIFT | start)
        if number == len(self._runs) or self._runs[number].inode != inode:
            return NOTHING
        run = self._runs[number]
        index = bisect_right(run.ends, start)
        if run.start(index) >= end:
            return NOTHING
        return self._cut(number, index, start, end)

    def is_empty_in(self, inode: int, start: int, end: int) -> bool:
        """Whether no extent has a sector in [start, end)."""
        number = bisect_right(self._lasts, inode << INODE_SHIFT | start)
        if number == len(self._runs) or self._runs[number].inode != inode:
            return True
        run = self._runs[number]
        return run.start(bisect_right(run.ends, start)) >= end

    def holds_at_most(self, inode: int, start: int, covered: int, end: int) -> bool:
        """Whether [start, end) holds no extent, or one that is within [start, covered)."""
        number = bisect_right(self._lasts, inode << INODE_SHIFT | start)
        runs = self._runs
        if number == len(runs) or (run := runs[number]).inode != inode:
            return True
        ends = run.ends
        index = bisect_right(ends, start)
        last = ends[index]
        first = last - (run.heads[index] >> SIZE_SHIFT & SIZE_LIMIT)
        if first >= end:
            return True
        if first < start or last > covered:
            return False
        index += 1
        if index < len(ends):
            return ends[index] - (run.heads[index] >> SIZE_SHIFT & SIZE_LIMIT) >= end
        number += 1
        return number == len(runs) or runs[number].inode != inode or runs[number].start(0) >= end

    def lookup(self, inode: int, start: int, end: int, limit: int = NO_LIMIT) -> list[Key]:
        """Returns the extents in [start, end), cut to it, in order; at most limit of them."""
        found: list[Key] = []
        number = bisect_right(self._lasts, inode << INODE_SHIFT | start)
        # 1. The first extent that ends behind start ends behind the range, too: there is no other in it.
        if number < len(self._runs) and (run := self._runs[number]).inode == inode:
            index = bisect_right(run.ends, start)
            last = run.ends[index]
            if last >= end:
                head = run.heads[index]
                first = last - (head >> SIZE_SHIFT & SIZE_LIMIT)
                if first >= end:
                    return found
                if first >= start and last == end and head >> COUNT_SHIFT & COUNT_LIMIT == 1:
                    return [key_of_words(head, last, (run.pointers[0][index],))]
                return [run.piece(index, start, end)]
        # 2. Several, in one run or more: only the first and the last of them may need a cut.
        while number < len(self._runs) and self._runs[number].inode == inode and len(found) < limit:
            run = self._runs[number]
            index = bisect_right(run.ends, start)
            behind = bisect_right(run.ends, end, index)  # the first one that ends behind the range
            if index < behind and run.start(index) < start:
                found.append(run.piece(index, start, end))
                index += 1
            found += run.keys_in(index, min(behind, index + limit - len(found)))
            if behind < len(run.ends):
                if len(found) < limit and run.start(behind) < end:
                    found.append(run.piece(behind, start, end))
                break
            number += 1
        return found

    def between(self, low: tuple[int, int], high: tuple[int, int]) -> Iterator[Key]:
        """Yields the extents between two positions (inode, offset), cut to them, in order."""
        number = bisect_right(self._lasts, low[0] << INODE_SHIFT | low[1])
        while number < len(self._runs) and low[0] <= self._runs[number].inode <= high[0]:
            run = self._runs[number]
            start = low[1] if run.inode == low[0] else 0
            end = high[1] if run.inode == high[0] else NO_LIMIT
            for index in range(bisect_right(run.ends, start), len(run.ends)):
                if run.start(index) >= end:
                    return
                yield run.piece(index, start, end)
            number += 1

    def split_off(self, inode: int, sector: int) -> "Extents":
        """Move all from a position on to new Extents, cutting what crosses it. Returns those."""
        number = bisect_right(self._lasts, inode << INODE_SHIFT | sector)
        upper = Extents(keep_deletions=self._keep_deletions, merge_within=self._merge_within)
        if number < len(self._runs) and self._runs[number].inode == inode:
            index = self._runs[number].divide(sector)
            if index:
                self._runs.insert(number + 1, self._runs[number].split(index))
                number += 1
        upper.take_runs(self._runs[number:])
        self.take_runs(self._runs[:number])
        return upper

    def take_runs(self, runs: list[Run]) -> None:
        """Replace all by these runs, which are in order and not empty."""
        assert all(runs)
        self._runs = runs
        self._lasts = [run.inode << INODE_SHIFT | run.ends[-1] for run in runs]
        self.key_count = sum(map(len, runs))
        self.word_count = sum(run.word_count for run in runs)

    def join(self, other: "Extents") -> None:
        """Append all of other, which is behind the last extent here; other must not be used any more."""
        self.take_runs([*self._runs, *other.runs])
        assert all(map(lt, self._lasts, self._lasts[1:]))

    def packed(self) -> bytes:
        """The keys, packed as in a bset."""
        return b"".join(pack_keys(tuple(run.keys())) for run in self._runs)

    def _cut(self, number: int, index: int, start: int, end: int) -> list[Key]:
        """Cut [start, end) out, beginning with an extent of the run with this number. Returns the pieces."""
        removed: list[Key] = []
        self.was_divided = False
        runs, inode = self._runs, self._runs[number].inode
        while number < len(runs) and runs[number].inode == inode:
            run = runs[number]
            ends = run.ends
            last, keys_before, words_before = ends[-1], len(ends), run.word_count
            removed += run.cut(index, start, end)
            more = len(ends) - keys_before
            # A run of the same length with the same end was cut in place only: words and bounds are the same.
            if more or ends[-1] != last:
                self.word_count += run.word_count - words_before
                self.key_count += more
                number = self._settle(number)
            self.was_divided = more > 0
            if last >= end:
                break
            index = 0
        return removed

    def _settle(self, number: int) -> int:
        """Update the bounds of a changed run: drop it if empty, split it if too long.

        Returns the number of the next run.
        """
        run = self._runs[number]
        if not run.ends:
            del self._runs[number], self._lasts[number]
            return number
        self._lasts[number] = run.inode << INODE_SHIFT | run.ends[-1]
        if len(run.ends) <= RUN_KEYS_MAX:
            return number + 1
        upper = run.split()
        self._runs.insert(number + 1, upper)
        self._lasts.insert(number + 1, self._lasts[number])
        self._lasts[number] = run.inode << INODE_SHIFT | run.ends[-1]
        return number + 2

    def _insert_at(
        self, number: int, index: int, inode: int, start: int, end: int, head: int, words: tuple[int, ...]
    ) -> None:
        """Insert an extent that overlaps none, before the one at index of a run; index is -1 if not known."""
        runs = self._runs
        # 1. Into the run that has an extent behind it.
        if number < len(runs) and runs[number].inode == inode:
            run = runs[number]
            if index < 0:
                index = bisect_right(run.ends, start)
        # 2. It is the last of its inode: at the end of the run before, unless that is full.
        elif number and runs[number - 1].inode == inode and len(runs[number - 1].ends) < RUN_KEYS_MAX:
            number -= 1
            run = runs[number]
            index = len(run.ends)
            self._lasts[number] = inode << INODE_SHIFT | end
        # 3. Into a new run.
        else:
            run, index = Run(inode), 0
            runs.insert(number, run)
            self._lasts.insert(number, inode << INODE_SHIFT | end)
        ends, within = run.ends, self._merge_within
        # Kernel: merges with the extent before it, and that with the one behind.
        if within and index and ends[index - 1] == start and run.extend(index - 1, head, words, within):
            index -= 1
        else:
            run.insert(index, end, head, words)
            self.key_count += 1
            self.word_count += HEAD_WORDS + len(words)
        behind = index + 1
        if behind < len(ends) and (
            within
            and ends[behind] - (run.heads[behind] >> SIZE_SHIFT & SIZE_LIMIT) == end
            and run.merge(behind, within)
        ):
            self.key_count -= 1
            self.word_count -= HEAD_WORDS + len(words)
        if len(ends) > RUN_KEYS_MAX:
            self._settle(number)


def row_of(key: Key) -> Row:
    """The key as it is inserted."""
    words = data_words(key)
    return key.inode, key.offset, key.end, head_word(key.inode, key.sectors, key.dirty, len(words)), words


def data_words(key: Key) -> tuple[int, ...]:
    """The key's pointer words; none if it has no data: a deletion, or a placeholder for a pending miss."""
    pointers = key.pointers
    if len(pointers) == 1:
        return () if pointers[0].device == CHECK_DEVICE else (pointer_word(pointers[0]),)
    if all(pointer.device == CHECK_DEVICE for pointer in pointers):
        return ()
    return tuple(map(pointer_word, pointers))
