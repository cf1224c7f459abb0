# SPDX-License-Identifier: GPL-2.0-only
"""A run: neighbouring extents of one inode in packed columns, sorted, none overlapping another.

Item i of each column is that of the i-th extent. Most keys have one pointer; a run with a key of more has a
column for each, zero where a key has fewer.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator

from bcached.format.bkey import HEAD_WORDS, key_of_words
from bcached.keys import KEY_SECTORS_MAX, Key
from bcached.state.index.keys.key_words import (
    COUNT_LIMIT,
    COUNT_SHIFT,
    MERGED_FIELDS,
    SECTOR_LIMIT,
    SECTOR_SHIFT,
    SIZE_LIMIT,
    SIZE_SHIFT,
    pointer_count,
)


class Run:
    """The columns of one run. An `index` is that of an extent, from 0."""

    __slots__ = ("ends", "heads", "inode", "pointers", "word_count")

    def __init__(self, inode: int) -> None:
        self.inode = inode
        self.ends = array("Q")  # in sectors
        self.heads = array("Q")  # high words, as on disk
        self.pointers = [array("Q")]  # at least one column
        self.word_count = 0  # words of the keys on disk

    def __repr__(self) -> str:
        if not self.ends:
            return f"<Run of inode {self.inode}, empty>"
        return f"<Run of inode {self.inode}, {len(self.ends)} extents in [{self.start(0)}, {self.ends[-1]})>"

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def is_plain(self) -> bool:
        """Whether each extent has one pointer."""
        return len(self.pointers) == 1 and self.word_count == (HEAD_WORDS + 1) * len(self.ends)

    def start(self, index: int) -> int:
        """The first sector of an extent."""
        return self.ends[index] - (self.heads[index] >> SIZE_SHIFT & SIZE_LIMIT)

    def words(self, index: int) -> tuple[int, ...]:
        """The pointer words of an extent."""
        count = self.heads[index] >> COUNT_SHIFT & COUNT_LIMIT
        if count == 1:
            return (self.pointers[0][index],)
        return tuple([column[index] for column in self.pointers[:count]])

    def key(self, index: int) -> Key:
        """An extent as a key."""
        return key_of_words(self.heads[index], self.ends[index], self.words(index))

    def keys(self) -> Iterator[Key]:
        """All extents as keys."""
        return iter(self.keys_in(0, len(self.ends)))

    def keys_in(self, first: int, behind: int) -> list[Key]:
        """Returns the extents from first on as keys, up to the one before behind."""
        columns = zip(
            self.heads[first:behind], self.ends[first:behind], self.pointers[0][first:behind], strict=True
        )
        if len(self.pointers) == 1:
            return [
                key_of_words(head, end, (word,) if head >> COUNT_SHIFT & COUNT_LIMIT else ())
                for head, end, word in columns
            ]
        return [self.key(index) for index in range(first, behind)]

    def piece(self, index: int, start: int, end: int) -> Key:
        """Returns the part of an extent in [start, end), which it overlaps, as a key."""
        head, last, words = self.heads[index], self.ends[index], self.words(index)
        skipped = start - last + (head >> SIZE_SHIFT & SIZE_LIMIT)
        if skipped > 0:
            head -= skipped << SIZE_SHIFT
            words = tuple([word + (skipped << SECTOR_SHIFT) for word in words])
        if last > end:
            head -= (last - end) << SIZE_SHIFT
            last = end
        return key_of_words(head, last, words)

    def insert(self, index: int, end: int, head: int, words: tuple[int, ...]) -> None:
        """Insert an extent before the one at index; it must fit between its neighbours."""
        self.ends.insert(index, end)
        self.heads.insert(index, head)
        self.word_count += HEAD_WORDS + len(words)
        if len(words) == 1 == len(self.pointers):
            self.pointers[0].insert(index, words[0])
            return
        while len(self.pointers) < len(words):
            self.pointers.append(array("Q", bytes(8 * (len(self.ends) - 1))))
        for number, column in enumerate(self.pointers):
            column.insert(index, words[number] if number < len(words) else 0)

    def cut(self, index: int, start: int, end: int) -> list[Key]:
        """Cut [start, end) out, from the extent at index on, which ends behind start. Returns the pieces."""
        assert start < end
        ends, removed = self.ends, []
        # 1. An extent that begins before: it keeps its front, and if it ends behind, its rear as another.
        if self.start(index) < start:
            removed.append(self.piece(index, start, end))
            if ends[index] > end:
                self.insert(index, ends[index], self.heads[index], self.words(index))
                self._cut_front(index + 1, end)
            self._cut_back(index, start)
            index += 1
        # 2. Those completely inside are removed.
        if index < len(ends) and ends[index] <= end:
            whole = bisect_right(ends, end, index)
            removed += [self.piece(inside, start, end) for inside in range(index, whole)]
            self._delete(index, whole)
        # 3. An extent that ends behind keeps its rear.
        if index < len(ends) and self.start(index) < end:
            removed.append(self.piece(index, start, end))
            self._cut_front(index, end)
        return removed

    def is_apart(self, index: int, start: int) -> bool:
        """Whether an extent, which begins at start, is adjacent to neither of its neighbours in the run."""
        ends, behind = self.ends, index + 1
        if index and ends[index - 1] == start:
            return False
        if behind == len(ends):
            return True
        return ends[behind] - (self.heads[behind] >> SIZE_SHIFT & SIZE_LIMIT) > ends[index]

    def replace(self, index: int, word: int) -> Key:
        """Replace the one pointer of an extent. Returns what it was as a key."""
        (column,) = self.pointers
        removed = key_of_words(self.heads[index], self.ends[index], (column[index],))
        column[index] = word
        return removed

    def take_front(self, index: int, end: int) -> Key:
        """Cut the sectors before `end` from an extent: some, but not all. Returns them as a key."""
        head, words = self.heads[index], self.words(index)
        sectors, left = head >> SIZE_SHIFT & SIZE_LIMIT, self.ends[index] - end
        assert 0 < left < sectors
        skipped = sectors - left
        self.heads[index] = head - (skipped << SIZE_SHIFT)
        step = skipped << SECTOR_SHIFT
        for column, word in zip(self.pointers, words):  # noqa: B905 (other extents may have more copies)
            column[index] = word + step
        return key_of_words(head - (left << SIZE_SHIFT), end, words)

    def merge(self, index: int, bucket_sectors: int) -> bool:
        """Merge an extent into the adjacent one before it; False if its pointers do not allow it."""
        if not self.extend(index - 1, self.heads[index], self.words(index), bucket_sectors):
            return False
        self._delete(index, index + 1)
        return True

    def extend(self, index: int, head: int, words: tuple[int, ...], bucket_sectors: int) -> bool:
        """Extend the extent at index by one that begins at its end; False unless every copy is adjacent."""
        ours = self.heads[index]
        if (ours ^ head) & MERGED_FIELDS:
            return False
        sectors = ours >> SIZE_SHIFT & SIZE_LIMIT  # inline: sequential writes extend for each key
        step = sectors << SECTOR_SHIFT
        for column, word in zip(self.pointers, words):  # noqa: B905 (other extents may have more copies)
            # An extent never crosses a bucket, so no two are merged across a boundary.
            if column[index] + step != word or (word >> SECTOR_SHIFT & SECTOR_LIMIT) % bucket_sectors == 0:
                return False
        more = head >> SIZE_SHIFT & SIZE_LIMIT
        if sectors + more > KEY_SECTORS_MAX:
            return False
        self.heads[index] = ours + (more << SIZE_SHIFT)
        self.ends[index] += more
        return True

    def divide(self, sector: int) -> int:
        """Cut the extent that crosses a sector in two. Returns the index of the first one behind it."""
        index = bisect_right(self.ends, sector)
        if index < len(self.ends) and self.start(index) < sector:
            self.insert(index, self.ends[index], self.heads[index], self.words(index))
            self._cut_back(index, sector)
            index += 1
            self._cut_front(index, sector)
        return index

    def split(self, index: int = -1) -> "Run":
        """Move the extents from an index on, or the upper half, to a new run. Returns that run."""
        half = len(self.ends) // 2 if index < 0 else index
        assert 0 < half < len(self.ends), "a part is empty"
        is_plain = self.is_plain
        upper = Run(self.inode)
        upper.ends, self.ends = self.ends[half:], self.ends[:half]
        upper.heads, self.heads = self.heads[half:], self.heads[:half]
        upper.pointers = [column[half:] for column in self.pointers]
        self.pointers = [column[:half] for column in self.pointers]
        if is_plain:
            upper.word_count = (HEAD_WORDS + 1) * len(upper.ends)
        else:
            upper.word_count = sum(HEAD_WORDS + pointer_count(head) for head in upper.heads)
        self.word_count -= upper.word_count
        return upper

    def _cut_front(self, index: int, start: int) -> None:
        """Move an extent's first sector up, and its pointers with it (kernel: bch_cut_front)."""
        skipped = start - self.start(index)
        count = self.heads[index] >> COUNT_SHIFT & COUNT_LIMIT
        self.heads[index] -= skipped << SIZE_SHIFT
        for column in self.pointers[:count]:
            column[index] += skipped << SECTOR_SHIFT

    def _cut_back(self, index: int, end: int) -> None:
        """Move an extent's end down (kernel: bch_cut_back)."""
        self.heads[index] -= (self.ends[index] - end) << SIZE_SHIFT
        self.ends[index] = end

    def _delete(self, first: int, behind: int) -> None:
        for head in self.heads[first:behind]:
            self.word_count -= HEAD_WORDS + (head >> COUNT_SHIFT & COUNT_LIMIT)
        if first < behind:
            del self.ends[first:behind], self.heads[first:behind]
            for column in self.pointers:
                del column[first:behind]
