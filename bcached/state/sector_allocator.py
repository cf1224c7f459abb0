"""Cutting sectors for connections out of open buckets, and taking them back (seed: bch_alloc_sectors).

Every piece that is cut pins its bucket. When a bucket's last sectors are cut, the open bucket's own pin
passes to that piece; from then on the bucket lives as long as somebody holds something of it.
"""

from collections import Counter
from collections.abc import Sequence

from bcached.errors import LimitExceeded, NoSuchVolume, NotReserved, StaleKey
from bcached.keys import Key, Pointer
from bcached.state.bucket_table import State
from bcached.state.cache import Cache
from bcached.state.open_buckets import OpenBuckets, Slot
from bcached.state.placement import members_with, take_data_buckets
from bcached.state.reservations import WHOLE_BUCKET_INODE, Holder, PinChange
from bcached.state.reserves import Reserve


class SectorAllocator:
    """The open buckets of a set, and what connections hold of them.

    inodes names the volumes there are, always_dirty those whose data is never clean (flash-only ones).
    """

    def __init__(self, caches: Sequence[Cache]) -> None:
        geometry = caches[0].geometry
        self.caches = caches
        self.open_buckets = OpenBuckets(geometry.bucket_sectors, geometry.block_sectors)
        self.inodes: set[int] = set()
        self.always_dirty: set[int] = set()
        self.allocated_sectors = 0
        self.reserved_sectors = 0  # each copy counted
        self.buckets_taken = 0
        self._quarantined: Counter[tuple[int, int]] = Counter()

    # Cutting

    def carve(
        self,
        holder: Holder,
        inode: int,
        offset: int,
        sectors: int,
        write_point: int,
        replicas: int = 1,
        moving: bool = False,
        may_refill: bool = True,
    ) -> Key | None:
        """One key for an extent, perhaps a shorter one; None if that takes a bucket and none is to be had.

        may_refill false: no bucket is to be had, since others wait for one.
        """
        if inode not in self.inodes:
            raise NoSuchVolume(inode)
        if holder.total + replicas > holder.limit:
            raise LimitExceeded("reservations_per_connection", holder.total + replicas)
        kind = replicas * 2 + (inode in self.always_dirty)
        slot = self.open_buckets.choose(kind, inode, offset, write_point)
        if slot.sectors_free == 0 or slot.kind != kind:
            reserve = Reserve.MOVINGGC if moving else Reserve.NONE
            if not may_refill or not self._refill(slot, kind, reserve, replicas):
                return None
        given, pointers = self.open_buckets.carve(slot, inode, offset, sectors, write_point)
        self.allocated_sectors += given
        self.reserved_sectors += given * replicas
        closed = slot.sectors_free == 0
        for pointer, bucket in zip(pointers, slot.buckets, strict=True):
            holder.add(pointer.device, pointer.sector, given, inode)
            if closed:  # the open bucket's own pin becomes that of this piece
                self._settle(pointer.device, bucket)
            else:
                self.caches[pointer.device].table.pins[bucket] += 1
        return Key(inode, offset, given, False, pointers)

    def take_buckets(self, holder: Holder, replicas: int) -> Key | None:
        """Whole buckets, one a copy, as one key of no volume; None if they are not ready."""
        if holder.total + replicas > holder.limit:
            raise LimitExceeded("reservations_per_connection", holder.total + replicas)
        pointers = take_data_buckets(self.caches, Reserve.NONE, replicas)
        if pointers is None:
            return None
        self.buckets_taken += replicas
        bucket_sectors = self.caches[0].geometry.bucket_sectors
        self.allocated_sectors += bucket_sectors
        self.reserved_sectors += bucket_sectors * replicas
        for pointer in pointers:
            holder.add(pointer.device, pointer.sector, bucket_sectors, WHOLE_BUCKET_INODE)
            table = self.caches[pointer.device].table
            table.move(pointer.sector // bucket_sectors, State.HELD)
        return Key(0, 0, bucket_sectors, False, pointers)

    def take_metadata(self, state: State) -> tuple[int, int] | None:
        """(device, bucket) of a fresh metadata bucket, placed like data; None if none is ready."""
        members = members_with(self.caches, Reserve.BTREE, 1)
        if members is None:
            return None
        bucket = members[0].take_metadata(state)
        assert bucket is not None
        self.buckets_taken += 1
        return members[0].device, bucket

    def _refill(self, slot: Slot, kind: int, reserve: Reserve, replicas: int) -> bool:
        pointers = take_data_buckets(self.caches, reserve, replicas)
        if pointers is None:
            return False
        self.buckets_taken += replicas
        if slot.sectors_free:
            for device, bucket in self.open_buckets.close(slot):
                self.caches[device].table.pins[bucket] -= 1
                self._settle(device, bucket)
        self.open_buckets.refill(slot, kind, pointers)
        return True

    # Giving back

    def release(self, holder: Holder, keys: Sequence[Key]) -> None:
        """End the reservations of all these keys, or of none if one is stale or not held."""
        for key in keys:
            self.check_current(key)
            if not key.pointers:
                raise NotReserved(key)
        changes = holder.remove(keys)
        self.reserved_sectors -= sum(key.sectors * len(key.pointers) for key in keys)
        for change in changes:
            self._drop_pins(change)

    def free_buckets(self, holder: Holder, key: Key) -> None:
        """End the reservation of whole buckets of which nothing was given back or used so far."""
        bucket_sectors = self.caches[0].geometry.bucket_sectors
        if key.sectors != bucket_sectors or not holder.covers(key):
            raise NotReserved(key)
        self.release(holder, [key])

    def check_current(self, key: Key) -> None:
        """StaleKey unless every pointer names a bucket of ours with the gen it has now."""
        for pointer in key.pointers:
            gen = self.gen_of(pointer)
            if gen != pointer.gen:
                raise StaleKey(key, -1 if gen is None else gen)

    def gen_of(self, pointer: Pointer) -> int | None:
        """The gen of a pointer's bucket now; None where there is no such bucket."""
        if not 0 <= pointer.device < len(self.caches):
            return None
        cache = self.caches[pointer.device]
        bucket = cache.geometry.bucket_of(pointer.sector)
        if not cache.geometry.first_bucket <= bucket < cache.geometry.bucket_count:
            return None
        return cache.table.gens[bucket]

    def end(self, holder: Holder) -> None:
        """End everything a holder has."""
        self.reserved_sectors -= holder.sectors
        for (device, bucket), runs in holder.clear().items():
            self._drop_pins(PinChange(device, bucket, -len(runs)))

    # Connections that broke

    def quarantine(self, holder: Holder) -> None:
        """Set apart the buckets of a holder whose writes may still be under way, until `end_quarantine`."""
        for device, bucket in holder.pieces:
            self._quarantined[device, bucket] += 1
            if self.caches[device].table.states[bucket] != State.OPEN:
                self._settle(device, bucket)

    def end_quarantine(self, holder: Holder) -> None:
        """End everything a quarantined holder has: its writes cannot come any more."""
        for place in holder.pieces:
            self._quarantined[place] -= 1
            if not self._quarantined[place]:
                del self._quarantined[place]
        self.end(holder)

    def _drop_pins(self, change: PinChange) -> None:
        table = self.caches[change.device].table
        table.pins[change.bucket] += change.pins
        if table.states[change.bucket] != State.OPEN:
            self._settle(change.device, change.bucket)

    def _settle(self, device: int, bucket: int) -> None:
        """Put a bucket that is not open, or not any more, where it belongs."""
        cache = self.caches[device]
        if cache.table.pins[bucket] and (device, bucket) in self._quarantined:
            cache.table.move(bucket, State.QUARANTINE)
        else:
            cache.settle(bucket)
