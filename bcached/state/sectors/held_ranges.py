# SPDX-License-Identifier: GPL-2.0-only
"""The pieces of one bucket that one connection holds: ranges of sectors, each with one pin.

They are sorted. A bucket is given out from its beginning to its end, so a new piece nearly always is the
last; a sector is found by bisection.
"""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise

import msgspec


class Removed(msgspec.Struct, frozen=True, gc=False):
    """What `restore` needs to undo a removal: the piece as it was before."""

    index: int
    start: int
    end: int
    inode: int
    left: int  # pieces that remain of it: 0, 1 or 2


class HeldRanges:
    """Ranges of sectors of one bucket, none overlapping another. ends are exclusive."""

    __slots__ = ("ends", "inodes", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.inodes: list[int] = []

    def __len__(self) -> int:
        """How many pieces there are."""
        return len(self.starts)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """(start, end, inode) of each."""
        return zip(self.starts, self.ends, self.inodes, strict=True)

    @property
    def sectors(self) -> int:
        """Sectors of all pieces."""
        return sum(self.ends) - sum(self.starts)

    def add(self, start: int, end: int, inode: int) -> None:
        """Add a piece."""
        ends = self.ends
        if not ends or start >= ends[-1]:
            self.starts.append(start)
            ends.append(end)
            self.inodes.append(inode)
            return
        assert start < end, "a piece without sectors"
        index = bisect_right(self.starts, start)
        assert not index or ends[index - 1] <= start, "pieces overlap"
        assert index == len(ends) or end <= self.starts[index], "pieces overlap"
        self._replace(index, 0, [(start, end)], inode)

    def add_row(self, bounds: list[int], inode: int) -> None:
        """Add adjacent pieces, each from one bound to the next."""
        if self.ends and bounds[0] < self.ends[-1]:
            for start, end in pairwise(bounds):
                self.add(start, end, inode)
            return
        self.starts += bounds[:-1]
        self.ends += bounds[1:]
        self.inodes += [inode] * (len(bounds) - 1)

    def find(self, start: int, end: int) -> int | None:
        """Returns the index of the piece that holds all of [start, end); None if no piece does."""
        index = bisect_right(self.starts, start) - 1
        return index if index >= 0 and end <= self.ends[index] else None

    def remove(self, start: int, end: int) -> Removed | None:
        """Remove [start, end) from the piece that holds all of it; None if no piece does."""
        starts, ends, inodes = self.starts, self.ends, self.inodes
        index = bisect_right(starts, start) - 1
        if index < 0 or end > ends[index]:
            return None
        first, last, inode = starts[index], ends[index], inodes[index]
        if first == start and last == end:  # the common case
            del starts[index], ends[index], inodes[index]
            return Removed(index, start, end, inode, 0)
        left = [(a, b) for a, b in ((first, start), (end, last)) if a < b]
        self._replace(index, 1, left, inode)
        return Removed(index, first, last, inode, len(left))

    def restore(self, removed: Removed) -> None:
        """Undo a removal; of several the last one first."""
        assert 0 <= removed.left <= 2
        self._replace(removed.index, removed.left, [(removed.start, removed.end)], removed.inode)

    def _replace(self, index: int, count: int, runs: list[tuple[int, int]], inode: int) -> None:
        stop = index + count
        self.starts[index:stop] = [start for start, _ in runs]
        self.ends[index:stop] = [end for _, end in runs]
        self.inodes[index:stop] = [inode] * len(runs)
