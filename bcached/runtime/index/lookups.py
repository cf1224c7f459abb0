# SPDX-License-Identifier: GPL-2.0-only
"""Looking keys up: the live keys of a range, from memory or read from the device."""

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from bcached.errors import NoSuchVolume
from bcached.keys import Key
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.index.index_writer import as_device_failed
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

    def __init__(self, nodes: NodeCache, sectors: SectorAllocator, shared: Shared) -> None:
        self.count = 0  # look-ups
        self.hits = 0  # look-ups that found a live key
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
        self.count += 1
        following = found[-1].end if len(found) == limit and found[-1].end < end else None
        return LookupResult(self._live(found, request), following)

    async def lookup(self, request: LookupRequest) -> LookupResult:
        """Returns what is live in a range; ends early, with `next`, where a node is not in memory.

        It also ends early after LEAVES_AT_ONCE leaves, so that other tasks run. Raises NoSuchVolume.
        """
        inode, offset, limit = request.inode, request.offset, request.limit
        if inode not in self._sectors.inodes:
            raise NoSuchVolume(inode)
        end = offset + request.sectors
        while True:
            with as_device_failed(self._shared):
                await self._nodes.leaf_at(inode, offset)
            if inode not in self._sectors.inodes:  # deleted meanwhile
                raise NoSuchVolume(inode)
            found, until = self._tree.scan(inode, offset, end, limit, LEAVES_AT_ONCE)
            keys = self._live(found, request)
            # 1. The last leaf holds more keys than the limit: the caller continues behind the last key.
            if len(found) == limit and found[-1].end < until:
                until = found[-1].end
            # 2. All leaves searched hold nothing live: go on behind them.
            elif until < end and not keys:
                offset = until
                await asyncio.sleep(0)  # all of it may be in memory, so that no await suspends
                continue
            # 3. Otherwise the caller continues where the search ended, if that is before the end.
            self.count += 1
            return LookupResult(keys, until if until < end else None)

    def _live(self, found: list[Key], request: LookupRequest) -> list[Key]:
        """Returns the found keys that are not stale, pinned and counted as read if the request says so."""
        allocator, pin, touch = self._sectors, request.pin, request.touch
        keys = allocator.validity.current(found, touch and pin is None)
        if keys:
            if pin is not None:
                allocator.readers.pin(pin, keys)
                if touch:
                    allocator.validity.touch(keys)
            self.hits += 1
            if touch:
                for key in keys:
                    self._read_sectors += key.sectors
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
