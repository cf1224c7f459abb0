# SPDX-License-Identifier: GPL-2.0-only
"""The set's volumes: a table of slots in a bucket of its own, completely rewritten with each change.

A volume's slot is its inode. The new table takes a fresh bucket of the btree reserve, and is valid from the
journal entry on that names it; only then is the old bucket free.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from uuid import UUID

from bcached.errors import InvalidParameter, LimitExceeded
from bcached.format.label import LABEL_BYTES, printable_label
from bcached.format.uuid_entry import BURNT_UUID, FREE_UUID, UuidEntry, pack_table
from bcached.format.volume_owner import EntryOwner
from bcached.keys import Key, Pointer
from bcached.state.buckets.geometry import Geometry
from bcached.units import SECTOR_BYTES

VOLUME_SECTORS_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """A volume as clients see it; sectors is 0 unless it is flash-only."""

    inode: int
    uuid: UUID
    label: str
    sectors: int
    flash_only: bool
    owner: EntryOwner | None = None
    maker: int | None = None


class UuidTable:
    """The slots in memory."""

    def __init__(self, geometry: Geometry, entries: list[UuidEntry | None]) -> None:
        self._geometry = geometry
        self.entries = entries

    def volumes(self) -> Iterator[VolumeInfo]:
        """Yields the volumes, by inode."""
        for inode, entry in enumerate(self.entries):
            if entry is not None and not entry.is_burnt:
                label = printable_label(entry.label)  # the kernel cuts in mid-character
                sectors, flash_only = entry.sectors, entry.flash_only
                yield VolumeInfo(inode, entry.uuid, label, sectors, flash_only, entry.owner, entry.maker)

    def labelled(self, label: str) -> list[VolumeInfo]:
        """Returns the volumes with this label, by inode."""
        return [volume for volume in self.volumes() if label in (volume.label, self._label_of(volume.inode))]

    def _label_of(self, inode: int) -> str:
        """Returns a label as it is stored, which may not be fit for printing."""
        entry = self.entries[inode]
        assert entry is not None
        return entry.label

    def check_new(self, label: str, sectors: int, uuid: UUID) -> None:
        """Raises InvalidParameter or LimitExceeded if such a volume cannot be made."""
        if len(label.encode()) > LABEL_BYTES or "\0" in label:
            raise InvalidParameter("label", f"at most {LABEL_BYTES} bytes, none of them zero")
        if not 0 <= sectors <= VOLUME_SECTORS_MAX:
            raise InvalidParameter("sectors", f"0 to {VOLUME_SECTORS_MAX}")
        if uuid in (FREE_UUID, BURNT_UUID):
            raise InvalidParameter("uuid", "reserved by the format")
        if any(volume.uuid == uuid for volume in self.volumes()):
            raise InvalidParameter("uuid", f"{uuid} is a volume already")
        if None not in self.entries:
            raise LimitExceeded("volumes", len(self.entries) + 1)

    def check_part(self, maker: int, percent: int) -> None:
        """Raises LimitExceeded if a user that makes one more volume would have made more than its part."""
        made = 1 + sum(volume.maker == maker for volume in self.volumes())
        if 100 * made > percent * len(self.entries):
            raise LimitExceeded("volumes_of_a_user", made)

    def free_inodes(self) -> list[int]:
        """Returns the inodes of free slots."""
        return [inode for inode, entry in enumerate(self.entries) if entry is None]

    def with_volume(
        self,
        inode: int,
        label: str,
        sectors: int,
        uuid: UUID,
        owner: EntryOwner | None = None,
        maker: int | None = None,
    ) -> list[UuidEntry | None]:
        """Returns the table with a new volume in a free slot."""
        assert self.entries[inode] is None
        now = int(time.time())
        flash_only = sectors > 0
        entry = UuidEntry(uuid, label, now, now, 0, flash_only, sectors, owner=owner, maker=maker)
        return [*self.entries[:inode], entry, *self.entries[inode + 1 :]]

    def with_owner(self, inode: int, owner: EntryOwner | None) -> list[UuidEntry | None]:
        """Returns the table with another owner of a volume, or with none."""
        entry = self.entries[inode]
        assert entry is not None
        return [*self.entries[:inode], replace(entry, owner=owner), *self.entries[inode + 1 :]]

    def is_volume(self, inode: int) -> bool:
        """Whether an inode's slot is of a volume."""
        entry = self.entries[inode] if inode < len(self.entries) else None
        return entry is not None and not entry.is_burnt

    def is_taken(self, inode: int) -> bool:
        """Whether an inode's slot is of a volume, or of a deleted one and not freed."""
        return inode < len(self.entries) and self.entries[inode] is not None

    def without_volume(self, inode: int) -> list[UuidEntry | None]:
        """Returns the table with a slot free again."""
        assert self.is_taken(inode)
        return [*self.entries[:inode], None, *self.entries[inode + 1 :]]

    def pack(self, entries: list[UuidEntry | None]) -> bytes:
        """Returns the bytes of a table, as long as the bucket's metadata is."""
        return pack_table(entries, self._geometry.metadata_bytes)

    def key_at(self, device: int, bucket: int, gen: int) -> Key:
        """Returns the key by which a journal entry names the table: at position 0:0, as long as the table."""
        sectors = self._geometry.metadata_bytes // SECTOR_BYTES
        pointer = Pointer(device, self._geometry.sector_of(bucket), gen)
        return Key(0, -sectors, sectors, False, (pointer,))
