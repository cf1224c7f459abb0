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


class ReadsByVolume(dict[int, VolumeReads]):
    """The counts by inode, made on demand; those of deleted volumes stay in the total."""

    def __init__(self) -> None:
        super().__init__()
        self._deleted = VolumeReads()

    def __missing__(self, inode: int) -> VolumeReads:
        return self.setdefault(inode, VolumeReads())

    def forget(self, inode: int) -> None:
        """Remove a deleted volume."""
        self._deleted.add(self.pop(inode, VolumeReads()))

    def total(self) -> VolumeReads:
        """Returns the sums over all volumes."""
        total = VolumeReads()
        for reads in (self._deleted, *self.values()):
            total.add(reads)
        return total
