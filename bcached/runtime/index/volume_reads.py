# SPDX-License-Identifier: GPL-2.0-only
"""How often each volume was looked up, and how much of that was found."""


class VolumeReads:
    """The counts of one volume since the start."""

    __slots__ = ("hit_sectors", "hits", "lookups", "sectors")

    def __init__(self) -> None:
        self.lookups = 0
        self.hits = 0  # look-ups that found a live key
        self.sectors = 0  # looked up
        self.hit_sectors = 0  # of live keys found

    def add(self, other: "VolumeReads") -> None:
        """Add the counts of another volume."""
        self.lookups += other.lookups
        self.hits += other.hits
        self.sectors += other.sectors
        self.hit_sectors += other.hit_sectors


class ReadsByVolume:
    """The counts by inode, made on demand; those of deleted volumes stay in the total."""

    def __init__(self) -> None:
        self.by_inode: dict[int, VolumeReads] = {}
        self._deleted = VolumeReads()

    def of(self, inode: int) -> VolumeReads:
        """Returns the counts of a volume."""
        return self.by_inode.setdefault(inode, VolumeReads())

    def forget(self, inode: int) -> None:
        """Remove a deleted volume."""
        self._deleted.add(self.by_inode.pop(inode, VolumeReads()))

    def total(self) -> VolumeReads:
        """Returns the sums over all volumes."""
        total = VolumeReads()
        for reads in (self._deleted, *self.by_inode.values()):
            total.add(reads)
        return total
