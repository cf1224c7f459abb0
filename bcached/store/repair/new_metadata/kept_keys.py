# SPDX-License-Identifier: GPL-2.0-only
"""Which keys a new index is made of: those that are sure, or the newest found as well if the owner says so.

Clean data is dropped where it might not be what its key names: it can be read from elsewhere, and a wrong
sector in the cache would hide the right one below it.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bcached.keys import Key, Pointer
from bcached.state.index.keys.bset_merge import Columns
from bcached.state.index.keys.extent_columns import columns_of_rows, extents_of_parts, in_order
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.key_rows import CHUNK_ROWS, KeyRows, Rows
from bcached.store.rescue.dirty_extents import DirtyExtent, DirtyExtents, of_row
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.missing_members import is_missing
from bcached.store.rescue.remains.set_left import SetLeft
from bcached.store.rescue.unreadable import Unreadable


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
    lossy: set[int] = field(default_factory=set)  # inodes of which dirty sectors do not stay
    missing: int = 0  # dirty sectors that only members have which are missing
    uncopied: int = 0  # dirty sectors that no copy of a member has

    @classmethod
    def of(cls, left: SetLeft, most: Confidence, slots: int) -> "KeptKeys":
        """Returns what stays of all that was found; no inode is beyond the table's slots."""
        present = [
            number for number, member in enumerate(left.members) if not is_missing(member.block_device)
        ]
        kept = cls(left, Extents(), present)
        extents, uncopied = DirtyExtents.of(left), Unreadable.uncopied(left.members)
        parts, several = list[Columns](), list[Key]()
        for of_rows, others in extents.of_all():
            lacking = uncopied.overlaps_rows(of_rows)
            rows = of_rows.where(~lacking)
            sure = kept._sorted_out(rows, rows.dirty | extents.are_proven(rows), slots)
            pieces = KeyRows()
            for key, part, is_copied in uncopied.split_all([*map(of_row, of_rows.where(lacking)), *others]):
                if not is_copied:
                    kept._leave_out(key, part)
                elif key.inode >= slots:
                    kept.outside += part.sectors if key.dirty else 0
                elif part.confidence <= most and (key.dirty or all(map(extents.is_proven, part.copies))):
                    kept._keep(key, part, pieces, several)
                elif key.dirty:
                    kept.lost[part.confidence] += part.sectors
                    kept.lossy.add(key.inode)
                else:
                    kept.dropped_clean_sectors += part.sectors
            # In order here, part by part: all at once would take twice the memory of all keys.
            parts += in_order([sure, *map(columns_of_rows, pieces.chunks())])
        kept.extents = extents_of_parts(parts, left.bounds.bucket_sectors)
        for key in several:
            kept.extents.insert(key)
        return kept

    def _sorted_out(self, rows: Rows, stays: NDArray[np.bool_], slots: int) -> Columns:
        """Returns those of sure keys that stay, by their members' new numbers, and counts all."""
        dirty = rows.dirty
        inside = rows.inodes < slots
        self.outside += int(rows.sectors[dirty & ~inside].sum())
        self.dropped_clean_sectors += int(rows.sectors[inside & ~stays].sum())
        stays = stays & inside
        numbers = np.full(len(self.left.members), -1, np.int64)
        numbers[self.present] = np.arange(len(self.present))
        devices = numbers[rows.devices]
        missing = stays & dirty & (devices < 0)
        self.missing += int(rows.sectors[missing].sum())
        self.lossy |= set(rows.inodes[missing].tolist())
        stays &= devices >= 0
        self.dirty_sectors += int(rows.sectors[stays & dirty].sum())
        self.clean_sectors += int(rows.sectors[stays & ~dirty].sum())
        return columns_of_rows(replace(rows, devices=devices).where(stays))

    def _leave_out(self, key: Key, part: DirtyExtent) -> None:
        """Count a part of a key whose data no copy has."""
        if key.dirty:
            self.uncopied += part.sectors
            self.lossy.add(key.inode)
        else:
            self.dropped_clean_sectors += part.sectors

    def _keep(self, key: Key, part: DirtyExtent, pieces: KeyRows, several: list[Key]) -> None:
        """Add a piece to those with one copy, or to those with several."""
        pointers = tuple(
            Pointer(self.present.index(place.device), place.sector, self._gen(place.device, place.sector))
            for place in part.copies
            if place.device in self.present
        )
        if not pointers:
            if key.dirty:
                self.missing += part.sectors
                self.lossy.add(key.inode)
            return
        piece = Key(key.inode, part.offset, part.sectors, key.dirty, pointers)
        if len(pointers) == 1:
            pieces.add_key(piece)
        else:
            several.append(piece)
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
        return self.lost.total() + self.outside + self.missing + self.uncopied

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
        for chunk in self._chunks():
            buckets = chunk.first_sectors // self.left.bounds.bucket_sectors
            for device in range(len(counts)):
                is_here = chunk.devices == device
                for counted, chosen in ((dirty, is_here & chunk.dirty), (clean, is_here & ~chunk.dirty)):
                    np.add.at(counted[device], buckets[chosen], chunk.sectors[chosen])
        return dirty, clean

    def drop_clean_in(self, buckets: Collection[tuple[int, int]]) -> None:
        """Drop the clean keys with a copy in these buckets, each a member and a bucket's number."""
        doomed = list[Key]()
        for device in {device for device, _ in buckets}:
            numbers = np.array([bucket for one, bucket in buckets if one == device], np.int64)
            for chunk in self._chunks():
                of_buckets = np.isin(chunk.first_sectors // self.left.bounds.bucket_sectors, numbers)
                doomed += chunk.where(~chunk.dirty & (chunk.devices == device) & of_buckets)
        for key in dict.fromkeys((key.inode, key.offset, key.end) for key in doomed):
            for cut in self.extents.remove(*key):
                self.clean_sectors -= cut.sectors
                self.dropped_clean_sectors += cut.sectors

    def _chunks(self) -> Iterator[Rows]:
        """Yields the rows of all keys in parts: all of them packed again would take as much as the keys."""
        rows = KeyRows()
        for run in self.extents.runs:
            rows.add_run(run)
            if rows.key_count >= CHUNK_ROWS:
                yield from rows.chunks()
                rows = KeyRows()
        yield from rows.chunks()
