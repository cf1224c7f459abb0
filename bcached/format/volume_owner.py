# SPDX-License-Identifier: GPL-2.0-only
"""Whose a volume is, and who made it: in bytes of its uuid entry that the kernel neither reads nor changes.

     0 "bcdowner" (8)    8 kind u32: 0 no owner, 1 user, 2 group    12 uid or gid u32
    16 others u32: 0 nothing, 1 read    20 maker u32: its uid + 1, 0 if an admin or the kernel made it
    24 zero (32)

All zero: the volume has no owner, and counts for no user. The kernel keeps its table in memory with these
bytes and writes them back; it makes an entry of its own only in a slot that is all zero, and so without both.
"""

import struct
from dataclasses import dataclass

LAYOUT = struct.Struct("<8sIIII32x")
OWNER_BYTES = 56
assert LAYOUT.size == OWNER_BYTES
MAGIC = b"bcdowner"
USER, GROUP = 1, 2
NOBODY_ID = 0xFFFFFFFF  # (uid_t) -1: no user's, no group's
NO_OWNER = bytes(OWNER_BYTES)


@dataclass(frozen=True, slots=True)
class EntryOwner:
    """A user or a group, who alone changes the volume; the others may read it, or not."""

    id: int
    is_group: bool = False
    others_read: bool = True

    def __str__(self) -> str:
        others = "others read" if self.others_read else "nothing for others"
        return f"{'group' if self.is_group else 'user'} {self.id}, {others}"


def pack_owner(owner: EntryOwner | None, maker: int | None) -> bytes:
    """Returns the bytes of a slot for its owner and the uid of its maker."""
    if owner is None and maker is None:
        return NO_OWNER
    assert maker is None or 0 <= maker < NOBODY_ID
    made_by = 0 if maker is None else maker + 1
    if owner is None:
        return LAYOUT.pack(MAGIC, 0, 0, 0, made_by)
    assert 0 <= owner.id < NOBODY_ID
    kind = GROUP if owner.is_group else USER
    return LAYOUT.pack(MAGIC, kind, owner.id, int(owner.others_read), made_by)


def parse_owner(raw: bytes) -> tuple[EntryOwner | None, int | None]:
    """Returns the owner and the maker in these bytes of a slot; None if they are something else's."""
    magic, kind, number, others, made_by = LAYOUT.unpack(raw)
    if magic != MAGIC or kind > GROUP or number == NOBODY_ID or others > 1:
        return None, None
    owner = EntryOwner(number, kind == GROUP, bool(others)) if kind else None
    maker = made_by - 1 if made_by else None
    return (owner, maker) if pack_owner(owner, maker) == raw else (None, None)


def is_leftover(raw: bytes) -> bool:
    """Whether these bytes of a slot are neither zeros nor an owner or a maker."""
    return raw != NO_OWNER and parse_owner(raw) == (None, None)
