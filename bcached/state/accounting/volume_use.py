# SPDX-License-Identifier: GPL-2.0-only
"""How much live and dirty data each volume has on the devices, counting each copy.

Changes of keys are counted as they are made, so dirty data is exact; but what keys overwrite that wait for
their leaf (waiting_changes.py) counts until they are merged. Buckets are invalidated whole, without a
look at whose data they hold: so live data includes what was evicted since the last collection, which counts
all keys, as the opening does.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from bcached.keys import Key
from bcached.state.accounting.leaf_pointers import LeafPointers, leaf_pointers
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.index.keys.extents import INODE_SHIFT
from bcached.state.index.loaded_leaves import LoadedLeaves
from bcached.state.index.node import Leaf

Sums = defaultdict[int, int]


class VolumeUse:
    """The sums by inode; following are those of a collection that has not counted every leaf yet."""

    def __init__(self) -> None:
        self.live: Sums = defaultdict(int)
        self.dirty: Sums = defaultdict(int)
        self.following: VolumeUse | None = None
        self._through = 0  # of following: the bound of the last leaf counted

    def count(self, key: Key, sectors: int) -> None:
        """Count sectors of a key that was added to the index, or negative ones of a removed key."""
        inode = key.inode
        self.live[inode] += sectors
        if key.dirty:
            self.dirty[inode] += sectors
        if self.following is not None:
            self.count_following(key, sectors)

    def count_following(self, key: Key, sectors: int) -> None:
        """Count for the new count, too, if that has counted the key's leaf already."""
        if self.following is not None and key.inode << INODE_SHIFT | key.offset < self._through:
            self.following.count(key, sectors)

    def clear(self) -> None:
        """Reset all sums."""
        self.live.clear()
        self.dirty.clear()

    def forget(self, inode: int) -> None:
        """Remove a deleted volume, which has no keys."""
        for sums in (self, self.following):
            if sums is not None:
                sums.live.pop(inode, None)
                sums.dirty.pop(inode, None)

    # A new count of all leaves

    def begin(self) -> None:
        """Begin a new count, from the first leaf to the last; keys change meanwhile."""
        self.following, self._through = VolumeUse(), 0

    def count_part(self, part: LeafPointers) -> None:
        """Count the pointers of the next leaf into one member; then `counted`."""
        assert self.following is not None, "no count was begun"
        self.following.add_part(part)

    def counted(self, leaf: Leaf) -> None:
        """Record that all pointers of a leaf are counted."""
        self._through = leaf.bound

    def end(self) -> None:
        """Replace the sums by the new ones."""
        if self.following is not None:
            self.live, self.dirty, self.following = self.following.live, self.following.dirty, None

    def abort(self) -> None:
        """Abort the new count; the present sums stay."""
        self.following = None

    def add_leaves(self, leaves: Iterable[Leaf], members: Sequence[MemberBuckets]) -> None:
        """Add the data of leaves to the sums."""
        for part in leaf_pointers(leaves, members):
            self.add_part(part)

    def add_part(self, part: LeafPointers) -> None:
        """Add the data of pointers into one member to the sums."""
        rows, current = part.rows, part.is_current
        for sums, chosen in ((self.live, current), (self.dirty, current & rows.dirty)):
            if not chosen.any():
                continue
            first = int(rows.inodes[0])
            if (rows.inodes == first).all():
                sums[first] += int(rows.sectors[chosen].sum())
                continue
            inodes, positions = np.unique(rows.inodes[chosen], return_inverse=True)
            counts = np.bincount(positions, rows.sectors[chosen])
            for inode, count in zip(inodes.tolist(), counts.tolist(), strict=True):
                sums[inode] += int(count)


def volume_violations(
    leaves: LoadedLeaves, members: Sequence[MemberBuckets], use: VolumeUse
) -> Iterator[str]:
    """Yields where the counts by volume differ from all keys: all leaves are loaded."""
    found, keys = VolumeUse(), Counter[int]()
    found.add_leaves(leaves, members)
    for leaf in leaves:
        for run in leaf.live.runs:
            keys[run.inode] += len(run)
    for inode in {*keys, *use.dirty, *use.live, *leaves.key_counts}:
        counted = (leaves.key_counts.get(inode, 0), use.dirty.get(inode, 0))
        if counted != (keys[inode], found.dirty[inode]):
            yield (
                f"volume {inode} has {keys[inode]} keys and {found.dirty[inode]} dirty sectors, but "
                f"{counted[0]} and {counted[1]} are counted"
            )
        if use.live.get(inode, 0) < found.live[inode]:
            yield f"volume {inode} has {found.live[inode]} live sectors, but {use.live[inode]} are counted"
