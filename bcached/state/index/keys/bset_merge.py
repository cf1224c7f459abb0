# SPDX-License-Identifier: GPL-2.0-only
"""A leaf's bsets merged in columns, the newest key wins: most keys overlap no other.

All that is unusual is left to the caller, to merge key by key: several pointers, a placeholder, and invalid
keys.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcached.format.bits import NumberColumn, WordColumn
from bcached.format.bkey import (
    CSUM_MASK,
    END_MAX,
    HEAD_WORDS,
    KEY_INODE,
    KEY_PTRS,
    KEY_SIZE,
    PTR_DEV,
    PTR_OFFSET,
    WORD_BYTES,
    Bounds,
)
from bcached.format.checksum import Buffer
from bcached.keys import INODE_MAX
from bcached.state.index.keys.extent_run import Run
from bcached.state.index.keys.extents import RUN_KEYS_MAX, Extents
from bcached.state.index.keys.interior_keys import Position
from bcached.state.index.keys.key_words import (
    COUNT_LIMIT,
    COUNT_SHIFT,
    MERGED_FIELDS,
    SIZE_LIMIT,
    SIZE_SHIFT,
    pointer_count,
)

RUN_KEYS = RUN_KEYS_MAX * 3 // 4  # leaves space in a run
WORDS_WITH_POINTER = HEAD_WORDS + 1


@dataclass(slots=True, eq=False)
class Columns:
    """Keys in the order of insertion, oldest first; the pointer of a key without one is 0."""

    heads: WordColumn
    ends: WordColumn  # in sectors
    pointers: WordColumn

    def where(self, chosen: NDArray[np.bool_] | NumberColumn) -> "Columns":
        """Returns the chosen keys."""
        return Columns(self.heads[chosen], self.ends[chosen], self.pointers[chosen])


def merge_bsets(
    bsets: Sequence[Buffer], low: Position, high: Position, bounds: Bounds, merge_within: int
) -> Extents | None:
    """Merge the keys of a leaf's bsets, oldest first, into its extents; None if a key is not plain."""
    laid_out = _all_alike(bsets) or _one_by_one(bsets)
    if laid_out is None:
        return None
    columns, ends_of_bsets = laid_out
    if not _is_in_order(columns, ends_of_bsets, low, high) or not _is_plain(columns, bounds):
        return None
    sizes = KEY_SIZE.of_column(columns.heads)
    if not sizes.all():
        columns = columns.where(sizes > 0)
    extents = Extents(merge_within=merge_within)
    extents.take_runs(merged_runs(columns, merge_within))
    return extents


def merged_runs(columns: Columns, merge_within: int) -> list[Run]:
    """Merge keys of at most one pointer, the newest last: later ones cut earlier ones."""
    runs: list[Run] = []
    for inode, part in by_inode(columns):
        apart = _apart(part)
        runs += runs_of(inode, joined_within(_settled(part), merge_within) if apart is None else apart)
    return runs


def _apart(columns: Columns) -> Columns | None:
    """Returns one inode's keys, of one pointer each, in order; None if any two touch."""
    order = np.argsort(columns.ends)
    found = columns.where(order)
    starts = found.ends - (found.heads >> np.uint64(KEY_SIZE.shift) & np.uint64(KEY_SIZE.limit))
    are_apart = bool((starts[1:] > found.ends[:-1]).all() and columns.pointers.all())
    return found if are_apart else None


def _all_alike(bsets: Sequence[Buffer]) -> tuple[Columns, NumberColumn] | None:
    """The keys of all bsets, and where each bset ends; None unless every key has one pointer."""
    sizes = [len(memoryview(bset)) for bset in bsets]
    if any(size % (WORDS_WITH_POINTER * WORD_BYTES) for size in sizes):
        return None
    words: WordColumn = np.frombuffer(b"".join(bsets), "<u8")
    # If the first key has one pointer, the second begins three words behind it, and so on.
    heads, ends, pointers = (np.ascontiguousarray(column) for column in words.reshape(-1, 3).T)
    if not bool(((heads & np.uint64(KEY_PTRS.mask)) == np.uint64(KEY_PTRS.put(0, 1))).all()):
        return None
    return Columns(heads, ends, pointers), np.cumsum(sizes) // (WORDS_WITH_POINTER * WORD_BYTES)


def _one_by_one(bsets: Sequence[Buffer]) -> tuple[Columns, NumberColumn] | None:
    """The keys of all bsets, and where each bset ends; None if the last key of a bset is cut off."""
    parts = []
    for bset in bsets:
        part = _columns_of(bset)
        if part is None:
            return None
        parts.append(part)
    columns = Columns(
        np.concatenate([part.heads for part in parts]),
        np.concatenate([part.ends for part in parts]),
        np.concatenate([part.pointers for part in parts]),
    )
    return columns, np.cumsum([len(part.heads) for part in parts])


def by_inode(columns: Columns) -> Iterator[tuple[int, Columns]]:
    """Yields the keys of each inode, in their order."""
    inodes = KEY_INODE.of_column(columns.heads)
    if len(inodes) and bool((inodes == inodes[0]).all()):
        yield int(inodes[0]), columns
        return
    for inode in np.unique(inodes).tolist():
        yield inode, columns.where(inodes == inode)


def _columns_of(bset: Buffer) -> Columns | None:
    """A bset's keys; None if the last one is cut off."""
    words: WordColumn = np.frombuffer(bset, "<u8")
    heads_at, index, all_words = [], 0, words.tolist()
    while index < len(all_words):
        heads_at.append(index)
        index += HEAD_WORDS + (all_words[index] >> COUNT_SHIFT & COUNT_LIMIT)
    if index != len(all_words):
        return None
    firsts = np.array(heads_at, np.int64)
    heads = words[firsts]
    has = KEY_PTRS.of_column(heads) > 0
    pointers = np.zeros(len(heads), np.uint64)
    pointers[has] = words[firsts[has] + HEAD_WORDS]
    return Columns(heads, words[firsts + 1], pointers)


def _is_in_order(columns: Columns, ends_of_bsets: NumberColumn, low: Position, high: Position) -> bool:
    """Whether the keys of each bset ascend, and all are inside the leaf's range."""
    count = len(columns.heads)
    inodes, ends = KEY_INODE.of_column(columns.heads), columns.ends.astype(np.int64)
    starts = ends - KEY_SIZE.of_column(columns.heads)
    ascend = (inodes[1:] > inodes[:-1]) | ((inodes[1:] == inodes[:-1]) & (starts[1:] >= ends[:-1]))
    ascend[ends_of_bsets[(ends_of_bsets > 0) & (ends_of_bsets < count)] - 1] = True  # next in another bset
    is_behind_low = (inodes > low[0]) | ((inodes == low[0]) & (starts >= low[1]))
    is_before_high = (inodes < high[0]) | ((inodes == high[0]) & (ends <= high[1]))
    return bool(ascend.all() and is_behind_low.all() and is_before_high.all())


def _is_plain(columns: Columns, bounds: Bounds) -> bool:
    """Whether each key has one valid pointer, or none."""
    heads = columns.heads
    counts, sizes = KEY_PTRS.of_column(heads), KEY_SIZE.of_column(heads)
    if (counts > 1).any() or (heads & np.uint64(CSUM_MASK)).any() or (columns.ends > END_MAX).any():
        return False
    if (columns.ends.astype(np.int64) < sizes).any():
        return False
    has = counts == 1
    devices, sectors = PTR_DEV.of_column(columns.pointers[has]), PTR_OFFSET.of_column(columns.pointers[has])
    if (devices >= len(bounds.bucket_counts)).any():
        return False
    buckets, within = np.divmod(sectors, bounds.bucket_sectors)
    return bool(
        (within + sizes[has] <= bounds.bucket_sectors).all()
        and (buckets >= bounds.first_bucket).all()
        and (buckets < np.array(bounds.bucket_counts)[devices]).all()
    )


def _settled(columns: Columns) -> Columns:
    """Merge one inode's keys: later ones cut earlier ones. Returns what remains, in order."""
    ends = columns.ends.astype(np.int64)
    starts = ends - KEY_SIZE.of_column(columns.heads)
    order = np.lexsort((ends, starts))  # of equal keys the older first
    same_as_next = (np.diff(starts[order]) == 0) & (np.diff(ends[order]) == 0)
    order = order[np.append(~same_as_next, True)]  # drop older keys of the same sectors
    starts, ends = starts[order], ends[order]
    reach = np.maximum.accumulate(ends)
    cluster = np.cumsum(np.append(True, starts[1:] >= reach[:-1]))  # keys that overlap each other
    is_alone = np.bincount(cluster)[cluster] == 1
    alone = columns.where(order[is_alone])
    alone = alone.where(KEY_PTRS.of_column(alone.heads) > 0)
    if bool(is_alone.all()):
        return alone
    return _merged(alone, _cut_by_each_other(columns.where(np.sort(order[~is_alone]))))


def _cut_by_each_other(columns: Columns) -> Columns:
    """Merge keys that overlap, one by one. Returns what remains, in order."""
    extents = Extents()
    for head, end, pointer in zip(
        columns.heads.tolist(), columns.ends.tolist(), columns.pointers.tolist(), strict=True
    ):
        start = end - (head >> SIZE_SHIFT & SIZE_LIMIT)
        extents.insert_row((head & INODE_MAX, start, end, head, (pointer,) if pointer_count(head) else ()))
    runs = extents.runs
    return Columns(
        np.concatenate([np.array(run.heads, np.uint64) for run in runs] or [columns.heads[:0]]),
        np.concatenate([np.array(run.ends, np.uint64) for run in runs] or [columns.ends[:0]]),
        np.concatenate([np.array(run.pointers[0], np.uint64) for run in runs] or [columns.pointers[:0]]),
    )


def _merged(left: Columns, right: Columns) -> Columns:
    ends = np.concatenate([left.ends, right.ends])
    both = Columns(
        np.concatenate([left.heads, right.heads]), ends, np.concatenate([left.pointers, right.pointers])
    )
    return both.where(np.argsort(ends))


def joined_within(columns: Columns, bucket_sectors: int) -> Columns:
    """Merge neighbours that are adjacent on the device, too (Run.extend)."""
    ends, sizes = columns.ends.astype(np.int64), KEY_SIZE.of_column(columns.heads)
    first_sectors = PTR_OFFSET.of_column(columns.pointers)
    joins = ends[:-1] + sizes[1:] == ends[1:]
    joins &= (columns.heads[:-1] ^ columns.heads[1:]) & np.uint64(MERGED_FIELDS) == 0
    joins &= columns.pointers[:-1] + PTR_OFFSET.to_column(sizes[:-1]) == columns.pointers[1:]
    joins &= first_sectors[1:] % bucket_sectors != 0
    if not joins.any():
        return columns
    firsts = np.flatnonzero(np.append(True, ~joins))
    lasts = np.append(firsts[1:], len(ends)) - 1
    more = np.add.reduceat(sizes, firsts) - sizes[firsts]
    heads = columns.heads[firsts] + KEY_SIZE.to_column(more)
    return Columns(heads, columns.ends[lasts], columns.pointers[firsts])


def runs_of(inode: int, columns: Columns) -> list[Run]:
    """Returns the keys of an inode, which are in order and have a pointer each, as runs."""
    runs = []
    for begin in range(0, len(columns.heads), RUN_KEYS):
        chosen = slice(begin, begin + RUN_KEYS)
        run = Run(inode)
        run.heads = array("Q", columns.heads[chosen].tobytes())
        run.ends = array("Q", columns.ends[chosen].tobytes())
        run.pointers = [array("Q", columns.pointers[chosen].tobytes())]
        run.word_count = len(run.ends) * WORDS_WITH_POINTER
        runs.append(run)
    return runs
