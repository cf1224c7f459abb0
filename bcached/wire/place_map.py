# SPDX-License-Identifier: MIT
"""Places of keys in the file of change counters: a client finds with them what another one has stored.

    word 0   change counter of the region | sectors of the key << 32
    word 1   region | inode << 44
    word 2   gen | sector << 8 | device << 51     the key's only pointer
    word 3   gc_epoch | check << 32               the gen maps' gc_epoch then, modulo 2^32

A region has one place, number h(inode, region) mod the count of places, in the machine's byte order. It says
that, when its change counter had this value, one live key was all that there was in the region, and began
where the region begins. Regions share places: the newest one stays. The check tells a place that was read
while it was written: with all products modulo 2^64,

    check = ((word 0 * A) xor (word 1 * B) xor (word 2 * C) xor (gc_epoch * D)) >> 32
"""

from collections.abc import Iterable

import msgspec

from bcached.keys import Key, Pointer

WORDS = 4
PLACE_BYTES = 8 * WORDS
PLACES = 1 << 17
INODE_FACTOR = 2654435761  # of h, by which regions have counters and places

A, B = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
C, D = 0x165667B19E3779F9, 0xD6E8FEB86659FD93
LOW_32 = (1 << 32) - 1
HIGH_32 = LOW_32 << 32
INODE_SHIFT = 44  # regions beyond that have no place
DEVICE_SHIFT = 51


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A place: the key's sectors and pointer, the region's change counter and the gc_epoch at that time."""

    version: int
    sectors: int
    pointer: Pointer
    gc_epoch: int


class PlaceMap:
    """A view of the places."""

    __slots__ = ("_words", "gc_epoch", "mask")

    def __init__(self, memory: memoryview) -> None:
        self._words = memory.cast("Q")
        count = len(self._words) // WORDS
        assert count & count - 1 == 0
        self.mask = count - 1
        self.gc_epoch = 0  # the daemon's side: modulo 2^32

    def put_keys(self, keys: Iterable[Key], counters: memoryview, mask: int, shift: int) -> None:
        """Write the places of the regions that these keys are all of. The daemon's side.

        A loop without calls: it runs for each object that is stored.
        """
        words, places_mask, epoch = self._words, self.mask, self.gc_epoch
        epoch_mixed = epoch * D
        for key in keys:
            inode, region, pointer = key.inode, key.offset >> shift, key.pointers[0]
            if region >> INODE_SHIFT:
                continue
            index = inode * INODE_FACTOR + region
            first = counters[index & mask] | key.sectors << 32
            where = region | inode << INODE_SHIFT
            pointed = pointer.gen | pointer.sector << 8 | pointer.device << DEVICE_SHIFT
            at = (index & places_mask) * WORDS
            words[at] = first
            words[at + 1] = where
            words[at + 2] = pointed
            words[at + 3] = epoch | (first * A ^ where * B ^ pointed * C ^ epoch_mixed) & LOW_32 << 32

    def get(self, index: int, inode: int, region: int) -> Placed | None:
        """Returns the place of a region, if there is one. The client's side."""
        words, at = self._words, (index & self.mask) * WORDS
        first, where, pointed, last = words[at], words[at + 1], words[at + 2], words[at + 3]
        if where != region | inode << INODE_SHIFT or not first >> 32:
            return None
        epoch = last & LOW_32
        if (first * A ^ where * B ^ pointed * C ^ epoch * D ^ last) & HIGH_32:
            return None
        sector = (pointed & (1 << DEVICE_SHIFT) - 1) >> 8
        pointer = Pointer(pointed >> DEVICE_SHIFT, sector, pointed & 0xFF)
        return Placed(first & LOW_32, first >> 32, pointer, epoch)

    def release(self) -> None:
        """Release our view of the memory."""
        self._words.release()
