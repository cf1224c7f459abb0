# SPDX-License-Identifier: GPL-2.0-only
"""A uuid table for a set whose own is damaged, or lacks volumes that keys belong to.

1. Slots that are sound stay. 2. Others come from the tables that earlier journal entries name. 3. A volume
with keys and without a slot gets the uuid of a backing device that the owner names. 4. Or a new uuid: then no
backing device is attached to it, but its data can be read by its number. A flash-only one ends where its keys
do, if the owner does not say its size.
"""

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4

from bcached.errors import SetRefused
from bcached.format.backing_superblock import DATA_SECTOR_DEFAULT, BackingSuperblock
from bcached.format.label import printable_label
from bcached.format.sizes import uuid_slots
from bcached.format.uuid_entry import UuidEntry
from bcached.store.reading.volume_check import sound_slots
from bcached.store.repair.new_metadata.kept_keys import KeptKeys
from bcached.store.rescue.remains.set_left import SetLeft
from bcached.units import SECTOR_BYTES

Slots = list[UuidEntry | None]
SIZE_STEP = 2048  # sectors: a volume whose size is lost gets whole mebibytes
NUMBERED = re.compile(r"(\d+)=(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class NamedBacking:
    """A backing device that the owner names, and of which volume, if the owner says so."""

    path: str
    superblock: BackingSuperblock
    inode: int | None = None


@dataclass(slots=True)
class VolumeSlots:
    """The new table, and what is to be said of it."""

    slots: Slots
    told: list[str] = field(default_factory=list)

    @classmethod
    async def of(
        cls, left: SetLeft, kept: KeptKeys, backings: Sequence[NamedBacking], sizes: Mapping[int, int]
    ) -> "VolumeSlots":
        """Returns the table that the keys need; sizes are in sectors, by volume.

        Raises SetRefused if it is not clear whose a volume is, or if one cannot have its size.
        """
        count = uuid_slots(left.members[0].superblock.bucket_sectors)
        table = cls([None] * count)
        for inode, entry in (await sound_slots(left.members, left.journal.entries[-1])).items():
            table.slots[inode] = entry
        # A sound table has lost no slot, but for those of volumes that have keys.
        wanted = set(kept.inodes()) if left.volumes_are_sound else set(range(count))
        for former in left.former_tables:
            table._add_former(former, wanted)
        nameless = [inode for inode in kept.inodes() if table.slots[inode] is None]
        lost = [inode for inode in sorted(kept.lossy) if inode < count and table.slots[inode] is None]
        is_empty = not any(table.slots)
        table._add_backings(nameless or lost or ([0] if is_empty else []), backings)
        for inode in nameless:
            if table.slots[inode] is None:
                table._make_up(inode, kept, inode in sizes)
        for inode, sectors in sizes.items():
            table._resize(inode, sectors, kept)
        return table

    def mark_given_up(self, inodes: Collection[int], used: Collection[int]) -> None:
        """Leave a mark for each volume of which dirty data is given up: in the last slots that are free."""
        now = int(time.time())
        marks = {entry.given_up: slot for slot, entry in enumerate(self.slots) if entry is not None}
        free = [slot for slot, entry in enumerate(self.slots) if entry is None and slot not in used]
        for inode in sorted(inodes):
            slot = marks[inode] if inode in marks else free.pop() if free else None
            if slot is None:
                self.told.append(f"volume {inode}: no mark of what is given up, since the table is full")
            else:
                self.slots[slot] = UuidEntry.mark_of(inode, now)

    def _add_former(self, former: Slots, wanted: set[int]) -> None:
        known = {entry.uuid for entry in self.slots if entry is not None and not entry.is_burnt}
        for inode, entry in enumerate(former[: len(self.slots)]):
            is_wanted = inode in wanted and self.slots[inode] is None
            if is_wanted and entry is not None and entry.uuid not in known:
                self.slots[inode] = entry
                self.told.append(f"volume {inode} ({_name(entry)}) as an earlier table had it")

    def _add_backings(self, nameless: Sequence[int], backings: Sequence[NamedBacking]) -> None:
        known = {entry.uuid for entry in self.slots if entry is not None}
        unplaced = [backing for backing in backings if backing.superblock.uuid not in known]
        for backing in unplaced:
            inode = backing.inode
            if inode is None and len(nameless) == len(unplaced) == 1:
                (inode,) = nameless
            if inode is None:
                raise SetRefused(
                    f"{backing.path}: expected one volume without a name and one backing device, found "
                    f"volumes {', '.join(map(str, nameless)) or 'none'}: say --backing N=DEV for each"
                )
            if not 0 <= inode < len(self.slots):
                raise SetRefused(f"{backing.path}: the table has slots 0 to {len(self.slots) - 1}")
            former = self.slots[inode]
            if former is not None and (former.is_burnt or former.flash_only):
                kind = "deleted, or was given up" if former.is_burnt else "flash-only"
                raise SetRefused(f"{backing.path}: volume {inode} is {kind}")
            if former is not None:
                self.told.append(f"volume {inode} was {_name(former)} until now")
            now = int(time.time())
            uuid, label = backing.superblock.uuid, backing.superblock.label
            owner = None if former is None else former.owner
            maker = None if former is None else former.maker
            self.slots[inode] = UuidEntry(uuid, label, now, now, owner=owner, maker=maker)
            self.told.append(f"volume {inode} is that of {backing.path} ({backing.superblock.uuid})")

    def _make_up(self, inode: int, kept: KeptKeys, has_size: bool) -> None:
        """Make an entry up. Kernel: no backing device's data begins before its superblock's end."""
        now = int(time.time())
        is_flash = has_size or kept.first_sector(inode) < DATA_SECTOR_DEFAULT
        sectors = -(-kept.end(inode) // SIZE_STEP) * SIZE_STEP if is_flash else 0
        entry = UuidEntry(uuid4(), f"recovered {inode}", now, now, 0, flash_only=is_flash, sectors=sectors)
        self.slots[inode] = entry
        kind = "flash-only" if is_flash else "without its backing device"
        if is_flash and not has_size:
            kind = (
                f"flash-only; {sectors} sectors, where its keys end: --volume-size {inode}=SIZE says its size"
            )
        had_owners = any(slot is not None and slot.owner is not None for slot in self.slots)
        open_to_all = "; open to every allocator: set its owner" if had_owners else ""
        self.told.append(f"volume {inode}: its entry is lost, a new one ({entry.uuid}, {kind}){open_to_all}")

    def _resize(self, inode: int, sectors: int, kept: KeptKeys) -> None:
        """Give a flash-only volume its size. Raises SetRefused if it is none, or has keys behind that."""
        entry = self.slots[inode] if inode < len(self.slots) else None
        if entry is None or not entry.flash_only or entry.is_burnt:
            known = [number for number, one in enumerate(self.slots) if one is not None and one.flash_only]
            raise SetRefused(
                f"--volume-size {inode}=...: expected the number of a flash-only volume, found "
                f"{', '.join(map(str, known)) or 'none'}"
            )
        end = kept.end(inode) if inode in kept.inodes() else 0
        if sectors < end:
            raise SetRefused(
                f"volume {inode} has keys up to sector {end}: expected a size of at least "
                f"{end * SECTOR_BYTES} bytes, found {sectors * SECTOR_BYTES}"
            )
        if entry.sectors != sectors:
            self.slots[inode] = replace(entry, sectors=sectors)
            self.told.append(f"volume {inode} has {sectors} sectors, as its owner says")


def parse_backing(text: str) -> tuple[int | None, str]:
    """Returns the volume and the path of [N=]DEV."""
    found = NUMBERED.fullmatch(text)
    return (int(found[1]), found[2]) if found else (None, text)


def _name(entry: UuidEntry) -> str:
    return "deleted" if entry.is_burnt else printable_label(entry.label) or str(entry.uuid)
