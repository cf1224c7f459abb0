# SPDX-License-Identifier: GPL-2.0-only
"""A set of sectors of volumes, as ranges that do not touch."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from bcached.state.index.keys.key_ranges import Span


class SpanSet:
    """Ranges, united: sorted by inode and first sector, none of them empty."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self.spans: list[Span] = []
        self.has_overlaps = False  # whether any two of the given ranges had a sector in common
        for inode, start, end in sorted(spans):
            last = self.spans[-1] if self.spans else (-1, 0, 0)
            if inode != last[0] or start > last[2]:
                self.spans.append((inode, start, end))
                continue
            self.has_overlaps |= start < last[2]
            self.spans[-1] = (inode, last[1], max(end, last[2]))

    def touches(self, inode: int, start: int, end: int) -> bool:
        """Whether any sector of a range is in the set."""
        return next(self._within(inode, start, end), None) is not None

    def gaps(self, inode: int, start: int, end: int) -> Iterator[Span]:
        """Yields the parts of a range that are not in the set, in order."""
        for _, first, behind in self._within(inode, start, end):
            if start < first:
                yield inode, start, first
            start = max(start, behind)
        if start < end:
            yield inode, start, end

    def _within(self, inode: int, start: int, end: int) -> Iterator[Span]:
        """Yields the ranges of the set that have sectors in common with a range."""
        number = max(bisect_right(self.spans, (inode, start, start)) - 1, 0)
        while number < len(self.spans) and self.spans[number] < (inode, end, 0):
            if self.spans[number][0] == inode and self.spans[number][2] > start:
                yield self.spans[number]
            number += 1
