# SPDX-License-Identifier: GPL-2.0-only
"""Ranges of a backing device's sectors: which of those that are wanted are not in the cache yet."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from bcached.state.accounting.check_counts import Census
from bcached.state.index.keys.key_rows import Rows
from bcached.store.check.checker import CheckedSet


class Range(NamedTuple):
    """Sectors from first up to end."""

    first: int
    end: int

    @property
    def sectors(self) -> int:
        """How many."""
        return self.end - self.first


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Returns the ranges in order, those that touch or overlap as one."""
    found: list[Range] = []
    for each in sorted(ranges):
        if found and each.first <= found[-1].end:
            found[-1] = Range(found[-1].first, max(found[-1].end, each.end))
        elif each.sectors > 0:
            found.append(each)
    return found


def gaps(wanted: Iterable[Range], cached: Iterable[Range], block_sectors: int) -> Iterator[Range]:
    """Yields what is wanted and not cached, in whole blocks; both are in order and do not overlap.

    Of a block that is cached in part nothing is wanted: what is cached of it may be newer.
    """
    following = iter(cached)
    ahead = next(following, None)
    for want in wanted:
        first = want.first
        while ahead is not None and ahead.end <= first:
            ahead = next(following, None)
        while ahead is not None and ahead.first < want.end:
            yield from _blocks(first, ahead.first, block_sectors)
            first = max(first, ahead.end)
            if ahead.end > want.end:
                break
            ahead = next(following, None)
        yield from _blocks(first, want.end, block_sectors)


def _blocks(first: int, end: int, block_sectors: int) -> Iterator[Range]:
    inner = Range(-(-first // block_sectors) * block_sectors, end // block_sectors * block_sectors)
    if inner.sectors > 0:
        yield inner


def cached_ranges(checked: CheckedSet, inode: int) -> Iterator[Range]:
    """Yields the live extents of a volume, in order."""
    if checked.tree is None:
        return
    for rows in checked.tree.rows.chunks():
        mine = rows.where((rows.inodes == inode) & (rows.sectors > 0))
        for device, census in enumerate(checked.censuses):
            mine = _without_stale(mine, device, census)
        for end, sectors in zip(mine.ends.tolist(), mine.sectors.tolist(), strict=True):
            yield Range(end - sectors, end)


def _without_stale(rows: Rows, device: int, census: Census) -> Rows:
    here = rows.devices == device
    stale = np.zeros(len(rows), bool)
    buckets = census.geometry.buckets_of(rows.first_sectors[here])
    stale[here] = census.gens[buckets] != rows.gens[here]
    return rows.where(~stale)
