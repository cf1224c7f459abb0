# SPDX-License-Identifier: GPL-2.0-only
"""The pointers of leaves' keys, in columns: into which buckets of which member, and how stale."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcached.format.bits import NumberColumn
from bcached.state.buckets.gens import Gens, behind_each
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.index.keys.key_rows import KeyRows, Rows
from bcached.state.index.node import Leaf

Counts = tuple[NumberColumn, NumberColumn]


@dataclass(frozen=True, slots=True, eq=False)
class LeafPointers:
    """Pointers into one member, a row each."""

    device: int
    rows: Rows
    buckets: NumberColumn
    is_current: NDArray[np.bool_]  # with its bucket's present gen
    behind: Gens  # by how many gens; 0 also for one that is ahead


def leaf_pointers(leaves: Iterable[Leaf], members: Sequence[MemberBuckets]) -> Iterator[LeafPointers]:
    """Yields all pointers of the leaves; keys are numbered in order through all leaves."""
    keys = KeyRows()
    for leaf in leaves:
        keys.add(leaf.live)
    for chunk in keys.chunks():
        for device, member in enumerate(members):
            rows = chunk if len(members) == 1 else chunk.where(chunk.devices == device)
            buckets = member.geometry.buckets_of(rows.first_sectors)
            gens = member.table.gens_array[buckets]
            is_current = gens == rows.gens
            yield LeafPointers(device, rows, buckets, is_current, behind_each(rows.gens, gens))


def live_counts(leaves: Iterable[Leaf], members: Sequence[MemberBuckets]) -> list[Counts]:
    """Live and dirty sectors of each bucket, counted from the keys of leaves, by member."""
    sizes = [member.geometry.bucket_count for member in members]
    counts = [(np.zeros(size, np.int64), np.zeros(size, np.int64)) for size in sizes]
    for part in leaf_pointers(leaves, members):
        live, dirty = part.is_current, part.is_current & part.rows.dirty
        for column, chosen in zip(counts[part.device], (live, dirty), strict=True):
            np.add.at(column, part.buckets[chosen], part.rows.sectors[chosen])
    return counts


def dirty_sectors(leaf: Leaf, inode: int) -> int:
    """The dirty sectors of a volume in a leaf, counting each key once for all its copies."""
    keys = KeyRows()
    keys.add(leaf.live)
    count = 0
    for chunk in keys.chunks():
        rows = chunk.where(chunk.dirty & (chunk.inodes == inode))
        _, firsts = np.unique(rows.keys, return_index=True)
        count += int(rows.sectors[firsts].sum())
    return count


def copies(leaf: Leaf, members: Sequence[MemberBuckets]) -> Counts:
    """How many copies each key of a leaf has, and how many of them are not stale."""
    total, good = np.zeros(leaf.live.key_count, np.int64), np.zeros(leaf.live.key_count, np.int64)
    for part in leaf_pointers([leaf], members):
        np.add.at(total, part.rows.keys, 1)
        np.add.at(good, part.rows.keys[part.is_current], 1)
    return total, good
