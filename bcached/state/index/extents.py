# SPDX-License-Identifier: GPL-2.0-only
"""Extents in packed columns: those of one leaf of the index, or those the journal adds to it.

An extent is three words and no object: its end, its key's head and its pointer, each in an array with those
of its neighbours (extent_run.py). An inserted key cuts what it overlaps, whatever the gens: callers check
staleness after all cutting, for a stale key over an older one means that the older one is overwritten.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from bcached.format.bkey import (
    CHECK_DEVICE,
    COUNT_LIMIT,
    COUNT_SHIFT,
    HEAD_WORDS,
    KEY_SIZE,
    head_word,
    key_of_words,
    pack_keys,
    pointer_word,
)
from bcached.keys import Key
from bcached.state.index.extent_run import Run

RUN_KEYS_MAX = 512  # so that an insert moves at most a few kilobytes
INODE_SHIFT = 64  # a position is one number: the inode above an end of at most 63 bits
NO_LIMIT = 1 << 63
SIZE_SHIFT, SIZE_LIMIT = KEY_SIZE.shift, KEY_SIZE.limit
NOTHING: Sequence[Key] = ()


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
        self._runs: list[Run] = []
        self._lasts: list[int] = []  # the position of each run's last end
        self.key_count = 0
        self.word_count = 0  # words of the keys on disk
        self.was_divided = False  # whether the last cut took the middle of an extent

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
            place = number - first
            yield key_of_words(run.heads[place], run.ends[place], run.words(place))

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
        sectors = key.sectors
        if sectors == 0:
            return NOTHING
        words = data_words(key)
        head = head_word(key.inode, sectors, key.dirty, len(words))
        return self.insert_words(key.inode, key.offset, sectors, head, words)

    def insert_words(
        self, inode: int, start: int, sectors: int, head: int, words: tuple[int, ...]
    ) -> Sequence[Key]:
        """Insert a key given as words: its head, and the pointers to its data. Returns the pieces cut out."""
        assert start >= 0
        end, position, runs = start + sectors, inode << INODE_SHIFT | start, self._runs
        index = bisect_right(self._lasts, position)
        place, removed = -1, NOTHING
        if index < len(runs) and runs[index].inode == inode:
            run = runs[index]
            place = bisect_right(run.ends, start)
            if run.ends[place] - (run.heads[place] >> SIZE_SHIFT & SIZE_LIMIT) < end:
                removed = self._cut(index, place, start, end)
                index, place = bisect_right(self._lasts, position), -1
        if words or self._keep_deletions:
            self._place(index, place, inode, start, end, head, words)
        return removed

    def remove(self, inode: int, start: int, end: int) -> Sequence[Key]:
        """Cut [start, end) out of the inode's extents. Returns the pieces cut out, in order."""
        assert 0 <= start < end
        index = bisect_right(self._lasts, inode << INODE_SHIFT | start)
        if index == len(self._runs) or self._runs[index].inode != inode:
            return NOTHING
        run = self._runs[index]
        place = bisect_right(run.ends, start)
        if run.start(place) >= end:
            return NOTHING
        return self._cut(index, place, start, end)

    def lookup(self, inode: int, start: int, end: int, limit: int = NO_LIMIT) -> list[Key]:
        """Returns the extents in [start, end), cut to it, in order; at most limit of them."""
        found: list[Key] = []
        index = bisect_right(self._lasts, inode << INODE_SHIFT | start)
        if index < len(self._runs) and (run := self._runs[index]).inode == inode:
            place = bisect_right(run.ends, start)
            last = run.ends[place]
            if last >= end:  # no later one is in the range
                head = run.heads[place]
                first = last - (head >> SIZE_SHIFT & SIZE_LIMIT)
                if first >= end:
                    return found
                if first >= start and last == end and head >> COUNT_SHIFT & COUNT_LIMIT == 1:
                    return [key_of_words(head, last, (run.pointers[0][place],))]
                return [run.piece(place, start, end)]
        while index < len(self._runs) and self._runs[index].inode == inode:
            run = self._runs[index]
            ends, heads = run.ends, run.heads
            for place in range(bisect_right(ends, start), len(ends)):
                last, head = ends[place], heads[place]
                first = last - (head >> SIZE_SHIFT & SIZE_LIMIT)
                if first >= end or len(found) == limit:
                    return found
                if start <= first and last <= end:
                    single = head >> COUNT_SHIFT & COUNT_LIMIT == 1
                    words = (run.pointers[0][place],) if single else run.words(place)
                    found.append(key_of_words(head, last, words))
                else:
                    found.append(run.piece(place, start, end))
            index += 1
        return found

    def between(self, low: tuple[int, int], high: tuple[int, int]) -> Iterator[Key]:
        """Yields the extents between two positions (inode, offset), cut to them, in order."""
        index = bisect_right(self._lasts, low[0] << INODE_SHIFT | low[1])
        while index < len(self._runs) and low[0] <= self._runs[index].inode <= high[0]:
            run = self._runs[index]
            start = low[1] if run.inode == low[0] else 0
            end = high[1] if run.inode == high[0] else NO_LIMIT
            for place in range(bisect_right(run.ends, start), len(run.ends)):
                if run.start(place) >= end:
                    return
                yield run.piece(place, start, end)
            index += 1

    def split_off(self, inode: int, sector: int) -> "Extents":
        """Move all from a position on to new Extents, cutting what crosses it. Returns those."""
        index = bisect_right(self._lasts, inode << INODE_SHIFT | sector)
        upper = Extents(keep_deletions=self._keep_deletions, merge_within=self._merge_within)
        if index < len(self._runs) and self._runs[index].inode == inode:
            place = self._runs[index].divide(sector)
            if place:
                self._runs.insert(index + 1, self._runs[index].split(place))
                index += 1
        upper.take_runs(self._runs[index:])
        self.take_runs(self._runs[:index])
        return upper

    def take_runs(self, runs: list[Run]) -> None:
        """Replace all by these runs, which are in order and not empty."""
        self._runs = runs
        self._lasts = [run.inode << INODE_SHIFT | run.ends[-1] for run in runs]
        self.key_count = sum(map(len, runs))
        self.word_count = sum(run.word_count for run in runs)

    def join(self, other: "Extents") -> None:
        """Append all of other, which is behind the last extent here; other must not be used any more."""
        self.take_runs([*self._runs, *other.runs])

    def packed(self) -> bytes:
        """The keys, packed as in a bset."""
        return b"".join(pack_keys(tuple(run.keys())) for run in self._runs)

    def _cut(self, index: int, place: int, start: int, end: int) -> list[Key]:
        """Cut [start, end) out, beginning with the extent at place. Returns the pieces cut out."""
        removed: list[Key] = []
        self.was_divided = False
        runs, inode = self._runs, self._runs[index].inode
        while index < len(runs) and runs[index].inode == inode:
            run = runs[index]
            ends = run.ends
            last, keys_before, words_before = ends[-1], len(ends), run.word_count
            removed += run.cut(place, start, end)
            more = len(ends) - keys_before
            if more or ends[-1] != last:
                self.word_count += run.word_count - words_before
                self.key_count += more
                index = self._settle(index)
            self.was_divided = more > 0
            if last >= end:
                break
            place = 0
        return removed

    def _settle(self, index: int) -> int:
        """Update the bounds of a changed run: drop it if empty, split it if too long.

        Returns the index of the next run.
        """
        run = self._runs[index]
        if not run.ends:
            del self._runs[index], self._lasts[index]
            return index
        self._lasts[index] = run.inode << INODE_SHIFT | run.ends[-1]
        if len(run.ends) <= RUN_KEYS_MAX:
            return index + 1
        upper = run.split()
        self._runs.insert(index + 1, upper)
        self._lasts.insert(index + 1, self._lasts[index])
        self._lasts[index] = run.inode << INODE_SHIFT | run.ends[-1]
        return index + 2

    def _place(
        self, index: int, place: int, inode: int, start: int, end: int, head: int, words: tuple[int, ...]
    ) -> None:
        """Insert an extent that overlaps none, at place of the run at index; place is -1 if not known.

        1. Into the run at index. 2. At the end of the run before. 3. Into a new run.
        """
        runs = self._runs
        if index < len(runs) and runs[index].inode == inode:
            run = runs[index]
            if place < 0:
                place = bisect_right(run.ends, start)
        elif index and runs[index - 1].inode == inode and len(runs[index - 1].ends) < RUN_KEYS_MAX:
            index -= 1
            run = runs[index]
            place = len(run.ends)
            self._lasts[index] = inode << INODE_SHIFT | end
        else:
            run, place = Run(inode), 0
            runs.insert(index, run)
            self._lasts.insert(index, inode << INODE_SHIFT | end)
        ends, within = run.ends, self._merge_within
        if within and place and ends[place - 1] == start and run.extend(place - 1, head, words, within):
            place -= 1
        else:
            run.insert(place, end, head, words)
            self.key_count += 1
            self.word_count += HEAD_WORDS + len(words)
        behind = place + 1
        if behind < len(ends) and (
            within
            and ends[behind] - (run.heads[behind] >> SIZE_SHIFT & SIZE_LIMIT) == end
            and run.merge(behind, within)
        ):
            self.key_count -= 1
            self.word_count -= HEAD_WORDS + len(words)
        if len(ends) > RUN_KEYS_MAX:
            self._settle(index)


def data_words(key: Key) -> tuple[int, ...]:
    """The key's pointer words; none if it has no data: a deletion, or a placeholder for a pending miss."""
    pointers = key.pointers
    if len(pointers) == 1:
        return () if pointers[0].device == CHECK_DEVICE else (pointer_word(pointers[0]),)
    if all(pointer.device == CHECK_DEVICE for pointer in pointers):
        return ()
    return tuple(map(pointer_word, pointers))
