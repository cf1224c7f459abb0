"""Keys and pointers: where an extent of a volume lies, in the words of every room.

One type serves from the allocator to the socket and the disk, so nothing is converted on the way of
a request. They are msgspec structs because those are the cheapest frozen values Python has; how they
look on disk is known to format/bkey.py, how they look on the socket to wire/messages.py.
"""

import msgspec


class Pointer(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One copy of an extent: the first sector on a member device, and the bucket's gen when it was made."""

    device: int
    sector: int
    gen: int


class Key(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """An extent of a volume: sectors [offset, offset + sectors) of inode, and its copies.

    offset is the *first* sector here; bcache's KEY_OFFSET is the end (format/bkey.py translates).
    """

    inode: int
    offset: int
    sectors: int
    dirty: bool
    pointers: tuple[Pointer, ...]

    @property
    def end(self) -> int:
        """The first sector behind the extent."""
        return self.offset + self.sectors
