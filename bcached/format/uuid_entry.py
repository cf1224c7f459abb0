# SPDX-License-Identifier: GPL-2.0-only
"""The uuid table: one slot a volume, and the slot's number is the volume's inode.

     0 uuid (16; zero in a free slot)    16 label (32)    48 first_reg u32    52 last_reg u32
    56 invalidated u32                   60 flags u32: bit 0 flash-only
    64 sectors (of a flash-only volume)  72 owner, maker (56; zero for the kernel: volume_owner.py)

The uuid of a deleted volume is overwritten with a constant, and its slot is never used again: keys of the old
inode may remain. A repair that gives up dirty data leaves a slot like that as a mark, with its own label. The
table has no checksum. Journal entries of version 0 go with a table of 64-byte entries, which end behind
`invalidated`.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np

from bcached.errors import BadField
from bcached.format.bits import BitField
from bcached.format.checksum import Buffer
from bcached.format.jset import VERSION_OLD_UUIDS
from bcached.format.label import pack_label, parse_label
from bcached.format.sizes import UUID_ENTRY_BYTES
from bcached.format.volume_owner import NO_OWNER, EntryOwner, is_leftover, pack_owner, parse_owner

LAYOUT = struct.Struct("<16s32sIIIIQ56s")
OLD_LAYOUT = struct.Struct("<16s32sIII4x")
assert LAYOUT.size == UUID_ENTRY_BYTES
assert OLD_LAYOUT.size == 64
UUID_BYTES = 16
USED_BYTES = 72
OLD_USED_BYTES = 60

FLASH_ONLY = BitField(0, 1)  # UUID_FLASH_ONLY
FREE_UUID = UUID(int=0)
BURNT_UUID = UUID("a03ef8ed-3ee1-b878-c850-fc5ecb16cd99")  # invalid_uuid
FREE_SLOT = bytes(UUID_ENTRY_BYTES)
GIVEN_UP = "gave up dirty data of "  # label of a burnt slot that a repair leaves as a mark
NAME = "uuid table"


@dataclass(frozen=True, slots=True)
class UuidEntry:
    """One slot in use, or burnt."""

    uuid: UUID
    label: str = ""
    first_reg: int = 0
    last_reg: int = 0
    invalidated: int = 0
    flash_only: bool = False
    sectors: int = 0
    other_flags: int = 0  # unknown flags, kept as they are
    owner: EntryOwner | None = None
    maker: int | None = None  # the uid of the user that it counts for

    @property
    def is_burnt(self) -> bool:
        """Whether this slot was a volume's, and is never used again."""
        return self.uuid == BURNT_UUID

    @classmethod
    def mark_of(cls, inode: int, now: int) -> "UuidEntry":
        """Returns a burnt slot that says of a volume that a repair gave up dirty data of it."""
        return cls(BURNT_UUID, f"{GIVEN_UP}{inode}", now, now, now)

    @property
    def given_up(self) -> int | None:
        """The volume that this slot is a mark of; None if it is none."""
        number = self.label.removeprefix(GIVEN_UP)
        is_mark = self.is_burnt and number != self.label and number.isdecimal()
        return int(number) if is_mark else None

    def pack(self) -> bytes:
        """Returns the 128 bytes of the slot."""
        assert self.uuid != FREE_UUID
        flags = FLASH_ONLY.put(self.other_flags, int(self.flash_only))
        times = (self.first_reg, self.last_reg, self.invalidated)
        owner = pack_owner(self.owner, self.maker)
        return LAYOUT.pack(self.uuid.bytes, pack_label(self.label), *times, flags, self.sectors, owner)


def parse_table(raw: Buffer, version: int = 1, where: str = "uuid table") -> list[UuidEntry | None]:
    """Returns all slots of the table, None for free ones; version is that of the journal entry naming it."""
    layout = OLD_LAYOUT if version == VERSION_OLD_UUIDS else LAYOUT
    if len(raw) == 0 or len(raw) % layout.size:
        raise BadField(NAME, f"{where}, size", f"a multiple of {layout.size} bytes", len(raw))
    return [_entry(*fields) for fields in layout.iter_unpack(raw)]


def slots_with_leftovers(raw: Buffer, version: int = 1) -> list[int]:
    """Returns the slots of a table with other bytes than zeros in unused fields; an owner is none of them."""
    layout, used = (OLD_LAYOUT, OLD_USED_BYTES) if version == VERSION_OLD_UUIDS else (LAYOUT, USED_BYTES)
    slots = np.frombuffer(raw, dtype=np.uint8).reshape(-1, layout.size)
    free = ~slots[:, :UUID_BYTES].any(axis=1)
    stray = set(np.flatnonzero(free & slots.any(axis=1)).tolist())
    for slot in np.flatnonzero(slots[:, used:].any(axis=1)).tolist():
        if layout is OLD_LAYOUT or is_leftover(slots[slot, used:].tobytes()):
            stray.add(slot)
    return sorted(stray)


def _entry(
    uuid: bytes,
    label: bytes,
    first_reg: int,
    last_reg: int,
    invalidated: int,
    flags: int = 0,
    sectors: int = 0,
    owner: bytes = NO_OWNER,
) -> UuidEntry | None:
    if uuid == FREE_UUID.bytes:
        return None
    owned_by, maker = parse_owner(owner)
    return UuidEntry(
        uuid=UUID(bytes=uuid),
        label=parse_label(label),
        first_reg=first_reg,
        last_reg=last_reg,
        invalidated=invalidated,
        flash_only=bool(FLASH_ONLY.get(flags)),
        sectors=sectors,
        other_flags=flags & ~FLASH_ONLY.mask,
        owner=owned_by,
        maker=maker,
    )


def pack_table(entries: Sequence[UuidEntry | None], size_bytes: int) -> bytes:
    """Returns the table in its present format, free slots behind the last entry."""
    assert len(entries) * UUID_ENTRY_BYTES <= size_bytes
    packed = b"".join(FREE_SLOT if entry is None else entry.pack() for entry in entries)
    return packed.ljust(size_bytes, b"\0")
