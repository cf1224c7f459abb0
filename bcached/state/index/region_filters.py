# SPDX-License-Identifier: GPL-2.0-only
"""The filters of the leaves that are not in memory, within a limit of bytes."""

from bcached.state.index.node import Leaf
from bcached.state.index.region_filter import RegionFilter


class RegionFilters:
    """The filters by the bound of their leaf."""

    def __init__(self) -> None:
        self.bytes = 0
        self.limit_bytes = 0
        self._by_bound: dict[int, RegionFilter] = {}

    def __repr__(self) -> str:
        return f"<RegionFilters of {len(self._by_bound)} leaves, {self.bytes} bytes>"

    def leaf_evicted(self, leaf: Leaf) -> None:
        """Have a filter of a leaf that is evicted: the last one if it has not changed since it was read."""
        if self.bytes < self.limit_bytes:
            blocks, made = leaf.filter_kept
            if made is None or not leaf.is_clean or blocks != leaf.blocks_used:
                made = RegionFilter(leaf.live)
            self._by_bound[leaf.bound] = made
            self.bytes += len(made)

    def leaf_loaded(self, leaf: Leaf) -> None:
        """Drop the filter of a leaf, which may be changed from now on; it is kept in case that it is not."""
        dropped = self._by_bound.pop(leaf.bound, None)
        if dropped is not None:
            self.bytes -= len(dropped)
            if leaf.is_clean:
                leaf.filter_kept = leaf.blocks_used, dropped

    def excludes(self, bound: int, inode: int, start: int, end: int) -> bool:
        """Whether a leaf had no key with a sector in a range when it was evicted, for certain."""
        found = self._by_bound.get(bound)
        return found is not None and found.excludes(inode, start, end)
