"""The open buckets: where the next sectors of each stream are cut from.

Data written together tends to die together, and a bucket whose data dies together is reclaimed whole. So
a request goes to the bucket whose last extent it continues; failing that, to one its writer used last;
failing that, to the one that was used longest ago (seed: pick_data_bucket).

The seed walks its 128 slots, newest first. The first slot with a matching key wins, but among slots of the
same write point the walk ends on the last one it meets, the *oldest*. The dictionaries below give the
same answers without walking; tests/state/test_open_buckets.py holds them against such a walk.

Streams of different kinds never share a bucket: extents with another number of copies, and volumes whose
data is always dirty (upstream keeps those apart since 4.16: a mixed bucket could never be reclaimed).
"""

from collections.abc import Iterator

from bcached.keys import Pointer

OPEN_BUCKETS_MAX = 128


class Slot:
    """One open bucket (or, for several copies, one on each of several devices).

    sectors_free 0: nothing open here, waiting for a bucket. sectors are the device sectors of the next cut.
    """

    __slots__ = ("buckets", "devices", "gens", "kind", "sectors", "sectors_free", "stream", "write_point")

    def __init__(self) -> None:
        self.stream: tuple[int, int, int] | None = None  # kind, inode, end of the last extent
        self.write_point: tuple[int, int] | None = None  # kind, writer
        self.kind = 0
        self.sectors_free = 0
        self.devices: tuple[int, ...] = ()
        self.buckets: tuple[int, ...] = ()
        self.sectors: tuple[int, ...] = ()
        self.gens: tuple[int, ...] = ()


class OpenBuckets:
    """128 slots, found by stream, by write point, or as the least recently used."""

    def __init__(self, bucket_sectors: int, block_sectors: int) -> None:
        self._bucket_sectors = bucket_sectors
        self._block_sectors = block_sectors
        self._by_use: dict[Slot, None] = dict.fromkeys(Slot() for _ in range(OPEN_BUCKETS_MAX))
        self._by_stream: dict[tuple[int, int, int], list[Slot]] = {}  # newest last
        self._by_write_point: dict[tuple[int, int], dict[Slot, None]] = {}  # oldest first

    def __iter__(self) -> Iterator[Slot]:
        """All slots, least recently used first."""
        return iter(self._by_use)

    @property
    def open_count(self) -> int:
        """How many slots have sectors left."""
        return sum(1 for slot in self._by_use if slot.sectors_free)

    def choose(self, kind: int, inode: int, offset: int, write_point: int) -> Slot:
        """The slot for an extent of a volume at offset; it may have to be refilled first."""
        same_stream = self._by_stream.get((kind, inode, offset))
        if same_stream:
            return same_stream[-1]
        same_writer = self._by_write_point.get((kind, write_point))
        if same_writer:
            return next(iter(same_writer))
        return next(iter(self._by_use))

    def refill(self, slot: Slot, kind: int, pointers: tuple[Pointer, ...]) -> None:
        """Open fresh buckets, one per copy, in a slot that has nothing left."""
        assert slot.sectors_free == 0, "the slot still has sectors"
        slot.kind = kind
        slot.sectors_free = self._bucket_sectors
        slot.devices = tuple(pointer.device for pointer in pointers)
        slot.sectors = tuple(pointer.sector for pointer in pointers)
        slot.gens = tuple(pointer.gen for pointer in pointers)
        slot.buckets = tuple(pointer.sector // self._bucket_sectors for pointer in pointers)

    def carve(
        self, slot: Slot, inode: int, offset: int, sectors: int, write_point: int
    ) -> tuple[int, tuple[Pointer, ...]]:
        """Cut sectors off a slot's bucket: how many it gave (perhaps fewer), and where.

        What is left below a block is dropped. The slot becomes the newest, and known by what it was last
        used for.
        """
        given = min(sectors, slot.sectors_free)
        assert given > 0, "the slot has nothing left"
        if len(slot.sectors) == 1:
            sector = slot.sectors[0]
            pointers: tuple[Pointer, ...] = (Pointer(slot.devices[0], sector, slot.gens[0]),)
            slot.sectors = (sector + given,)
        else:
            pointers = tuple(map(Pointer, slot.devices, slot.sectors, slot.gens))
            slot.sectors = tuple(sector + given for sector in slot.sectors)
        slot.sectors_free -= given
        if slot.sectors_free < self._block_sectors:
            slot.sectors_free = 0
        self._remember(slot, inode, offset + given, write_point)
        return given, pointers

    def close(self, slot: Slot) -> tuple[tuple[int, int], ...]:
        """Give up what is left of a slot's buckets: (device, bucket) of each."""
        assert slot.sectors_free, "nothing is open in the slot"
        slot.sectors_free = 0
        return tuple(zip(slot.devices, slot.buckets, strict=True))

    def _remember(self, slot: Slot, inode: int, end: int, write_point: int) -> None:
        by_use = self._by_use
        del by_use[slot]
        by_use[slot] = None

        kind = slot.kind
        stream = slot.stream
        by_stream = self._by_stream
        if stream is not None:
            slots = by_stream[stream]
            if len(slots) == 1:
                del by_stream[stream]
            else:
                slots.remove(slot)
        slot.stream = stream = (kind, inode, end)
        if stream in by_stream:
            by_stream[stream].append(slot)
        else:
            by_stream[stream] = [slot]

        writer = slot.write_point
        by_writer = self._by_write_point
        if writer is not None and writer != (kind, write_point):
            writers = by_writer[writer]
            del writers[slot]
            if not writers:
                del by_writer[writer]
            writer = None
        if writer is None:
            slot.write_point = writer = (kind, write_point)
            by_writer.setdefault(writer, {})[slot] = None
        else:
            writers = by_writer[writer]
            if len(writers) > 1:
                del writers[slot]
                writers[slot] = None
