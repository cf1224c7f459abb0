"""Looking keys up: the live keys of a range, from memory or read from the device."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from bcached.errors import NoSuchVolume
from bcached.keys import Key
from bcached.runtime.index_writer import as_device_failed
from bcached.runtime.shared import Shared
from bcached.state.index.extents import INODE_SHIFT
from bcached.state.index.node import Leaf
from bcached.state.index.tree import Missing
from bcached.state.sectors.reservations import Holder
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.store.btree.btree import Btree

LIMIT = 1000  # keys that a look-up returns unless fewer are requested
LEAVES_AT_ONCE = 128  # searched without an await if nearly empty: half a millisecond


class LookupResult(NamedTuple):
    """Keys in order, cut to the range; next is where to continue if the limit was reached before its end."""

    keys: list[Key]
    next: int | None


class Lookups:
    """Look-ups of keys, which may be cancelled at any await, and their counts."""

    def __init__(self, btree: Btree, sectors: SectorAllocator, shared: Shared) -> None:
        self.count = 0
        self.hits = 0
        self._btree = btree
        self._tree = btree.tree
        self._sectors = sectors
        self._shared = shared
        self._bucket_sectors = sectors.caches[0].geometry.bucket_sectors
        self._read_sectors = 0  # not counted as traffic yet

    def try_lookup(
        self,
        inode: int,
        offset: int,
        sectors: int,
        limit: int = LIMIT,
        pin: Holder | None = None,
        touch: bool = True,
        *,
        counts: bool = True,
    ) -> LookupResult | None:
        """Returns what is live in a range; None if a node has to be read first, or very many searched.

        counts: whether to count a look-up; false for a part of one, which is counted at its end.
        """
        allocator = self._sectors
        if inode not in allocator.inodes:
            raise NoSuchVolume(inode)
        end = offset + sectors
        found = self._keys(inode, offset, end, limit)
        if found is None:
            return None
        following = found[-1].end if len(found) == limit and found[-1].end < end else None
        keys = allocator.current(found, touch and pin is None)
        if counts:
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
        return LookupResult(keys, following)

    async def lookup(
        self,
        inode: int,
        offset: int,
        sectors: int,
        *,
        limit: int = LIMIT,
        pin: Holder | None = None,
        touch: bool = True,
    ) -> LookupResult:
        """Returns what is live in a range; ends early, with `next`, where a node is not in memory.

        It also ends early after LEAVES_AT_ONCE leaves, so that other tasks run.
        """
        if inode not in self._sectors.inodes:
            raise NoSuchVolume(inode)
        end = offset + sectors
        while True:
            leaf = await self._leaf_at(inode, offset)
            # As far as leaves are in memory, but at least this leaf.
            until = min(leaf.end_within(inode), end)
            for _ in range(LEAVES_AT_ONCE - 1):
                following = self._tree.find(inode, until) if until < end else None
                if not isinstance(following, Leaf):
                    break
                until = min(following.end_within(inode), end)
            found = self.try_lookup(inode, offset, until - offset, limit, pin, touch, counts=False)
            if found is None:
                continue
            if found.next is None and until < end and not found.keys:
                offset = until
                await asyncio.sleep(0)  # all of it may be in memory, so that no await suspends
                continue
            self.count += 1
            return found if found.next is not None or until == end else LookupResult(found.keys, until)

    def _keys(self, inode: int, start: int, end: int, limit: int) -> list[Key] | None:
        """Returns the keys of a range, stale or not; None as in `try_lookup`."""
        keys: list[Key] = []
        for _ in range(LEAVES_AT_ONCE):
            leaf = self._tree.find(inode, start)
            if isinstance(leaf, Missing):
                return None
            if not keys and inode << INODE_SHIFT | end <= leaf.bound:
                return leaf.live.lookup(inode, start, end, limit)
            keys += leaf.live.lookup(inode, start, end, limit - len(keys))
            start = leaf.end_within(inode)
            if start >= end or len(keys) == limit:
                return keys
        return None

    def unpin(self, holder: Holder, keys: Sequence[Key]) -> None:
        """End pinned reads."""
        self._sectors.unpin(holder, keys)
        self._shared.buckets_moved()

    def _count_reads(self) -> None:
        """Count traffic per bucket's worth, not per request: prios age in no smaller steps."""
        self._shared.traffic.count_found(self._read_sectors)
        self._read_sectors = 0

    async def _leaf_at(self, inode: int, sector: int) -> Leaf:
        with as_device_failed(self._shared):
            return await self._btree.leaf_at(inode, sector)
