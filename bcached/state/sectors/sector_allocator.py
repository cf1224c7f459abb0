# SPDX-License-Identifier: GPL-2.0-only
"""Cuts sectors for connections out of open buckets, and takes them back (kernel: bch_alloc_sectors).

Every piece pins its bucket. When a bucket's last sectors are cut, the open bucket's own pin passes to that
piece; from then on the bucket is kept as long as a connection holds a piece of it, or live data is in it.
Readers pin buckets, too, for as long as the keys they got must stay valid.
"""

from collections.abc import Callable, Generator, Sequence
from itertools import islice
from uuid import UUID

from bcached.errors import NoSuchVolume, NotReserved
from bcached.keys import Key
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import BucketId
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.placement import members_with, take_data_buckets
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.bucket_pins import BucketPins
from bcached.state.sectors.key_validity import KeyValidity
from bcached.state.sectors.open_buckets import COPIES_SHIFT, OpenBuckets, RequestedExtent, Slot
from bcached.state.sectors.reader_pins import BUCKETS_A_SLICE, ReaderPins
from bcached.state.sectors.reservations import WHOLE_BUCKET_INODE, Holder
from bcached.state.sectors.sector_runs import SectorRun, sector_runs

EndedPins = list[tuple[BucketId, int]]  # how many pins each bucket loses: 1, 0, or -1 (Holder.remove)

COMING = (State.FREE_INC, State.UNUSED, State.CLEAN, State.EMPTY)


class SectorAllocator:
    """The open buckets of a set, and what connections hold of them.

    inodes has the uuid of each volume, flash_sectors the size of the flash-only ones, which are never clean.
    clock returns seconds; only differences count. Sectors are cut here, given back, and counted in between:
    these share the pins of buckets, which no other class may change for data.
    """

    def __init__(self, members: Sequence[MemberBuckets], clock: Callable[[], float] = lambda: 0.0) -> None:
        geometry = members[0].geometry
        self.members = members
        self.pins = BucketPins(members)
        self.validity = KeyValidity(members)
        self.readers = ReaderPins(self.pins, self.validity, geometry)
        self.open_buckets = OpenBuckets(geometry)
        self.inodes: dict[int, UUID] = {}
        self.flash_sectors: dict[int, int] = {}
        self.pending_holders: set[Holder] = set()  # holders of what waiting requests have collected
        self.allocated_sectors = 0
        self.reserved_sectors = 0  # counting each copy
        self.buckets_taken = 0  # from the reserves
        self.sharing = False  # a request may use any open bucket (last_resort.py)
        self._clock = clock
        self._pins = self.pins.columns  # by member; the request path increments them without a call
        self._geometry = geometry  # of every member

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
        undivided: bool = False,
    ) -> Key | None:
        """Returns a key for an extent, perhaps a shorter one; None if it takes a bucket and none is ready.

        may_refill false: it may not take a bucket, since others wait for one. undivided: an extent that does
        not fit in the rest of its bucket begins in the next one. Raises NoSuchVolume, PermissionDenied,
        LimitExceeded.
        """
        if inode not in self.inodes:
            raise NoSuchVolume(inode)
        if holder.rights.foreign and inode in holder.rights.foreign:
            holder.rights.refuse_change(inode)
        if holder.total + replicas > holder.limit or holder.owner is not None:
            holder.check_room(replicas)
        always_dirty = inode in self.flash_sectors
        kind = replicas << COPIES_SHIFT | always_dirty
        slot = self.open_buckets.choose(kind, inode, offset, write_point)
        if (
            slot.sectors_free == 0
            or slot.kind != kind
            or (undivided and slot.sectors_free < min(sectors, self._geometry.bucket_sectors))
        ):
            reserve = Reserve.MOVINGGC if moving else Reserve.NONE
            if not may_refill or not self._refill(slot, kind, reserve, replicas):
                shared = self.open_buckets.shared(kind) if self.sharing and not moving else None
                if shared is None:
                    return None
                slot = shared
        given, pointers = self.open_buckets.carve(slot, inode, offset, sectors, write_point)
        slot.holder, slot.used_at = holder, self._clock()
        self.allocated_sectors += given
        self.reserved_sectors += given * replicas
        copy = 0  # counted by hand: enumerate, or a strict zip, would cost up to a tenth of all this
        for bucket_id in slot.bucket_ids:
            sector = pointers[copy].sector
            copy += 1  # noqa: SIM113
            holder.add(bucket_id, sector, sector + given, inode)
            if slot.sectors_free:
                device, bucket = bucket_id
                self._pins[device][bucket] += 1
            else:  # the open bucket's own pin passes to this piece
                self.pins.settle(bucket_id)
        return Key(inode, offset, given, always_dirty, pointers)

    def carve_run(
        self,
        holder: Holder,
        extents: Sequence[RequestedExtent],
        at: int,
        write_point: int,
        may_refill: bool = True,
    ) -> list[Key]:
        """Returns the keys of extents[at] and of all that follow in its bucket; none if no bucket is ready.

        The result is that of `carve` for each, at a third of the cost for all but the first.
        """
        first = extents[at]
        inode = first.inode
        key = self.carve(holder, inode, first.offset, first.sectors, write_point, may_refill=may_refill)
        if key is None:
            return []
        slot = self.open_buckets.newest
        if not slot.sectors_free:
            return [key]
        following = islice(extents, at + 1, at + 1 + holder.room)
        keys, bounds = self.open_buckets.carve_on(slot, inode, following, write_point)
        if keys:
            ((device, bucket),) = slot.bucket_ids
            holder.add_row((device, bucket), bounds, inode)
            self._pins[device][bucket] += len(keys)
            given = bounds[-1] - bounds[0]
            self.allocated_sectors += given
            self.reserved_sectors += given
        return [key, *keys]

    def take_buckets(self, holder: Holder, replicas: int) -> Key | None:
        """Returns whole buckets, one per copy, as one key of no volume; None if they are not ready."""
        holder.check_room(replicas)
        pointers = take_data_buckets(self.members, Reserve.NONE, replicas)
        if pointers is None:
            return None
        self.buckets_taken += replicas
        geometry = self._geometry
        bucket_sectors = geometry.bucket_sectors
        self.allocated_sectors += bucket_sectors
        self.reserved_sectors += bucket_sectors * replicas
        for pointer in pointers:
            bucket = geometry.bucket_of(pointer.sector)
            end = pointer.sector + bucket_sectors
            holder.add((pointer.device, bucket), pointer.sector, end, WHOLE_BUCKET_INODE)
            self.members[pointer.device].table.move(bucket, State.HELD)
        return Key(0, 0, bucket_sectors, False, pointers)

    def take_metadata(self, state: State) -> tuple[int, int] | None:
        """Returns (device, bucket) of a new metadata bucket, placed like data; None if none is ready."""
        members = members_with(self.members, Reserve.BTREE, 1)
        if members is None:
            return None
        bucket = members[0].take_metadata(state)
        assert bucket is not None
        self.buckets_taken += 1
        return members[0].device, bucket

    def _refill(self, slot: Slot, kind: int, reserve: Reserve, replicas: int) -> bool:
        pointers = take_data_buckets(self.members, reserve, replicas)
        if pointers is None:
            return False
        self.buckets_taken += replicas
        if slot.sectors_free:
            self.close(slot)
        self.open_buckets.refill(slot, kind, pointers)
        return True

    @property
    def obtainable_sectors(self) -> int:
        """Returns how much is ready for data, on its way to it, or can be invalidated."""
        buckets = 0
        for member in self.members:
            counts = member.table.counts
            buckets += sum(counts[state] for state in COMING) + member.reserves.available(Reserve.NONE)
        return buckets * self._geometry.bucket_sectors

    def close(self, slot: Slot) -> None:
        """Give up the sectors left of a slot's buckets; pins and live data give each bucket's new state."""
        for device, bucket in self.open_buckets.close(slot):
            self._pins[device][bucket] -= 1
            self.pins.settle((device, bucket))

    # Giving back

    def release(self, holder: Holder, keys: Sequence[Key]) -> None:
        """End the reservations of all these keys, or raise StaleKey or NotReserved and change nothing."""
        self.drop_pins(self.end_reservations(holder, keys))

    def check_commit(self, holder: Holder, keys: Sequence[Key]) -> None:
        """Raises StaleKey, NotReserved or LimitExceeded if the holder cannot commit these keys."""
        for key in keys:
            self.validity.check(key)
        holder.check(keys)

    def runs_of(self, keys: Sequence[Key]) -> list[SectorRun]:
        """Returns the runs of sectors that keys name."""
        return sector_runs(keys, self._geometry.bucket_sectors)

    def end_reservations(
        self, holder: Holder, keys: Sequence[Key], runs: Sequence[SectorRun] | None = None
    ) -> EndedPins:
        """End the reservations of these keys, or raise what check_commit does and change nothing.

        Returns the pins that end, for `drop_pins`. Until then the buckets stay pinned: a commit puts the keys
        into the index in between, since a bucket that loses its last pin first would be empty, and retired.
        """
        if runs is None:
            runs = self.runs_of(keys)
        self.validity.check_runs(keys, runs)
        ended = holder.remove_runs(keys, runs)
        for run in runs:
            self.reserved_sectors -= run.end - run.start
        return ended

    def drop_pins(self, ended: EndedPins) -> None:
        """Drop the pins of reservations that were ended; those of one bucket at once, in one run of them."""
        if not ended:
            return
        last, count = ended[0][0], 0
        for bucket_id, pins in ended:
            if bucket_id != last:
                self.pins.drop(last, count)
                last, count = bucket_id, 0
            count += pins
        self.pins.drop(last, count)

    def free_buckets(self, holder: Holder, key: Key) -> None:
        """End the reservation of whole buckets; NotReserved if any part was released or committed."""
        if key.sectors != self._geometry.bucket_sectors or not holder.covers(key):
            raise NotReserved(key)
        self.release(holder, [key])

    # Everything at once

    def end(self, holder: Holder) -> None:
        """End everything a holder has."""
        for _ in self.ending(holder):
            pass

    def ending(self, holder: Holder) -> Generator[None, None, None]:
        """End everything a holder has, which can be a great many buckets, in steps."""
        yield from self.readers.ending(holder)
        for number, bucket_id in enumerate(list(holder.pieces), 1):
            self._end_in(bucket_id, holder)
            if number % BUCKETS_A_SLICE == 0:
                yield

    def _end_in(self, bucket_id: BucketId, holder: Holder) -> None:
        pieces = holder.forget(bucket_id)
        self.reserved_sectors -= pieces.sectors
        self.pins.drop(bucket_id, len(pieces))

    # Broken connections

    def quarantine(self, holder: Holder) -> Generator[None, None, None]:
        """Quarantine the buckets of a holder whose writes may still be in flight, in steps.

        Reads that are still in flight do no harm, so its reader pins end.
        """
        yield from self.readers.ending(holder)
        for number, bucket_id in enumerate(list(holder.pieces), 1):
            self.pins.quarantined[bucket_id] += 1
            if self.pins.state_of(bucket_id) == State.HELD:
                self.pins.settle(bucket_id)
            if number % BUCKETS_A_SLICE == 0:
                yield

    def end_quarantine(self, holder: Holder) -> Generator[None, None, None]:
        """End everything a quarantined holder has, in steps: no write of it can be in flight any more."""
        for number, bucket_id in enumerate(list(holder.pieces), 1):
            assert self.pins.quarantined[bucket_id] > 0, (
                "a quarantined holder has a bucket that is not in quarantine"
            )
            self.pins.quarantined[bucket_id] -= 1
            if not self.pins.quarantined[bucket_id]:
                del self.pins.quarantined[bucket_id]
            self._end_in(bucket_id, holder)
            if self.pins.state_of(bucket_id) == State.QUARANTINE:  # held by others too
                self.pins.settle(bucket_id)
            if number % BUCKETS_A_SLICE == 0:
                yield
