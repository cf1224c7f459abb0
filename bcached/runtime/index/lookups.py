# SPDX-License-Identifier: GPL-2.0-only
"""Looking keys up: the live keys of a range, from memory or read from the device."""

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from bcached.errors import NoSuchVolume
from bcached.keys import Key
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.index.index_writer import as_device_failed
from bcached.runtime.index.published_places import PublishedPlaces
from bcached.runtime.index.volume_reads import ReadsByVolume, VolumeReads
from bcached.state.sectors.reservations import Holder
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.store.btree.node_cache import NodeCache

LIMIT = 1000  # keys that a look-up returns unless fewer are requested
LEAVES_AT_ONCE = 128  # searched without an await if nearly empty: half a millisecond


class LookupRequest(Struct, frozen=True, gc=False):
    """A range of a volume to look up: at most `limit` keys, pinned for the holder if there is one.

    touch: whether the keys count as read, which keeps their buckets from being invalidated.
    """

    inode: int
    offset: int
    sectors: int
    limit: int = LIMIT
    pin: Holder | None = None
    touch: bool = True


class LookupResult(Struct, frozen=True, gc=False):
    """Keys in order, cut to the range; next is where to continue if the limit was reached before its end."""

    keys: list[Key]
    next: int | None


class Lookups:
    """Look-ups of keys, which may be cancelled at any await, and their counts."""

    def __init__(
        self,
        nodes: NodeCache,
        sectors: SectorAllocator,
        reads: ReadsByVolume,
        places: PublishedPlaces,
        shared: Shared,
    ) -> None:
        self._places = places
        self._region_sectors = places.region_sectors
        self._reads = reads
        self._reads_of = reads.by_inode
        self._nodes = nodes
        self._tree = nodes.tree
        self._sectors = sectors
        self._shared = shared
        self._bucket_sectors = sectors.members[0].geometry.bucket_sectors
        self._read_sectors = 0  # sectors found and not yet counted as traffic

    def try_lookup(self, request: LookupRequest) -> LookupResult | None:
        """Returns what is live in a range; None if a node has to be read first, or very many searched.

        Raises NoSuchVolume.
        """
        inode, offset, limit = request.inode, request.offset, request.limit
        if inode not in self._sectors.inodes:
            raise NoSuchVolume(inode)
        end = offset + request.sectors
        found, until = self._tree.scan(inode, offset, end, limit, LEAVES_AT_ONCE)
        if until < end and len(found) < limit:
            return None
        following = found[-1].end if len(found) == limit and found[-1].end < end else None
        reads = self._reads_of.get(inode) or self._reads.of(inode)
        reads.lookups += 1
        reads.sectors += request.sectors if following is None else following - offset
        keys = self._live(found, request, reads)
        if len(keys) == 1 and request.sectors == self._region_sectors and following is None:
            self._places.found(offset, keys[0])
        return LookupResult(keys, following)

    async def lookup(self, request: LookupRequest) -> LookupResult:
        """Returns what is live in a range; ends early, with `next`, where a node is not in memory.

        It also ends early after LEAVES_AT_ONCE leaves, so that other tasks run. Raises NoSuchVolume.
        """
        inode, offset, limit = request.inode, request.offset, request.limit
        if inode not in self._sectors.inodes:
            raise NoSuchVolume(inode)
        end, first = offset + request.sectors, offset
        while True:
            with as_device_failed(self._shared):
                await self._nodes.leaf_at(inode, offset)
            if inode not in self._sectors.inodes:  # deleted meanwhile
                raise NoSuchVolume(inode)
            found, until = self._tree.scan(inode, offset, end, limit, LEAVES_AT_ONCE)
            reads = self._reads.of(inode)
            keys = self._live(found, request, reads)
            # 1. The last leaf holds more keys than the limit: the caller continues behind the last key.
            if len(found) == limit and found[-1].end < until:
                until = found[-1].end
            # 2. All leaves searched hold nothing live: go on behind them.
            elif until < end and not keys:
                offset = until
                await asyncio.sleep(0)  # all of it may be in memory, so that no await suspends
                continue
            # 3. Otherwise the caller continues where the search ended, if that is before the end.
            reads.lookups += 1
            reads.sectors += until - first
            return LookupResult(keys, until if until < end else None)

    def _live(self, found: list[Key], request: LookupRequest, reads: VolumeReads) -> list[Key]:
        """Returns the found keys that are not stale, pinned and counted as read if the request says so."""
        allocator, pin, touch = self._sectors, request.pin, request.touch
        keys = allocator.validity.current(found, touch and pin is None)
        if keys:
            if pin is not None:
                allocator.readers.pin(pin, keys)
                if touch:
                    allocator.validity.touch(keys)
            sectors = keys[0].sectors
            for key in keys[1:] if len(keys) > 1 else ():
                sectors += key.sectors
            reads.hits += 1
            reads.hit_sectors += sectors
            if touch:
                self._read_sectors += sectors
                if self._read_sectors >= self._bucket_sectors:
                    self._count_reads()
        return keys

    def unpin(self, holder: Holder, keys: Sequence[Key]) -> None:
        """End pinned reads."""
        self._sectors.readers.unpin(holder, keys)
        self._shared.buckets_moved()

    def _count_reads(self) -> None:
        """Count traffic per bucket's worth, not per request: prios age in no smaller steps."""
        self._shared.traffic.count_found(self._read_sectors)
        self._read_sectors = 0
