# SPDX-License-Identifier: GPL-2.0-only
"""The open buckets: where the next sectors of each stream are cut from.

Data written together tends to die together, and a bucket whose data dies together is reclaimed whole. So
a request goes to the bucket whose last extent it continues; failing that, to one its write point used last;
failing that, to the least recently used one (kernel: pick_data_bucket).

Kernel: walks its 128 slots, newest first. The first slot with a matching key wins, but among slots of one
write point the walk ends on the last one it meets, the *oldest*. The dictionaries below give the same
results without a walk; tests/state/test_open_buckets.py compares them with such a walk.

Streams of different kinds never share a bucket: extents with another number of copies, and volumes whose
data is always dirty (upstream separates those since 4.16: a mixed bucket could never be reclaimed). If the
least recently used slot is open for another kind, reusing it would close its bucket and lose the sectors
left; so a kind that has enough slots uses the least recently used of its own.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Protocol

from bcached.keys import Key, Pointer
from bcached.state.buckets.geometry import Geometry
from bcached.state.sectors.reservations import Holder

OPEN_BUCKETS_MAX = 128
COPIES_SHIFT, ALWAYS_DIRTY = 1, 1  # the two facts that a kind of stream is made of
MOVERS_WRITE_POINT = -1  # of no client, so moved data is kept together
KIND_SLOTS_MIN = 8  # a kind with fewer may take slots of others; twelve kinds need less than there are


class RequestedExtent(Protocol):
    """An extent of a volume for which sectors are requested."""

    @property
    def inode(self) -> int:
        """The volume."""

    @property
    def offset(self) -> int:
        """Its first sector."""

    @property
    def sectors(self) -> int:
        """How many."""


class Slot:
    """One open bucket (or, for several copies, one on each of several devices).

    sectors_free 0: nothing is open, the slot needs a bucket. bucket_ids are (device, bucket) of each copy,
    sectors the device sectors of the next cut.
    """

    __slots__ = (
        "bucket_ids",
        "gens",
        "holder",
        "kind",
        "of_writer",
        "sectors",
        "sectors_free",
        "stream",
        "used_at",
        "writer",
    )

    def __init__(self) -> None:
        self.stream: tuple[int, int, int] | None = None  # kind, inode, end of the last extent
        self.writer: tuple[int, int] | None = None  # kind, write point of the last extent
        self.of_writer: dict[Slot, None] = {}  # all slots with that writer
        self.kind = 0  # copies << COPIES_SHIFT, and ALWAYS_DIRTY for flash-only volumes
        self.sectors_free = 0
        self.bucket_ids: tuple[tuple[int, int], ...] = ()
        self.sectors: tuple[int, ...] = ()
        self.gens: tuple[int, ...] = ()
        self.holder: Holder | None = None  # the last user of the slot, and when (seconds)
        self.used_at = 0.0

    def __repr__(self) -> str:
        return f"<Slot {self.bucket_ids}, {self.sectors_free} sectors free, stream {self.stream}>"

    @property
    def is_abandoned(self) -> bool:
        """Whether the connection that used it last is closed."""
        return self.holder is not None and self.holder.is_closed


class OpenBuckets:
    """128 slots, found by stream, by write point, or as the least recently used."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._block_sectors = geometry.block_sectors
        self._by_use = OrderedDict.fromkeys(Slot() for _ in range(OPEN_BUCKETS_MAX))
        self._newest = next(reversed(self._by_use))  # the slot that the last request used: a stream reuses it
        self._by_stream: dict[tuple[int, int, int], list[Slot]] = {}  # newest last; all but the newest slot's
        self._by_writer: dict[tuple[int, int], dict[Slot, None]] = {}  # oldest first

    def __repr__(self) -> str:
        return f"<OpenBuckets {self.open_count} open, newest {self._newest!r}>"

    def __iter__(self) -> Iterator[Slot]:
        """All slots, least recently used first."""
        return iter(self._by_use)

    @property
    def open_count(self) -> int:
        """How many slots have sectors left."""
        return sum(1 for slot in self._by_use if slot.sectors_free)

    def left_to(self, write_point: int) -> int:
        """Sectors left in the slots that a write point used last, of all kinds."""
        return sum(
            slot.sectors_free
            for slot in self._by_use
            if slot.writer is not None and slot.writer[1] == write_point
        )

    def shared(self, kind: int) -> Slot | None:
        """The least recently used slot of a kind with sectors left; not the mover's."""
        for slot in self._by_use:
            if slot.kind == kind and slot.sectors_free and slot.writer != (kind, MOVERS_WRITE_POINT):
                return slot
        return None

    def choose(self, kind: int, inode: int, offset: int, write_point: int) -> Slot:
        """Returns the slot for an extent of a volume at offset; it may have to be refilled first.

        1. The slot of the same stream. 2. The oldest slot of the same writer. 3. The least recently used one,
        or 4. the least recently used one of the same kind, if the kind has KIND_SLOTS_MIN.
        """
        stream = (kind, inode, offset)
        if self._newest.stream == stream:
            return self._newest
        same_stream = self._by_stream.get(stream)
        if same_stream:
            return same_stream[-1]
        same_writer = self._by_writer.get((kind, write_point))
        if same_writer:
            return next(iter(same_writer))
        oldest = next(iter(self._by_use))
        if oldest.kind == kind or not oldest.sectors_free:
            return oldest
        same_kind = [slot for slot in self._by_use if slot.kind == kind]
        return oldest if len(same_kind) < KIND_SLOTS_MIN else same_kind[0]

    def refill(self, slot: Slot, kind: int, pointers: tuple[Pointer, ...]) -> None:
        """Open new buckets, one per copy, in a slot that has no sectors left."""
        assert slot.sectors_free == 0, "the slot still has free sectors"
        slot.kind = kind
        slot.sectors_free = self._geometry.bucket_sectors
        bucket_of = self._geometry.bucket_of
        slot.bucket_ids = tuple((pointer.device, bucket_of(pointer.sector)) for pointer in pointers)
        slot.sectors = tuple(pointer.sector for pointer in pointers)
        slot.gens = tuple(pointer.gen for pointer in pointers)

    def carve(
        self, slot: Slot, inode: int, offset: int, sectors: int, write_point: int
    ) -> tuple[int, tuple[Pointer, ...]]:
        """Cut sectors off a slot's bucket. Returns how many (perhaps fewer), and their pointers.

        A rest of less than a block is dropped. The slot becomes the newest, found by this stream and writer.
        """
        free = slot.sectors_free
        given = min(sectors, free)
        assert given > 0, "the slot has no free sectors"
        pointers: tuple[Pointer, ...]
        if len(slot.sectors) == 1:
            ((device, _),), (sector,), (gen,) = slot.bucket_ids, slot.sectors, slot.gens
            pointers = (Pointer(device, sector, gen),)
            slot.sectors = (sector + given,)
        else:
            devices = (device for device, _ in slot.bucket_ids)
            pointers = tuple(map(Pointer, devices, slot.sectors, slot.gens))
            slot.sectors = tuple(sector + given for sector in slot.sectors)
        free -= given
        slot.sectors_free = free if free >= self._block_sectors else 0
        self._remember(slot, inode, offset + given, write_point)
        return given, pointers

    @property
    def newest(self) -> Slot:
        """The slot that was used last."""
        return self._newest

    def carve_on(
        self, slot: Slot, inode: int, extents: Iterable[RequestedExtent], write_point: int
    ) -> tuple[list[Key], list[int]]:
        """Cut from the newest slot for all extents that `choose` would give it, while its bucket stays open.

        The slot has one copy and was last used for this volume and write point. Returns the keys, which are
        adjacent, and the sectors that bound them. Ends before the first extent for which `choose` might
        decide otherwise.
        """
        assert slot is self._newest
        ((device, _),), (sector,), (gen,) = slot.bucket_ids, slot.sectors, slot.gens
        kind, by_stream = slot.kind, self._by_stream
        is_dirty = kind & ALWAYS_DIRTY != 0
        is_writers_only = len(slot.of_writer) == 1
        is_only = is_writers_only and not by_stream
        assert slot.stream is not None
        end = slot.stream[2]
        last = sector + slot.sectors_free - self._block_sectors
        keys: list[Key] = []
        bounds = [sector]
        for extent in extents:
            offset, sectors = extent.offset, extent.sectors
            sector_end = sector + sectors
            if sector_end > last or extent.inode != inode:
                break
            if offset != end and not is_only and (not is_writers_only or (kind, inode, offset) in by_stream):
                break
            keys.append(Key(inode, offset, sectors, is_dirty, (Pointer(device, sector, gen),)))
            end = offset + sectors
            sector = sector_end
            bounds.append(sector)
        if keys:
            slot.sectors = (sector,)
            slot.sectors_free = last - sector + self._block_sectors
            self._remember(slot, inode, end, write_point)
        return keys, bounds

    def close(self, slot: Slot) -> tuple[tuple[int, int], ...]:
        """Give up the sectors left of a slot's buckets. Returns (device, bucket) of each."""
        assert slot.sectors_free, "the slot has no open bucket"
        slot.sectors_free = 0
        return slot.bucket_ids

    def _remember(self, slot: Slot, inode: int, end: int, write_point: int) -> None:
        """Make a slot the newest, found by its stream and writer; few look-ups, for every request does it."""
        writer = (slot.kind, write_point)
        if slot is not self._newest:
            self._overtake(slot)
        if slot.writer != writer:
            self._forget_writer(slot)
            slot.writer = writer
            slot.of_writer = self._by_writer.setdefault(writer, {})
            slot.of_writer[slot] = None
        slot.stream = (slot.kind, inode, end)

    def _overtake(self, slot: Slot) -> None:
        """Make another slot the newest."""
        before, self._newest = self._newest, slot
        self._by_use.move_to_end(slot)
        if before.stream is not None:
            self._by_stream.setdefault(before.stream, []).append(before)
        if slot.stream is not None:
            slots = self._by_stream[slot.stream]
            slots.remove(slot)
            if not slots:
                del self._by_stream[slot.stream]
        if len(slot.of_writer) > 1:
            del slot.of_writer[slot]
            slot.of_writer[slot] = None

    def _forget_writer(self, slot: Slot) -> None:
        if slot.writer is not None:
            del slot.of_writer[slot]
            if not slot.of_writer:
                del self._by_writer[slot.writer]
