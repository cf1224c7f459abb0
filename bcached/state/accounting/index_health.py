# SPDX-License-Identifier: GPL-2.0-only
"""Counts of what no look-up finds in an index, though the data may still exist, to be reported.

A key is an orphan if no volume has its inode. A dirty key is stale if the gen of a bucket it points into is
ahead of it: its data is lost when the bucket is used again, and may exist until then. A node has vanished if
its bucket's gen is ahead of the pointer to it, and no key shows that it was replaced.

The opening counts, and each collection counts again; in between, what is overwritten or dropped is deducted.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np

from bcached.format.bkey import KEY_DIRTY, KEY_SIZE
from bcached.keys import Key
from bcached.state.accounting.leaf_pointers import copies
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.index.keys.extents import INODE_SHIFT
from bcached.state.index.node import Interior, Leaf

ORPHANS_MAX = 1024  # counted by inode


@dataclass(slots=True)
class OrphanedKeys:
    """Counts of the keys of an inode without a volume, as far as live or dirty."""

    keys: int = 0
    dirty_sectors: int = 0
    clean_sectors: int = 0


@dataclass(slots=True)
class Tally:
    """Counts of the leaves read so far, in their order."""

    stale_dirty_keys: int = 0
    stale_dirty_sectors: int = 0
    orphans: dict[int, OrphanedKeys] = field(default_factory=dict)
    others: OrphanedKeys = field(default_factory=OrphanedKeys)  # all orphans beyond the first ORPHANS_MAX
    other_inodes: int = 0  # how many inodes those have
    through: int = 0  # the bound of the last leaf counted, if keys may be removed meanwhile
    _last_inode: int = -1

    @property
    def orphaned_inodes(self) -> int:
        """How many inodes without a volume have keys."""
        return len(self.orphans) + self.other_inodes

    @property
    def orphaned(self) -> OrphanedKeys:
        """The sum of all orphans."""
        total = OrphanedKeys()
        for orphan in (*self.orphans.values(), self.others):
            total.keys += orphan.keys
            total.dirty_sectors += orphan.dirty_sectors
            total.clean_sectors += orphan.clean_sectors
        return total

    def add(self, leaf: Leaf, members: Sequence[MemberBuckets], volumes: Container[int]) -> None:
        """Count a leaf."""
        total, good = copies(leaf, members)
        first = 0
        for run in leaf.live.runs:
            chosen = slice(first, first + len(run))
            first += len(run)
            heads = np.array(run.heads, np.uint64)
            dirty, sectors = KEY_DIRTY.of_column(heads) != 0, KEY_SIZE.of_column(heads)
            stale = dirty & (good[chosen] < total[chosen])
            self.stale_dirty_keys += int(np.count_nonzero(stale))
            self.stale_dirty_sectors += int(sectors[stale].sum())
            if run.inode not in volumes:
                held = dirty | (good[chosen] > 0)
                if held.any():
                    orphan = self._orphan(run.inode)
                    orphan.keys += int(np.count_nonzero(held))
                    orphan.dirty_sectors += int(sectors[dirty].sum())
                    orphan.clean_sectors += int(sectors[held & ~dirty].sum())

    def _orphan(self, inode: int) -> OrphanedKeys:
        if inode in self.orphans:
            return self.orphans[inode]
        if len(self.orphans) < ORPHANS_MAX:
            self.orphans[inode] = OrphanedKeys()
            return self.orphans[inode]
        self.other_inodes += inode != self._last_inode
        self._last_inode = inode
        return self.others

    def forget(self, inode: int) -> None:
        """Remove an inode from the counts: it has no keys any more, or it is a volume's."""
        self.orphans.pop(inode, None)

    def stale_dirty_removed(self, sectors: int, keys: int = 0) -> None:
        """Deduct stale dirty sectors and keys; sectors only, if a part of a key was removed."""
        self.stale_dirty_sectors = max(self.stale_dirty_sectors - sectors, 0)
        self.stale_dirty_keys = min(max(self.stale_dirty_keys - keys, 0), self.stale_dirty_sectors)


class IndexHealth:
    """The counts of an index that is in use.

    vanished: the interior nodes with vanished children, and how many each has.
    """

    def __init__(self, tally: Tally | None = None, vanished: Sequence[tuple[Interior, int]] = ()) -> None:
        self.tally = tally or Tally()
        self.dropped_keys = 0  # stale dirty ones, by collections
        self._following: Tally | None = None
        self._vanished = vanished

    @property
    def vanished_nodes(self) -> int:
        """How many nodes have vanished, by the interior nodes that still exist."""
        return sum(count for interior, count in self._vanished if not interior.is_detached)

    def begin(self) -> Tally:
        """Start a new count, from the first leaf to the last. Returns its tally."""
        self._following = Tally()
        return self._following

    def end(self) -> None:
        """Replace the counts by the new ones, unless the new count was aborted."""
        if self._following is not None:
            self.tally, self._following = self._following, None

    def abort(self) -> None:
        """Abort the new count; the present counts stay."""
        self._following = None

    def forget(self, inode: int) -> None:
        """Remove an inode from the counts."""
        for tally in self._tallies(inode << INODE_SHIFT):
            tally.forget(inode)

    def stale_dirty_removed(self, key: Key) -> None:
        """Deduct a part of a stale dirty key that was overwritten or dropped."""
        for tally in self._tallies(key.inode << INODE_SHIFT | key.offset):
            tally.stale_dirty_removed(key.sectors)

    def stale_dirty_dropped(self, key: Key) -> None:
        """Deduct a stale dirty key that a collection dropped."""
        self.dropped_keys += 1
        for tally in self._tallies(key.inode << INODE_SHIFT | key.offset):
            tally.stale_dirty_removed(key.sectors, 1)

    def _tallies(self, position: int) -> list[Tally]:
        """The tallies that include the keys at a position."""
        following = self._following
        if following is not None and position < following.through:
            return [self.tally, following]
        return [self.tally]


def names_data(leaf: Leaf, inode: int, members: Sequence[MemberBuckets]) -> bool:
    """Whether a leaf has a live or dirty key of an inode: data that no other key references."""
    if all(run.inode != inode for run in leaf.live.runs):
        return False
    _, good = copies(leaf, members)
    first = 0
    for run in leaf.live.runs:
        chosen = slice(first, first + len(run))
        first += len(run)
        if run.inode == inode:
            dirty = KEY_DIRTY.of_column(np.array(run.heads, np.uint64)) != 0
            if bool((dirty | (good[chosen] > 0)).any()):
                return True
    return False
