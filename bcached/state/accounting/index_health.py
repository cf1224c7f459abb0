"""What in an index no look-up finds, though the data may be there still: counted, so that it can be told.

A key is an orphan if no volume has its inode. A dirty key is stale when the gen of a bucket it points into
has gone ahead of it: its data is lost when the bucket is used again, and may be there until then. A node has
vanished when its bucket's gen is ahead of the pointer to it, and nothing tells that it was replaced.

The opening counts, and each collection counts again; in between goes what is overwritten or dropped.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np

from bcached.format.bkey import KEY_DIRTY, KEY_SIZE
from bcached.keys import Key
from bcached.state.accounting.leaf_pointers import copies
from bcached.state.buckets.member_buckets import Cache
from bcached.state.index.extents import INODE_SHIFT
from bcached.state.index.node import Interior, Leaf

ORPHANS_MAX = 1024  # that are told one by one


@dataclass(slots=True)
class Orphan:
    """What stands under an inode that no volume has: keys that are live, or dirty."""

    keys: int = 0
    dirty_sectors: int = 0
    clean_sectors: int = 0


@dataclass(slots=True)
class Tally:
    """Counts of the leaves looked at so far, which come in their order."""

    stale_dirty_keys: int = 0
    stale_dirty_sectors: int = 0
    orphans: dict[int, Orphan] = field(default_factory=dict)
    others: Orphan = field(default_factory=Orphan)  # of all orphans beyond the first ORPHANS_MAX
    other_inodes: int = 0
    through: int = 0  # the bound of the last leaf, if more may go while they are counted
    _last_inode: int = -1

    @property
    def orphaned_inodes(self) -> int:
        """How many inodes without a volume there are keys under."""
        return len(self.orphans) + self.other_inodes

    @property
    def orphaned(self) -> Orphan:
        """All orphans together."""
        total = Orphan()
        for orphan in (*self.orphans.values(), self.others):
            total.keys += orphan.keys
            total.dirty_sectors += orphan.dirty_sectors
            total.clean_sectors += orphan.clean_sectors
        return total

    def add(self, leaf: Leaf, caches: Sequence[Cache], volumes: Container[int]) -> None:
        """Count a leaf."""
        total, good = copies(leaf, caches)
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

    def _orphan(self, inode: int) -> Orphan:
        if inode in self.orphans:
            return self.orphans[inode]
        if len(self.orphans) < ORPHANS_MAX:
            self.orphans[inode] = Orphan()
            return self.orphans[inode]
        self.other_inodes += inode != self._last_inode
        self._last_inode = inode
        return self.others

    def forget(self, inode: int) -> None:
        """Count an inode no more: there are no keys under it, or it is a volume's."""
        self.orphans.pop(inode, None)

    def stale_dirty_went(self, sectors: int, keys: int = 0) -> None:
        """Count so much less that is stale and dirty; parts of keys may be gone without one being gone."""
        self.stale_dirty_sectors = max(self.stale_dirty_sectors - sectors, 0)
        self.stale_dirty_keys = min(max(self.stale_dirty_keys - keys, 0), self.stale_dirty_sectors)


class IndexHealth:
    """The counts of an index that is in use.

    vanished: the nodes that tell of children which have vanished, and of how many.
    """

    def __init__(self, tally: Tally | None = None, vanished: Sequence[tuple[Interior, int]] = ()) -> None:
        self.tally = tally or Tally()
        self.dropped_keys = 0  # stale dirty ones, by collections
        self._following: Tally | None = None
        self._vanished = vanished

    @property
    def vanished_nodes(self) -> int:
        """How many nodes have vanished, as far as the device still tells."""
        return sum(count for interior, count in self._vanished if not interior.is_gone)

    def begin(self) -> Tally:
        """Begin to count anew, from the first leaf to the last."""
        self._following = Tally()
        return self._following

    def end(self) -> None:
        """Let what was counted anew take the place of the counts before, if it was counted to the end."""
        if self._following is not None:
            self.tally, self._following = self._following, None

    def break_off(self) -> None:
        """Keep the counts there are."""
        self._following = None

    def forget(self, inode: int) -> None:
        """Count an inode no more."""
        for tally in self._tallies(inode << INODE_SHIFT):
            tally.forget(inode)

    def stale_dirty_went(self, key: Key) -> None:
        """Take note that a part of a stale dirty key was overwritten or dropped."""
        for tally in self._tallies(key.inode << INODE_SHIFT | key.offset):
            tally.stale_dirty_went(key.sectors)

    def stale_dirty_dropped(self, key: Key) -> None:
        """Take note that a collection dropped one."""
        self.dropped_keys += 1
        for tally in self._tallies(key.inode << INODE_SHIFT | key.offset):
            tally.stale_dirty_went(key.sectors, 1)

    def _tallies(self, position: int) -> list[Tally]:
        """The counts that what stands at a position has gone into."""
        following = self._following
        if following is not None and position < following.through:
            return [self.tally, following]
        return [self.tally]


def names_data(leaf: Leaf, inode: int, caches: Sequence[Cache]) -> bool:
    """Whether a leaf has a key under an inode that is live, or dirty: there is data nothing else names."""
    if all(run.inode != inode for run in leaf.live.runs):
        return False
    _, good = copies(leaf, caches)
    first = 0
    for run in leaf.live.runs:
        chosen = slice(first, first + len(run))
        first += len(run)
        if run.inode == inode:
            dirty = KEY_DIRTY.of_column(np.array(run.heads, np.uint64)) != 0
            if bool((dirty | (good[chosen] > 0)).any()):
                return True
    return False
