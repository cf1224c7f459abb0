# SPDX-License-Identifier: GPL-2.0-only
"""A run: neighbouring extents of one inode in packed columns, sorted, none overlapping another.

Item i of each column is that of the i-th extent. Most keys have one pointer; a run with a key of more has a
column for each, zero where a key has fewer.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator

from bcached.format.bkey import HEAD_WORDS, KEY_DIRTY, KEY_PTRS, KEY_SIZE, PTR_OFFSET, key_of_words
from bcached.keys import KEY_SECTORS_MAX, Key

SIZE_SHIFT, SIZE_LIMIT = KEY_SIZE.shift, KEY_SIZE.limit
COUNT_SHIFT, COUNT_LIMIT = KEY_PTRS.shift, KEY_PTRS.limit
SECTOR_SHIFT, SECTOR_LIMIT = PTR_OFFSET.shift, PTR_OFFSET.limit
ALIKE = KEY_PTRS.mask | KEY_DIRTY.mask  # what two heads must share to be merged, beside the inode


class Run:
    """The columns of one run."""

    __slots__ = ("ends", "heads", "inode", "pointers", "word_count")

    def __init__(self, inode: int) -> None:
        self.inode = inode
        self.ends = array("Q")
        self.heads = array("Q")  # high words, as on disk
        self.pointers = [array("Q")]
        self.word_count = 0  # words of the keys on disk

    def __len__(self) -> int:
        return len(self.ends)

    def start(self, place: int) -> int:
        """The first sector of an extent."""
        return self.ends[place] - (self.heads[place] >> SIZE_SHIFT & SIZE_LIMIT)

    def words(self, place: int) -> tuple[int, ...]:
        """The pointer words of an extent."""
        count = self.heads[place] >> COUNT_SHIFT & COUNT_LIMIT
        if count == 1:
            return (self.pointers[0][place],)
        return tuple([column[place] for column in self.pointers[:count]])

    def keys(self) -> Iterator[Key]:
        """All extents as keys."""
        for place in range(len(self.ends)):
            yield key_of_words(self.heads[place], self.ends[place], self.words(place))

    def piece(self, place: int, start: int, end: int) -> Key:
        """Returns the part of an extent in [start, end), which it overlaps, as a key."""
        head, last, words = self.heads[place], self.ends[place], self.words(place)
        skipped = start - last + (head >> SIZE_SHIFT & SIZE_LIMIT)
        if skipped > 0:
            head -= skipped << SIZE_SHIFT
            words = tuple([word + (skipped << SECTOR_SHIFT) for word in words])
        if last > end:
            head -= (last - end) << SIZE_SHIFT
            last = end
        return key_of_words(head, last, words)

    def insert(self, place: int, end: int, head: int, words: tuple[int, ...]) -> None:
        """Insert an extent before the one at place; it must fit between its neighbours."""
        self.ends.insert(place, end)
        self.heads.insert(place, head)
        self.word_count += HEAD_WORDS + len(words)
        if len(words) == 1 == len(self.pointers):
            self.pointers[0].insert(place, words[0])
            return
        while len(self.pointers) < len(words):
            self.pointers.append(array("Q", bytes(8 * (len(self.ends) - 1))))
        for index, column in enumerate(self.pointers):
            column.insert(place, words[index] if index < len(words) else 0)

    def cut(self, place: int, start: int, end: int) -> list[Key]:
        """Cut [start, end) out, from the extent at place on, which ends behind start. Returns the pieces.

        1. The extent that start cuts. 2. Those inside. 3. The extent that end cuts.
        """
        ends, removed = self.ends, []
        if self.start(place) < start:
            removed.append(self.piece(place, start, end))
            if ends[place] > end:  # out of the middle: two remain
                self.insert(place, ends[place], self.heads[place], self.words(place))
                self._cut_front(place + 1, end)
            self._cut_back(place, start)
            place += 1
        if place < len(ends) and ends[place] <= end:
            whole = bisect_right(ends, end, place)
            removed += [self.piece(gone, start, end) for gone in range(place, whole)]
            self._delete(place, whole)
        if place < len(ends) and self.start(place) < end:
            removed.append(self.piece(place, start, end))
            self._cut_front(place, end)
        return removed

    def merge(self, place: int, bucket_sectors: int) -> bool:
        """Merge an extent into the adjacent one before it; False if its pointers do not allow it."""
        if not self.extend(place - 1, self.heads[place], self.words(place), bucket_sectors):
            return False
        self._delete(place, place + 1)
        return True

    def extend(self, place: int, head: int, words: tuple[int, ...], bucket_sectors: int) -> bool:
        """Extend the extent at place by one that begins at its end; False unless every copy is adjacent."""
        ours = self.heads[place]
        if (ours ^ head) & ALIKE:
            return False
        sectors = ours >> SIZE_SHIFT & SIZE_LIMIT
        step = sectors << SECTOR_SHIFT
        for column, word in zip(self.pointers, words):  # noqa: B905 (other extents may have more copies)
            # An extent never crosses a bucket, so no two are merged across a boundary.
            if column[place] + step != word or (word >> SECTOR_SHIFT & SECTOR_LIMIT) % bucket_sectors == 0:
                return False
        more = head >> SIZE_SHIFT & SIZE_LIMIT
        if sectors + more > KEY_SECTORS_MAX:
            return False
        self.heads[place] = ours + (more << SIZE_SHIFT)
        self.ends[place] += more
        return True

    def divide(self, sector: int) -> int:
        """Cut the extent that crosses a sector in two. Returns the place of the first one behind it."""
        place = bisect_right(self.ends, sector)
        if place < len(self.ends) and self.start(place) < sector:
            self.insert(place, self.ends[place], self.heads[place], self.words(place))
            self._cut_back(place, sector)
            place += 1
            self._cut_front(place, sector)
        return place

    def split(self, place: int = -1) -> "Run":
        """Move the extents from a place on, or the upper half, to a new run. Returns that run."""
        half = len(self.ends) // 2 if place < 0 else place
        upper = Run(self.inode)
        upper.ends, self.ends = self.ends[half:], self.ends[:half]
        upper.heads, self.heads = self.heads[half:], self.heads[:half]
        upper.pointers = [column[half:] for column in self.pointers]
        self.pointers = [column[:half] for column in self.pointers]
        upper.word_count = sum(HEAD_WORDS + (head >> COUNT_SHIFT & COUNT_LIMIT) for head in upper.heads)
        self.word_count -= upper.word_count
        return upper

    def _cut_front(self, place: int, start: int) -> None:
        """Move an extent's first sector up, and its pointers with it (kernel: bch_cut_front)."""
        skipped = start - self.start(place)
        count = self.heads[place] >> COUNT_SHIFT & COUNT_LIMIT
        self.heads[place] -= skipped << SIZE_SHIFT
        for column in self.pointers[:count]:
            column[place] += skipped << SECTOR_SHIFT

    def _cut_back(self, place: int, end: int) -> None:
        """Move an extent's end down (kernel: bch_cut_back)."""
        self.heads[place] -= (self.ends[place] - end) << SIZE_SHIFT
        self.ends[place] = end

    def _delete(self, first: int, behind: int) -> None:
        for place in range(first, behind):
            self.word_count -= HEAD_WORDS + (self.heads[place] >> COUNT_SHIFT & COUNT_LIMIT)
        if first < behind:
            del self.ends[first:behind], self.heads[first:behind]
            for column in self.pointers:
                del column[first:behind]
