# SPDX-License-Identifier: GPL-2.0-only
"""Which keys a new index is made of: those that are sure, or the newest found as well if the owner says so.

Clean data is dropped where it might not be what its key names: it can be read from elsewhere, and a wrong
sector in the cache would hide the right one below it.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bcached.format.bkey import CHECK_DEVICE
from bcached.keys import Key, Pointer
from bcached.state.index.extents import Extents
from bcached.state.index.key_rows import KeyRows
from bcached.store.rescue.dirty_extents import DirtyExtent, DirtyExtents
from bcached.store.rescue.doubts import Confidence
from bcached.store.rescue.missing_members import is_missing
from bcached.store.rescue.set_left import SetLeft


@dataclass(slots=True)
class KeptKeys:
    """The keys that stay, with the gens that their buckets have, and how much does not stay."""

    left: SetLeft
    extents: Extents  # their pointers are to the members that are present, by their new numbers
    present: list[int]  # the numbers that these members had
    dirty_sectors: int = 0
    clean_sectors: int = 0
    dropped_clean_sectors: int = 0
    lost: Counter[Confidence] = field(default_factory=Counter)  # dirty sectors
    outside: int = 0  # dirty sectors of inodes that no table has a slot for
    missing: int = 0  # dirty sectors that only members have which are missing

    @classmethod
    def of(cls, left: SetLeft, most: Confidence, slots: int) -> "KeptKeys":
        """Returns what stays of all that was found; no inode is beyond the table's slots."""
        present = [
            number for number, member in enumerate(left.members) if not is_missing(member.block_device)
        ]
        kept = cls(left, Extents(merge_within=left.bounds.bucket_sectors), present)
        extents = DirtyExtents.of(left)
        for key, part in extents.of_all():
            if key.inode >= slots:
                kept.outside += part.sectors if key.dirty else 0
            elif part.confidence <= most and (key.dirty or all(map(extents.is_proven, part.copies))):
                kept._keep(key, part)
            elif key.dirty:
                kept.lost[part.confidence] += part.sectors
            else:
                kept.dropped_clean_sectors += part.sectors
        return kept

    def _keep(self, key: Key, part: DirtyExtent) -> None:
        pointers = tuple(
            Pointer(self.present.index(place.device), place.sector, self._gen(place.device, place.sector))
            for place in part.copies
            if place.device in self.present
        )
        if not pointers:
            self.missing += part.sectors if key.dirty else 0
            return
        self.extents.insert(Key(key.inode, part.offset, part.sectors, key.dirty, pointers))
        if key.dirty:
            self.dirty_sectors += part.sectors
        else:
            self.clean_sectors += part.sectors

    def _gen(self, device: int, sector: int) -> int:
        census = self.left.checked.censuses[device]
        return int(census.gens[census.geometry.bucket_of(sector)])

    @property
    def lost_dirty_sectors(self) -> int:
        """Dirty sectors that were found and do not stay."""
        return self.lost.total() + self.outside + self.missing

    def inodes(self) -> list[int]:
        """Returns the inodes that have keys."""
        return sorted({run.inode for run in self.extents.runs})

    def first_sector(self, inode: int) -> int:
        """Returns where the first key of an inode begins."""
        return next(run.start(0) for run in self.extents.runs if run.inode == inode)

    def end(self, inode: int) -> int:
        """Returns where the last key of an inode ends."""
        return max(run.ends[-1] for run in self.extents.runs if run.inode == inode)

    def sectors_by_bucket(self) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """Returns, by member, how many dirty and how many clean sectors of keys are in each bucket."""
        counts = [self.left.checked.censuses[number].geometry.bucket_count for number in self.present]
        dirty = [np.zeros(count, np.int64) for count in counts]
        clean = [np.zeros(count, np.int64) for count in counts]
        rows = KeyRows()
        rows.add(self.extents)
        for chunk in rows.chunks():
            for device in range(len(counts)):
                for counted, chosen in ((dirty, chunk.dirty), (clean, ~chunk.dirty)):
                    here = chunk.where(chosen & (chunk.devices == device))
                    buckets = here.first_sectors // self.left.bounds.bucket_sectors
                    np.add.at(counted[device], buckets, here.sectors)
        return dirty, clean

    def _pointers(self) -> Iterator[tuple[Key, Pointer]]:
        for key in self.extents:
            for pointer in key.pointers:
                if pointer.device != CHECK_DEVICE:
                    yield key, pointer

    def drop_clean_in(self, buckets: Collection[tuple[int, int]]) -> None:
        """Drop the clean keys with a copy in these buckets, each a member and a bucket's number."""
        size = self.left.bounds.bucket_sectors
        doomed = [
            key
            for key, pointer in self._pointers()
            if not key.dirty and (pointer.device, pointer.sector // size) in buckets
        ]
        for key in dict.fromkeys(doomed):
            for cut in self.extents.remove(key.inode, key.offset, key.end):
                self.clean_sectors -= cut.sectors
                self.dropped_clean_sectors += cut.sectors
