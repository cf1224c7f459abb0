# SPDX-License-Identifier: GPL-2.0-only
"""Whose a volume is: in bytes of its uuid entry that the kernel neither reads nor changes.

     0 "bcdowner" (8)    8 kind u32: 1 user, 2 group    12 uid or gid u32    16 others u32: 0 nothing, 1 read
    20 zero (36)

All zero: the volume has no owner. The kernel keeps its table in memory with these bytes and writes them back;
it makes an entry of its own only in a slot that is all zero, and so without an owner.
"""

import struct
from dataclasses import dataclass

LAYOUT = struct.Struct("<8sIII36x")
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

    def pack(self) -> bytes:
        """Returns its bytes of the slot."""
        assert 0 <= self.id < NOBODY_ID
        return LAYOUT.pack(MAGIC, GROUP if self.is_group else USER, self.id, int(self.others_read))


def parse_owner(raw: bytes) -> EntryOwner | None:
    """Returns the owner in these bytes of a slot; None if there is none, or if they are something else's."""
    magic, kind, number, others = LAYOUT.unpack(raw)
    if magic != MAGIC or kind not in (USER, GROUP) or number == NOBODY_ID or others > 1:
        return None
    owner = EntryOwner(number, kind == GROUP, bool(others))
    return owner if owner.pack() == raw else None


def is_leftover(raw: bytes) -> bool:
    """Whether these bytes of a slot are neither zeros nor an owner."""
    return raw != NO_OWNER and parse_owner(raw) is None
