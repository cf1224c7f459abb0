# SPDX-License-Identifier: MIT
"""The mapped file of change counters: a client checks with it whether what it knows of a range still holds.

    byte 0     u64  magic
    byte 8     u64  version
    byte 16    u64  count        of the counters, a power of two
    byte 24    u64  life         id of the daemon's run, as in the gen maps; 0 once it stopped
    byte 32    u64  shift        a region is 2^shift sectors of a volume
    byte 40    u64  places_at    byte of the places (place_map.py); 0 if there are none
    byte 48    u64  places       count of the places, a power of two
    byte 4096  u32  counter 0, counter 1, ... count of them

The header is little-endian, the counters are in the machine's byte order. Regions share counters: that of a
sector's region is h(inode, sector >> shift), with

    h(inode, region) = (region + inode * 2654435761) mod count

which needs 64 bits, and spreads neighbouring regions of a volume as well as random ones. The daemon adds one,
modulo 2^32, for each key that it changes in a region, after the change is made and before its reply is sent.
Each counter is written by one aligned 4-byte store. The places are behind the counters.
"""

from collections.abc import Iterable, Sequence

from bcached.errors import BadField
from bcached.keys import Key
from bcached.wire.map_header import (
    COUNT_AT,
    HEADER_BYTES,
    LIFE_AT,
    MAGIC_AT,
    VERSION_AT,
    check_header,
    get_word,
    put_word,
)
from bcached.wire.place_map import INODE_FACTOR, LOW_32, PLACE_BYTES, PLACES, Placed, PlaceMap

MAGIC = 0x676E686364636362  # the bytes "bccdchng"
VERSION = 1
REGION_SHIFT = 17  # 64 MiB
COUNTERS = 1 << 20

SHIFT_AT = 32
COUNTER_BYTES, COUNTER_LIMIT = 4, (1 << 32) - 1

PLACES_AT, PLACES_COUNT_AT = 40, 48

STRUCTURE = "change map"


def file_bytes(count: int) -> int:
    """Returns the length of the file with so many counters."""
    return _places_at(count) + min(count, PLACES) * PLACE_BYTES


def _places_at(count: int) -> int:
    """Returns where the places begin: the counters end at a multiple of 8 bytes, or nearly."""
    return HEADER_BYTES + max(count * COUNTER_BYTES, PLACE_BYTES)


class ChangeMap:
    """A view of the map: counters by region, and the header's fields."""

    __slots__ = ("_memory", "counters", "mask", "places", "shift")

    def __init__(
        self, memory: memoryview, count: int, shift: int, places: tuple[int, int] | None = None
    ) -> None:
        """places: where they begin, and how many there are; None without any."""
        assert count & count - 1 == 0 < count
        self._memory = memory[:]
        self.counters = memory[HEADER_BYTES : HEADER_BYTES + count * COUNTER_BYTES].cast("I")
        self.mask = count - 1
        self.shift = shift
        self.places: PlaceMap | None = None
        if places is not None:
            at, places_count = places
            self.places = PlaceMap(memory[at : at + places_count * PLACE_BYTES])

    @classmethod
    def lay_out(cls, memory: memoryview, count: int, life: int, shift: int = REGION_SHIFT) -> "ChangeMap":
        """Write the header; the counters stay as they are: the daemon's side, once at its start."""
        assert life > 0, "life 0, which means that no daemon maintains the map"
        places = _places_at(count), min(count, PLACES)
        change_map = cls(memory, count, shift, places)
        for at, value in ((MAGIC_AT, MAGIC), (VERSION_AT, VERSION), (COUNT_AT, count), (SHIFT_AT, shift)):
            put_word(memory, at, value)
        for at, value in zip((PLACES_AT, PLACES_COUNT_AT), places, strict=True):
            put_word(memory, at, value)
        put_word(memory, LIFE_AT, life)
        return change_map

    @classmethod
    def parse(cls, memory: memoryview, where: str) -> "ChangeMap":
        """Returns the map in these bytes. Raises BadMagic or BadField. The client's side."""
        check_header(memory, STRUCTURE, where, magic=MAGIC, version=VERSION)
        count, shift = get_word(memory, COUNT_AT), get_word(memory, SHIFT_AT)
        most = (memory.nbytes - HEADER_BYTES) // COUNTER_BYTES
        if not 0 < count <= most or count & count - 1:
            raise BadField(STRUCTURE, f"{where} count", f"a power of two up to {most}", count)
        if shift > 63:
            raise BadField(STRUCTURE, f"{where} shift", "at most 63", shift)
        return cls(memory, count, shift, _parsed_places(memory, where))

    @property
    def life(self) -> int:
        """Returns the id of the daemon's run; 0 once it has stopped cleanly."""
        return get_word(self._memory, LIFE_AT)

    def index(self, inode: int, sector: int) -> int:
        """Returns which counter is that of a sector's region."""
        return inode * INODE_FACTOR + (sector >> self.shift) & self.mask

    def counter(self, inode: int, sector: int) -> int:
        """Returns the counter of a sector's region, as it is now."""
        value: int = self.counters[self.index(inode, sector)]
        return value

    def counters_of(self, keys: Iterable[Key]) -> tuple[int, ...]:
        """Returns the counter of each key's first region."""
        counters, mask, shift = self.counters, self.mask, self.shift
        return tuple([counters[key.inode * INODE_FACTOR + (key.offset >> shift) & mask] for key in keys])

    def place(self, inode: int, sector: int) -> Placed | None:
        """Returns the place of the key that is all of a sector's region, if it is known to be the newest."""
        if self.places is None:
            return None
        region = sector >> self.shift
        index = inode * INODE_FACTOR + region
        found = self.places.get(index, inode, region)
        if found is None or found.version != self.counters[index & self.mask]:
            return None
        return found

    def put_places(self, keys: Sequence[Key]) -> None:
        """Publish keys with one pointer, each being all that is in its region: the daemon's side."""
        if self.places is not None:
            self.places.put_keys(keys, self.counters, self.mask, self.shift)

    def note_collection(self) -> None:
        """Have later places tell that the gen maps' gc_epoch was bumped: the daemon's side."""
        if self.places is not None:
            self.places.gc_epoch = self.places.gc_epoch + 1 & LOW_32

    def count(self, keys: Iterable[Key]) -> None:
        """Add one to the counters of the regions that each of these changed keys is in: the daemon's side."""
        counters, mask, shift = self.counters, self.mask, self.shift
        for key in keys:
            offset = key.offset
            region = offset >> shift
            at = key.inode * INODE_FACTOR + region & mask
            counters[at] = counters[at] + 1 & COUNTER_LIMIT
            last = offset + key.sectors - 1 >> shift
            while region < last:
                region += 1
                at = key.inode * INODE_FACTOR + region & mask
                counters[at] = counters[at] + 1 & COUNTER_LIMIT

    def retire(self) -> None:
        """Mark the map as out of use: no reader trusts it from here on."""
        put_word(self._memory, LIFE_AT, 0)

    def release(self) -> None:
        """Release our views of the memory, so that its owner can unmap it."""
        self.counters.release()
        if self.places is not None:
            self.places.release()
        self._memory.release()


def _parsed_places(memory: memoryview, where: str) -> tuple[int, int] | None:
    """Returns where the places are, and how many; None in a file without. Raises BadField."""
    at, count = get_word(memory, PLACES_AT), get_word(memory, PLACES_COUNT_AT)
    if not at:
        return None
    most = (memory.nbytes - at) // PLACE_BYTES
    if at % 8 or at < HEADER_BYTES:
        raise BadField(STRUCTURE, f"{where} places_at", "a multiple of 8 behind the header", at)
    if not 0 < count <= most or count & count - 1:
        raise BadField(STRUCTURE, f"{where} places", f"a power of two up to {most}", count)
    return at, count
