# SPDX-License-Identifier: MIT
"""Keys and pointers: the location of an extent of a volume, as every package uses them.

The same types serve the allocator, the socket and the disk, so a request needs no conversion. They are
msgspec structs because those are the cheapest frozen objects in Python; format/bkey.py has their form on
disk, wire/messages.py that on the socket.

The ranges are those of a key on the socket, and are checked when it is decoded, not when it is made: btree
nodes and the uuid table have keys with other ranges.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

INODE_MAX = (1 << 20) - 1
OFFSET_MAX = 1 << 62  # of a client's extent: its end stays far below the format's END_MAX, 2^63 - 1
KEY_SECTORS_MAX = (1 << 16) - 1
POINTERS_MAX = 6  # a 3-bit count, and at most eight words a key

Inode = Annotated[int, Meta(ge=0, le=INODE_MAX)]
SectorOffset = Annotated[int, Meta(ge=0, le=OFFSET_MAX)]


class Pointer(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One copy of an extent: the first sector on a member device, and the bucket's gen when it was made."""

    device: Annotated[int, Meta(ge=0, le=(1 << 12) - 1)]
    sector: Annotated[int, Meta(ge=0, le=(1 << 43) - 1)]
    gen: Annotated[int, Meta(ge=0, le=255)]


class Key(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """An extent of a volume: sectors [offset, offset + sectors) of inode, and its copies.

    offset is the *first* sector here; bcache's KEY_OFFSET is the end (format/bkey.py translates).
    """

    inode: Inode
    offset: SectorOffset
    sectors: Annotated[int, Meta(ge=1, le=KEY_SECTORS_MAX)]
    dirty: bool
    pointers: Annotated[tuple[Pointer, ...], Meta(min_length=1, max_length=POINTERS_MAX)]

    @property
    def end(self) -> int:
        """Returns the first sector behind the extent."""
        return self.offset + self.sectors
