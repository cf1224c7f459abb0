# SPDX-License-Identifier: MIT
"""Cuts the extents of objects from leased buckets."""

from bcached.keys import Key, Pointer

SMALL_SHARE = 8  # an object of at most a bucket's eighth is not divided: it begins in the next bucket


class Carver:
    """The space of the buckets that a connection holds, used from their beginnings on."""

    def __init__(self, bucket_sectors: int) -> None:
        self.bucket_sectors = bucket_sectors
        self._leases: list[Key] = []  # what is left of each, the one in use first
        self.unused: list[Key] = []  # ends too short for an object, to be released

    @property
    def sectors_left(self) -> int:
        """Returns how many sectors are leased and not used."""
        return sum(lease.sectors for lease in self._leases)

    def lacking(self, sectors: int) -> int:
        """Returns how many more buckets are to be leased before so many sectors can be cut."""
        skipped = self._leases[0].sectors if self._skips(sectors) else 0
        missing = sectors - self.sectors_left + skipped
        return max(0, -(-missing // self.bucket_sectors))

    def lease(self, bucket: Key) -> None:
        """Add a whole bucket."""
        assert bucket.sectors == self.bucket_sectors
        self._leases.append(bucket)

    def cut(self, inode: int, offset: int, sectors: int) -> list[Key]:
        """Returns the keys, clean, of an object at this offset of the volume."""
        assert not self.lacking(sectors), "more is cut than was leased"
        if self._skips(sectors):
            self.unused.append(self._leases.pop(0))
        keys = []
        while sectors:
            count = min(sectors, self._leases[0].sectors)
            keys.append(Key(inode, offset, count, False, self._first(count)))
            offset, sectors = offset + count, sectors - count
        return keys

    def take_unused(self) -> tuple[Key, ...]:
        """Returns what is to be released, once."""
        unused, self.unused = tuple(self.unused), []
        return unused

    def _skips(self, sectors: int) -> bool:
        """Whether the rest of the bucket in use is left unused, so that the object stays in one piece."""
        is_small = sectors <= self.bucket_sectors // SMALL_SHARE
        return is_small and bool(self._leases) and sectors > self._leases[0].sectors

    def _first(self, count: int) -> tuple[Pointer, ...]:
        """Take sectors of the first lease; returns where they are."""
        lease = self._leases[0]
        if count == lease.sectors:
            del self._leases[0]
        else:
            behind = tuple([Pointer(one.device, one.sector + count, one.gen) for one in lease.pointers])
            self._leases[0] = Key(lease.inode, lease.offset + count, lease.sectors - count, False, behind)
        return lease.pointers
