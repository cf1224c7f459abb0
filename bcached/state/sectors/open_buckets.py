"""The open buckets: where the next sectors of each stream are cut from.

Data written together tends to die together, and a bucket whose data dies together is reclaimed whole. So
a request goes to the bucket whose last extent it continues; failing that, to one its writer used last;
failing that, to the one that was used longest ago (seed: pick_data_bucket).

The seed walks its 128 slots, newest first. The first slot with a matching key wins, but among slots of the
same write point the walk ends on the last one it meets, the *oldest*. The dictionaries below give the
same answers without walking; tests/state/test_open_buckets.py holds them against such a walk.

Streams of different kinds never share a bucket: extents with another number of copies, and volumes whose
data is always dirty (upstream keeps those apart since 4.16: a mixed bucket could never be reclaimed). When
the least recently used slot is open for another kind, its bucket would have to be closed and what it has
left be lost; so a kind that has some slots makes do with the least recently used of its own.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Protocol

from bcached.keys import Key, Pointer
from bcached.state.sectors.reservations import Holder

OPEN_BUCKETS_MAX = 128
MOVERS_WRITE_POINT = -1  # no process has it, so what is moved lies together
KIND_SLOTS_MIN = 8  # so many slots a kind may take from others; of all twelve kinds, fewer than there are


class Extent(Protocol):
    """What somebody asks sectors for."""

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

    sectors_free 0: nothing open here, waiting for a bucket. places are (device, bucket) of each copy,
    sectors the device sectors of the next cut.
    """

    __slots__ = (
        "gens",
        "holder",
        "kind",
        "of_writer",
        "places",
        "sectors",
        "sectors_free",
        "stream",
        "used_at",
        "writer",
    )

    def __init__(self) -> None:
        self.stream: tuple[int, int, int] | None = None  # kind, inode, end of the last extent
        self.writer: tuple[int, int] | None = None  # kind, write point of the last extent
        self.of_writer: dict[Slot, None] = {}  # all slots with that one
        self.kind = 0
        self.sectors_free = 0
        self.places: tuple[tuple[int, int], ...] = ()
        self.sectors: tuple[int, ...] = ()
        self.gens: tuple[int, ...] = ()
        self.holder: Holder | None = None  # who got sectors last, and when
        self.used_at = 0.0

    @property
    def has_lost_its_writer(self) -> bool:
        """Whether who used it last will not use it again."""
        return self.holder is not None and self.holder.has_gone


class OpenBuckets:
    """128 slots, found by stream, by write point, or as the least recently used."""

    def __init__(self, bucket_sectors: int, block_sectors: int) -> None:
        self._bucket_sectors = bucket_sectors
        self._block_sectors = block_sectors
        self._by_use = OrderedDict.fromkeys(Slot() for _ in range(OPEN_BUCKETS_MAX))
        self._newest = next(reversed(self._by_use))  # as long as a stream goes on, nothing else changes
        self._by_stream: dict[tuple[int, int, int], list[Slot]] = {}  # newest last; all but the newest slot's
        self._by_writer: dict[tuple[int, int], dict[Slot, None]] = {}  # oldest first

    def __iter__(self) -> Iterator[Slot]:
        """All slots, least recently used first."""
        return iter(self._by_use)

    @property
    def open_count(self) -> int:
        """How many slots have sectors left."""
        return sum(1 for slot in self._by_use if slot.sectors_free)

    def left_to(self, write_point: int) -> int:
        """Sectors left in the slots that a write point used last, of whatever kind."""
        return sum(
            slot.sectors_free
            for slot in self._by_use
            if slot.writer is not None and slot.writer[1] == write_point
        )

    def shared(self, kind: int) -> Slot | None:
        """The slot of a kind with sectors left that was used longest ago; not the mover's."""
        for slot in self._by_use:
            if slot.kind == kind and slot.sectors_free and slot.writer != (kind, MOVERS_WRITE_POINT):
                return slot
        return None

    def choose(self, kind: int, inode: int, offset: int, write_point: int) -> Slot:
        """The slot for an extent of a volume at offset; it may have to be refilled first."""
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
        """Open fresh buckets, one per copy, in a slot that has nothing left."""
        assert slot.sectors_free == 0, "the slot still has sectors"
        slot.kind = kind
        slot.sectors_free = self._bucket_sectors
        slot.places = tuple((pointer.device, pointer.sector // self._bucket_sectors) for pointer in pointers)
        slot.sectors = tuple(pointer.sector for pointer in pointers)
        slot.gens = tuple(pointer.gen for pointer in pointers)

    def carve(
        self, slot: Slot, inode: int, offset: int, sectors: int, write_point: int
    ) -> tuple[int, tuple[Pointer, ...]]:
        """Cut sectors off a slot's bucket: how many it gave (perhaps fewer), and where.

        What is left below a block is dropped. The slot becomes the newest, and known by what it was last
        used for.
        """
        free = slot.sectors_free
        given = min(sectors, free)
        assert given > 0, "the slot has nothing left"
        pointers: tuple[Pointer, ...]
        if len(slot.sectors) == 1:
            ((device, _),), (sector,), (gen,) = slot.places, slot.sectors, slot.gens
            pointers = (Pointer(device, sector, gen),)
            slot.sectors = (sector + given,)
        else:
            devices = (device for device, _ in slot.places)
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
        self, slot: Slot, inode: int, extents: Iterable[Extent], write_point: int
    ) -> tuple[list[Key], list[int]]:
        """Cut on from the newest slot for what would come to it anyway, while its bucket stays open.

        The slot has one copy and was last used for this volume and write point. The keys, and the sectors
        between which they lie in a row. What is left for `choose` ends it, if only by looking so: what the
        slot was known by before this call may no longer be so.
        """
        ((device, _),), (sector,), (gen,) = slot.places, slot.sectors, slot.gens
        kind, by_stream = slot.kind, self._by_stream
        is_dirty = kind % 2 == 1
        is_writers_only = len(slot.of_writer) == 1
        assert slot.stream is not None
        end = slot.stream[2]
        spare = slot.sectors_free - self._block_sectors
        keys: list[Key] = []
        bounds = [sector]
        for extent in extents:
            offset, sectors = extent.offset, extent.sectors
            if sectors > spare or extent.inode != inode:
                break
            if offset != end and (not is_writers_only or (kind, inode, offset) in by_stream):
                break
            keys.append(Key(inode, offset, sectors, is_dirty, (Pointer(device, sector, gen),)))
            end = offset + sectors
            sector += sectors
            spare -= sectors
            bounds.append(sector)
        if keys:
            slot.sectors = (sector,)
            slot.sectors_free = spare + self._block_sectors
            self._remember(slot, inode, end, write_point)
        return keys, bounds

    def close(self, slot: Slot) -> tuple[tuple[int, int], ...]:
        """Give up what is left of a slot's buckets: (device, bucket) of each."""
        assert slot.sectors_free, "nothing is open in the slot"
        slot.sectors_free = 0
        return slot.places

    def _remember(self, slot: Slot, inode: int, end: int, write_point: int) -> None:
        """Make a slot the newest, known by its stream and writer; look-ups count, for each request does."""
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
