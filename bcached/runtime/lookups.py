"""Looking keys up: what is live in a range, of what is in memory or can be read."""

from collections.abc import Sequence
from typing import NamedTuple

from bcached.errors import NoSuchVolume
from bcached.keys import Key
from bcached.runtime.key_changes import as_device_failed
from bcached.runtime.services import Services
from bcached.state.btree import Missing
from bcached.state.btree_node import Leaf
from bcached.state.reservations import Holder
from bcached.state.sector_allocator import SectorAllocator
from bcached.store.btree import Btree

LIMIT = 1000  # keys a look-up gives unless it is asked for fewer


class Found(NamedTuple):
    """Keys in order, cut to the range; next is where to go on if the limit was reached before its end."""

    keys: list[Key]
    next: int | None


class Lookups:
    """What can be asked of the keys. All of it may be cancelled at any await."""

    def __init__(self, btree: Btree, sectors: SectorAllocator, services: Services) -> None:
        self.count = 0
        self.hits = 0
        self._btree = btree
        self._tree = btree.tree
        self._sectors = sectors
        self._services = services
        self._bucket_sectors = sectors.caches[0].geometry.bucket_sectors
        self._read_sectors = 0  # that are not counted as traffic yet

    def try_lookup(
        self,
        inode: int,
        offset: int,
        sectors: int,
        limit: int = LIMIT,
        pin: Holder | None = None,
        touch: bool = True,
    ) -> Found | None:
        """What is live in a range, now; None if a node has to be read first."""
        allocator = self._sectors
        if inode not in allocator.inodes:
            raise NoSuchVolume(inode)
        end = offset + sectors
        found = self._tree.lookup(inode, offset, end, limit)
        if isinstance(found, Missing):
            return None
        following = found[-1].end if len(found) == limit and found[-1].end < end else None
        keys = allocator.current(found, touch and pin is None)
        self.count += 1
        if keys:
            if pin is not None:
                allocator.pin(pin, keys)
                if touch:
                    allocator.touch(keys)
            self.hits += 1
            if touch:
                for key in keys:
                    self._read_sectors += key.sectors
                if self._read_sectors >= self._bucket_sectors:
                    self._count_reads()
        return Found(keys, following)

    async def lookup(
        self,
        inode: int,
        offset: int,
        sectors: int,
        *,
        limit: int = LIMIT,
        pin: Holder | None = None,
        touch: bool = True,
    ) -> Found:
        """What is live in a range; it ends early, with `next`, where a node is not in memory."""
        if inode not in self._sectors.inodes:
            raise NoSuchVolume(inode)
        end = offset + sectors
        while True:
            leaf = await self._leaf_at(inode, offset)
            # As far as is in memory, but at least this leaf.
            until = min(leaf.end_within(inode), end)
            while until < end:
                following = self._tree.find(inode, until)
                if isinstance(following, Missing):
                    break
                until = min(following.end_within(inode), end)
            found = self.try_lookup(inode, offset, until - offset, limit=limit, pin=pin, touch=touch)
            if found is None:
                continue
            if found.next is None and until < end:
                if found.keys:
                    return Found(found.keys, until)
                offset = until
                continue
            return found

    def unpin(self, holder: Holder, keys: Sequence[Key]) -> None:
        """End reads that were pinned."""
        self._sectors.unpin(holder, keys)
        self._services.buckets_moved()

    def _count_reads(self) -> None:
        """Count traffic with every bucket's worth, not every request: prios age in no smaller steps."""
        self._services.count_reads(self._read_sectors)
        self._read_sectors = 0

    async def _leaf_at(self, inode: int, sector: int) -> Leaf:
        with as_device_failed():
            return await self._btree.leaf_at(inode, sector)
