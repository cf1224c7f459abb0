# SPDX-License-Identifier: GPL-2.0-only
"""A rescue: the dirty data of one volume, counted by how far it can be trusted, and written to one device."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

from bcached.device.block_device import BlockDevice
from bcached.errors import SetRefused
from bcached.format.backing_superblock import BackingSuperblock, detached
from bcached.format.superblock import SUPERBLOCK_SECTOR
from bcached.store.rescue.dirty_extents import DirtyExtent, DirtyExtents, Totals, of_row
from bcached.store.rescue.owner_of import BackingFound, Owner, volume_sectors
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.set_left import SetLeft
from bcached.store.rescue.unreadable import Unreadable
from bcached.store.rescue.write_back import DirtyDataWriter, Progress, Written, refuse_outside
from bcached.units import SECTOR_BYTES


@dataclass(slots=True)
class Rescue:
    """What there is of one volume, and what was done with it."""

    extents: DirtyExtents
    owner: Owner
    most: Confidence  # the least confidence of what is written
    unreadable: Unreadable
    totals: Totals = field(default_factory=Totals)  # of what can be read, as far as it is known
    lost: Totals = field(default_factory=Totals)  # of what cannot; an extent may have a part in both
    done: Written = field(default_factory=Written)
    is_written: bool = False
    is_marked_clean: bool = False

    @property
    def left(self) -> SetLeft:
        """What was found of the set."""
        return self.extents.left

    def dirty(self) -> Iterator[DirtyExtent]:
        """Yields the volume's extents, less trusted if the volume itself is doubtful."""
        return map(self._as_trusted, self.extents.of_inode(self.owner.inode))

    def count(self) -> None:
        """Count all extents, those that are sure in columns."""
        for rows, others in self.extents.in_columns(self.owner.inode):
            lacking = self.unreadable.overlaps_rows(rows)
            self.totals.add_rows(rows.where(~lacking), self._least)
            of_rows = (extent for _, extent in map(of_row, rows.where(lacking)))
            for extent in map(self._as_trusted, chain(of_rows, others)):
                self._count_parts(extent)

    def _count_parts(self, extent: DirtyExtent) -> None:
        """Count the parts of an extent that can be read, as one, and those that cannot."""
        counted = {True: 0, False: 0}
        for part, is_readable in self.unreadable.split(extent):
            counted[is_readable] += part.sectors
        for is_readable, sectors in counted.items():
            if sectors:
                (self.totals if is_readable else self.lost).add(extent, sectors)

    @property
    def _least(self) -> Confidence:
        """What the best extents of the volume are."""
        return Confidence.NEWEST if self.owner.doubt else Confidence.SURE

    def _as_trusted(self, extent: DirtyExtent) -> DirtyExtent:
        return replace(extent, confidence=self._least) if extent.confidence < self._least else extent

    def chosen(self) -> Iterator[DirtyExtent]:
        """Yields the extents that are to be written."""
        return (extent for extent in self.dirty() if extent.confidence <= self.most)

    @property
    def unreadable_extents(self) -> int:
        """Extents that cannot be read, or only in part."""
        return self.done.unreadable_extents if self.is_written else self.lost.extents.total()

    @property
    def unreadable_sectors(self) -> int:
        """Sectors that cannot be read."""
        return self.done.unreadable_sectors if self.is_written else self.lost.sectors.total()

    @property
    def unwritten_sectors(self) -> int:
        """Sectors that were found, and not chosen or not readable."""
        left = sum(sectors for confidence, sectors in self.totals.sectors.items() if confidence > self.most)
        return left + self.unreadable_sectors

    @property
    def would_be_complete(self) -> bool:
        """Whether all dirty data of the volume that there can be is found, readable and chosen."""
        return not self.unwritten_sectors and self.left.doubts.index_is_whole

    @property
    def is_complete(self) -> bool:
        """Whether all of that was written and verified."""
        return self.is_written and self.done.is_verified and self.would_be_complete

    async def write(self, target: BlockDevice, first_sector: int, progress: Progress) -> None:
        """Write the chosen extents to the target, from its first data sector on, and verify them."""
        self.refuse_outside(target, first_sector)
        devices = [member.block_device for member in self.left.members]
        run = DirtyDataWriter(devices, self.unreadable, target, progress, self.done)
        await run.run(self.chosen())
        self.is_written = True

    def refuse_outside(self, target: BlockDevice, first_sector: int) -> None:
        """Refuse chosen extents that are not in the target's data, once all are counted."""
        end = target.size_bytes // SECTOR_BYTES
        if any(found.start < first_sector or found.end > end for found in (self.totals, self.lost)):
            refuse_outside(target, first_sector, self.chosen())

    async def mark_clean(self, target: BlockDevice, backing: BackingFound) -> None:
        """Make the backing device one without a cache, as the kernel's detaching does."""
        if not self.is_complete:
            raise SetRefused(f"{target.path}: not marked clean: not all of its dirty data was written")
        byte = SUPERBLOCK_SECTOR * SECTOR_BYTES
        await target.write(byte, detached(backing.raw), durable=True)
        self.is_marked_clean = True


def first_data_sector(backing: BackingSuperblock) -> int:
    """Returns where a backing device's data begins: its keys count from the device's start."""
    return max(backing.data_sector, SUPERBLOCK_SECTOR * 2)


def volume_end(rescue: Rescue) -> int:
    """Returns the sectors of a volume's image: its size, or where its dirty data ends; 0 if it has none."""
    return max(volume_sectors(rescue.left, rescue.owner.inode), rescue.totals.end, rescue.lost.end)
