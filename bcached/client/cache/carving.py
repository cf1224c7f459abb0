# SPDX-License-Identifier: MIT
"""Cuts the extents of objects from leased buckets."""

import mmap
from collections import deque

from bcached.keys import Key, Pointer
from bcached.units import SECTOR_BYTES

PAGE_SECTORS = mmap.PAGESIZE // SECTOR_BYTES
SMALL_SHARE = 8  # an object of at most a bucket's eighth is not divided: it begins in the next bucket


class _Lease:
    """What is left of a leased bucket."""

    __slots__ = ("pointers", "sectors")

    def __init__(self, bucket: Key) -> None:
        self.pointers = bucket.pointers  # of its first sector that is left
        self.sectors = bucket.sectors

    def first(self, count: int) -> tuple[Pointer, ...]:
        """Take sectors; returns where they are."""
        pointers, self.sectors = self.pointers, self.sectors - count
        self.pointers = tuple([Pointer(one.device, one.sector + count, one.gen) for one in pointers])
        return pointers


class Carver:
    """The space of the buckets that a connection holds, used from their beginnings on."""

    def __init__(self, bucket_sectors: int) -> None:
        self.bucket_sectors = bucket_sectors
        self.sectors_left = 0  # leased and not used
        self._small = bucket_sectors // SMALL_SHARE
        self._leases: deque[_Lease] = deque()  # the one in use first
        self.unused: list[Key] = []  # ends too short for an object, to be released

    def lease(self, bucket: Key) -> None:
        """Add a whole bucket."""
        assert bucket.sectors == self.bucket_sectors
        self._leases.append(_Lease(bucket))
        self.sectors_left += bucket.sectors

    @property
    def sectors_at_once(self) -> int:
        """Returns how many sectors can be cut in one piece, from what is left of the bucket in use."""
        return self._leases[0].sectors if self._leases else 0

    def needs_lease(self, sectors: int) -> bool:
        """Whether a bucket is to be leased before anything can be cut for so many sectors."""
        leases = self._leases
        return not leases or (len(leases) == 1 and leases[0].sectors < sectors <= self._small)

    def cut(self, inode: int, offset: int, sectors: int) -> Key:
        """Returns a clean key at this offset of the volume, of so many sectors or what a bucket has left."""
        assert not self.needs_lease(sectors), "more is cut than was leased"
        if self._leases[0].sectors < sectors <= self._small:
            self._skip()
        lease = self._leases[0]
        count = min(sectors, lease.sectors)
        key = Key(inode, offset, count, False, lease.first(count))
        if not lease.sectors:
            self._leases.popleft()
        self.sectors_left -= count
        return key

    def begin_page(self) -> None:
        """Leave the rest of the page in use unused.

        The page cache writes whole pages: a later object in it would have the earlier ones, which are durable
        then, written again in place, and a power cut may garble what is being written.
        """
        if not self._leases:
            return
        lease = self._leases[0]
        used = lease.pointers[0].sector % PAGE_SECTORS
        if not used:
            return
        count = min(PAGE_SECTORS - used, lease.sectors)
        self.sectors_left -= count
        self.unused.append(Key(0, 0, count, False, lease.first(count)))
        if not lease.sectors:
            self._leases.popleft()

    def take_unused(self) -> tuple[Key, ...]:
        """Returns what is to be released, once."""
        unused, self.unused = tuple(self.unused), []
        return unused

    def take_all(self) -> tuple[Key, ...]:
        """Returns all that was leased and is not used, to be released."""
        while self._leases:
            self._skip()
        return self.take_unused()

    def _skip(self) -> None:
        """Leave the rest of the bucket in use unused, so that a small object stays in one piece."""
        lease = self._leases.popleft()
        self.sectors_left -= lease.sectors
        self.unused.append(Key(0, 0, lease.sectors, False, lease.pointers))
